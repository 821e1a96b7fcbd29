"""These settings say how a server is spoken to: how long, how often, in which form.

It refuses to know addresses, keys and models. It loads no package, so that settings can be read
where no server is ever called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from speceyes.errors import ConfigError

ImageFormat: TypeAlias = Literal["png", "jpeg"]
ToolChoice: TypeAlias = Literal["auto", "none"]
ImageReuse: TypeAlias = Literal["auto", "never"]

_TIMES: Final = ("connect_timeout_s", "first_byte_timeout_s", "total_timeout_s")
_COUNTS: Final = ("max_attempts", "max_connections", "max_shelf_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Say how a server is spoken to.

    `first_byte_timeout_s` holds for streams; without streaming the first byte comes with the last
    one, and `total_timeout_s` alone holds. Attempts are repeated only for what can pass (see
    `retry`), and none starts later than `retry_deadline_s` after the first. `image_format` is for
    pictures that cannot go as the bytes they came in. `least_top_logprobs`: content with so few
    candidates where the server refuses more; None takes no fewer than asked for. `tool_choice`
    "auto" lets a server read tool calls itself, and becomes "none" where one refuses; "none" asks
    for the raw text at once, which vLLM gives with the tools still in the prompt (SGLang drops
    them). `image_reuse` "auto" sends a picture once to a server that says it is vLLM, and then its
    name (`uuid`): it is neither sent nor decoded again while the server keeps it; "never" sends
    every picture with every call. Raises: ConfigError naming the field.
    """

    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 60.0
    total_timeout_s: float = 600.0
    max_attempts: int = 3
    retry_deadline_s: float = 30.0
    backoff_s: float = 0.25
    max_connections: int = 512
    image_format: ImageFormat = "png"
    image_reuse: ImageReuse = "auto"
    least_top_logprobs: int | None = None
    stream: bool = True
    tool_choice: ToolChoice = "auto"
    max_shelf_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in _TIMES:
            value: float = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ConfigError(f"http.{name}", f"{value} is not a number of seconds above 0")
        for name in ("retry_deadline_s", "backoff_s"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"http.{name}", f"{value} is not a number of seconds")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"http.{name}", f"{getattr(self, name)} is below 1")
        if self.least_top_logprobs is not None and self.least_top_logprobs < 1:
            raise ConfigError("http.least_top_logprobs", f"{self.least_top_logprobs} is below 1")
        _check_choice("image_format", self.image_format, get_args(ImageFormat))
        _check_choice("image_reuse", self.image_reuse, get_args(ImageReuse))
        _check_choice("tool_choice", self.tool_choice, get_args(ToolChoice))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"http.{name}", f"{value!r} is unknown; choose from {', '.join(choices)}")


DEFAULT_HTTP: Final = HttpSettings()
