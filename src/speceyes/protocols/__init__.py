"""One file per family of agentic models: how it calls its tools and how it is answered.

A new protocol is one file here and one entry in `PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from speceyes.errors import ConfigError
from speceyes.protocols.chain_of_focus import ChainOfFocus
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.deepeyes_v2 import DeepEyesV2
from speceyes.protocols.mini_o3 import MiniO3
from speceyes.protocols.pixel_reasoner import PixelReasoner
from speceyes.protocols.pyvision import PyVision
from speceyes.protocols.qwen3_5 import Qwen35
from speceyes.protocols.qwen3_vl import Qwen3VL
from speceyes.protocols.thyme import Thyme
from speceyes.types import ToolProtocol

# By the name in settings; all take a `system_prompt` and a `user_prompt`, and check them,
# and `min_px` and `max_px`.
PROTOCOLS: Final[Mapping[str, Callable[..., ToolProtocol]]] = {
    "deepeyes": DeepEyes,
    "chain-of-focus": ChainOfFocus,
    "qwen3-vl": Qwen3VL,
    "qwen3.5": Qwen35,
    "mini-o3": MiniO3,
    "pixel-reasoner": PixelReasoner,
    "thyme": Thyme,
    "deepeyes-v2": DeepEyesV2,
    "pyvision": PyVision,
}


def make_protocol(
    name: str,
    *,
    system_prompt: str | None = None,
    user_prompt: str | None = None,
    min_view_px: int | None = None,
    max_view_px: int | None = None,
) -> ToolProtocol:
    """Make the protocol of that name, in its own words and bounds or in those given.

    A `user_prompt` holds `{question}`, and may hold `{options}`; what follows the last of them is
    said again after each observation, where the protocol does so. The bounds are areas of what the
    model sees, for a server that holds it to others than its release.
    Raises: ConfigError naming the field: an unknown name, a prompt that cannot be filled in.
    """
    if name not in PROTOCOLS:
        raise ConfigError("protocol", f"{name!r} is unknown; choose from {', '.join(PROTOCOLS)}")
    bounds = {"min_px": min_view_px, "max_px": max_view_px}
    given = {key: px for key, px in bounds.items() if px is not None}
    return PROTOCOLS[name](system_prompt=system_prompt, user_prompt=user_prompt, **given)
