"""Python runs this as a process of vLLM starts: what two servers on two cores need that it lacks.

torchvision imports beside a CPU torch. Its wheel registers fake kernels for its CUDA operators,
which a CPU torch does not know; they are skipped, for only transforms in Python are used there.

Processes that wait for each other sleep between two looks. vLLM's look without pause, which takes
a core for waiting: here that of the other server. (To let them wait for its own notice at once, by
a `busy_loop_s` of 0, is no way: some notices get lost, and a call stands still for five seconds.)
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch.library

MESSAGES = "vllm.distributed.device_communicators.shm_broadcast"
BETWEEN_LOOKS_S = 2e-4  # a hundredth of what a step of a model takes

_register_fake = torch.library.register_fake


def register_fake(op: Any, *args: Any, **more: Any) -> Callable[..., Any]:
    """Register a fake kernel, unless it is one of torchvision's."""
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    registered: Callable[..., Any] = _register_fake(op, *args, **more)
    return registered


class Pauses(MetaPathFinder):
    """Finds vLLM's messages as Python would, and makes them sleep where they only let others go."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Give the module's own spec, with a loader that changes this once the module has run."""
        if name != MESSAGES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if not hasattr(module, "sched_yield"):
                raise ImportError(f"{MESSAGES} waits in another way than it did: it takes a core")
            module.sched_yield = lambda: time.sleep(BETWEEN_LOOKS_S)  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


torch.library.register_fake = register_fake
sys.meta_path.insert(0, Pauses())
