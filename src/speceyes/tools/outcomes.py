"""What a process behind the walls says came of a block is read here, and trusted in nothing (pure).

It refuses to know files and formats: pictures are plain pixels, whose count must fit their size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from speceyes.tools.inside.frames import FrameError
from speceyes.tools.inside.repairs import REPAIRS
from speceyes.tools.inside.showing import MAX_ASPECT
from speceyes.tools.limits import SandboxLimits
from speceyes.types import Size

_BYTES_PER_CHAR: Final = 4  # of UTF-8, at most
_SPARE_CHARS: Final = 4_096  # for an error, and for the note on what was cut


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a block; each picture is its size and its pixels, 8-bit RGB, row after row."""

    text: str
    error: str | None
    pictures: tuple[tuple[Size, bytes], ...]
    repairs: tuple[str, ...]


def max_body_bytes(limits: SandboxLimits) -> int:
    """Say how long a message may be."""
    return 2 * _max_words_bytes(limits) + 3 * limits.picture_px


def read_result(head: dict[str, Any], body: bytes, limits: SandboxLimits) -> Result:
    """Read a message. Raises: FrameError if anything in it is not as agreed."""
    most = _max_words_bytes(limits)
    text_bytes = _count(head.get("text"), most)
    told = head.get("error")
    error_bytes = 0 if told is None else _count(told, most)
    sizes = _sizes(head.get("pictures"), limits)
    if len(body) != text_bytes + error_bytes + sum(3 * w * h for w, h in sizes):
        raise FrameError("the body is not as long as its head says")
    start = text_bytes + error_bytes
    pictures = []
    for width_px, height_px in sizes:
        end = start + 3 * width_px * height_px
        pictures.append(((width_px, height_px), body[start:end]))
        start = end
    words = body[text_bytes : text_bytes + error_bytes]
    return Result(
        text=body[:text_bytes].decode("utf-8", "replace"),
        error=None if told is None else words.decode("utf-8", "replace"),
        pictures=tuple(pictures),
        repairs=_repairs(head.get("repairs")),
    )


def _max_words_bytes(limits: SandboxLimits) -> int:
    return _BYTES_PER_CHAR * (limits.text_chars + _SPARE_CHARS)


def _count(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise FrameError("a length is none")
    return value


def _sizes(value: object, limits: SandboxLimits) -> list[Size]:
    if not isinstance(value, list) or len(value) > limits.pictures:
        raise FrameError("the pictures are none, or too many")
    sizes, room_px = [], limits.picture_px
    for size in value:
        if not isinstance(size, list) or len(size) != 2:
            raise FrameError("a size is none")
        width_px, height_px = (_count(side, limits.picture_px) for side in size)
        room_px -= width_px * height_px
        is_thin = max(width_px, height_px) > MAX_ASPECT * min(width_px, height_px)
        if min(width_px, height_px) < 1 or is_thin or room_px < 0:
            raise FrameError("a size is not allowed")
        sizes.append((width_px, height_px))
    return sizes


def _repairs(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > len(REPAIRS):
        raise FrameError("the repairs are none")
    if any(name not in REPAIRS for name in value if isinstance(name, str)):
        raise FrameError("a repair is unknown")
    if not all(isinstance(name, str) for name in value):
        raise FrameError("a repair has no name")
    return tuple(value)
