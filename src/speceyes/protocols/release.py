"""What a release of a Qwen-VL agent settles stands here: how large it sees, how long, which words.

It refuses to know how any of them calls its tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from speceyes.protocols.openings import check_user_prompt
from speceyes.protocols.resize import smart_resize
from speceyes.types import Budget, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The settings that all protocols share; each gives its own `budget`, `name` and `stop`.

    Units: `min_px` and `max_px` are areas of what the model sees, in multiples of `factor` a side.
    `system_prompt` and `user_prompt` None: our own words.
    Raises: ConfigError if the user prompt cannot be filled in.
    """

    name: ClassVar[str]  # in settings and records
    stop: ClassVar[tuple[str, ...]]  # strings that end a turn
    placeholders: ClassVar[
        tuple[str, ...]
    ] = ()  # of a user prompt, beside the question and the options

    min_px: int = 4 * 28 * 28
    max_px: int = 16384 * 28 * 28
    factor: int = 28
    budget: Budget
    system_prompt: str | None = None
    user_prompt: str | None = None

    def __post_init__(self) -> None:
        check_user_prompt(self.user_prompt, more=self.placeholders)

    @property
    def tools(self) -> tuple[str, ...]:
        """None for the chat template: the opening words them itself."""
        return ()

    def view_size(self, size: Size) -> Size:
        """Give the size at which the model sees a picture of this size."""
        return smart_resize(size, factor=self.factor, min_px=self.min_px, max_px=self.max_px)
