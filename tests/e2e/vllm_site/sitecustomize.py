"""Python runs this as a process of vLLM starts: what it lacks on a machine without a GPU.

torchvision imports beside a CPU torch. Its wheel registers fake kernels for its CUDA operators,
which a CPU torch does not know; they are skipped, for only transforms in Python are used there.

The process that runs the model, the one that vLLM spawns, stays on the core it is given, so that
two servers do not work on the same one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch.library

_register_fake = torch.library.register_fake


def register_fake(op: Any, *args: Any, **more: Any) -> Callable[..., Any]:
    """Register a fake kernel, unless it is one of torchvision's."""
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    registered: Callable[..., Any] = _register_fake(op, *args, **more)
    return registered


torch.library.register_fake = register_fake
if "--multiprocessing-fork" in sys.orig_argv:  # spawned, and by nobody else
    os.sched_setaffinity(0, {int(os.environ["MODEL_CORE"])})
