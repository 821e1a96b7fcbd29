"""A small model that is not sure may look closer: it says where, sees that part, and answers again.

It refuses to know engines, gates and how often this is done. All of it goes on from the question
as it was first asked, so that its prefill is not done twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from speceyes.protocols.boxes import BoxLimits, clip, read_corners, to_original
from speceyes.protocols.calls import Unreadable
from speceyes.protocols.resize import smart_resize
from speceyes.protocols.turns import add_turn
from speceyes.types import Box, Conversation, Image, Picture, Size, Text, View

_FORM: Final = "[x1, y1, x2, y2]"
_WHERE: Final = (
    "Look closer first. Which part of the first picture must be enlarged to be sure? "
    f"Say only its box: {_FORM}"
)
_SHOWN: Final = "\nThis is that part, enlarged. {instruction}"
_NUMBERS: Final = re.compile(r"-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closer:
    """Have a small model look closer, in its own coordinates.

    `extent` is how far its coordinates run along a side: 1000 for Qwen3-VL; None: they are pixels
    of the first view, as for Qwen2.5-VL. Units: `min_px` and `max_px` are areas of what the model
    sees of a part; `min_side_px` is in original pixels.
    """

    extent: int | None = 1000
    min_px: int = 256 * 32 * 32
    max_px: int = 1024 * 32 * 32
    factor: int = 32
    min_side_px: int = 32
    max_aspect: float = 100.0
    max_tokens: int = 48

    def ask_where(self, conversation: Conversation, answer: str) -> Conversation:
        """Add an answer that was not sure enough, and ask where to look."""
        return add_turn(conversation, answer, (Text(_WHERE),))

    def read_where(self, reply: str, view: View) -> Box | None:
        """Read where to look, as a box of the original that the view shows; None: it says nowhere.

        >>> picture = Picture(b"any", "image/png", 100, 100)
        >>> Closer(min_side_px=1).read_where("[0, 0, 500, 250]", View(picture, Box(0, 0, 400, 400)))
        Box(left_px=0, top_px=0, right_px=200, bottom_px=100, picture_index=0)
        """
        numbers = _NUMBERS.search(reply)
        seen = view.picture.size if self.extent is None else (self.extent, self.extent)
        try:
            corners = [float(number) for number in numbers[0].split(",")] if numbers else None
            found = read_corners({"bbox_2d": corners}, form=_FORM)
            inside, _ = clip(found, seen, image="the picture")
            limits = BoxLimits(self.min_side_px, self.max_aspect)
            return to_original(inside, seen, view, limits=limits)
        except Unreadable:
            return None

    def view_size(self, size: Size) -> Size:
        """Give the size at which the model sees a part of this size."""
        return smart_resize(size, factor=self.factor, min_px=self.min_px, max_px=self.max_px)

    def show(
        self, conversation: Conversation, said: str, *, part: Picture, instruction: str
    ) -> Conversation:
        """Add where it wanted to look and what is there, and ask again."""
        told = Text(_SHOWN.format(instruction=instruction))
        return add_turn(conversation, said, (Image(part), told))
