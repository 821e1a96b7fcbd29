"""Python runs this as vLLM's server starts: it lets torchvision import beside a CPU torch.

torchvision's wheel registers fake kernels for its CUDA operators, which a CPU torch does not know.
They are skipped: of torchvision only transforms written in Python are used there.
"""

from __future__ import annotations

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
