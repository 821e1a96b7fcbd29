"""Boxes are read and mapped here: from a model's own coordinates to whole pixels of an original.

It refuses to know how a call is written, and what is in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias

from speceyes.protocols.calls import Unreadable, brief
from speceyes.protocols.resize import enlarge_box
from speceyes.types import Box, View

Corners: TypeAlias = tuple[float, ...]  # x1, y1, x2, y2
Extent: TypeAlias = tuple[float, float]  # how far x and y run, in the model's own units


@dataclass(frozen=True, slots=True)
class BoxLimits:
    """What a box must have to be shown; both hold in original pixels, where it is cut out."""

    min_side_px: int
    max_aspect: float


def read_corners(
    arguments: Mapping[str, Any], *, form: str, names: tuple[str, ...] = ("bbox_2d",)
) -> Corners:
    """Read the four numbers of a box, under the first of its names that is there.

    Raises: Unreadable, if they are not there, no numbers, or span no area.
    """
    found = next((arguments[name] for name in names if name in arguments), None)
    if found is None:
        raise Unreadable("missing_argument", f"bbox_2d is missing; write {form}")
    if not isinstance(found, list) or len(found) != 4 or not all(map(_is_finite, found)):
        raise Unreadable(
            "bad_argument", f"bbox_2d is {brief(found)}; it must be four numbers [x1, y1, x2, y2]"
        )
    x1, y1, x2, y2 = found
    if x1 >= x2 or y1 >= y2:
        raise Unreadable("bad_box", f"bbox_2d {brief(found)} must have x1 < x2 and y1 < y2")
    return (x1, y1, x2, y2)


def clip(corners: Corners, extent: Extent, *, image: str) -> tuple[Corners, bool]:
    """Clip a box to its image; say whether that changed it. `image` puts the extent in words.

    Raises: Unreadable if nothing of it is inside.
    """
    x1, y1, x2, y2 = corners
    width, height = extent
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise Unreadable("bad_box", f"bbox_2d {brief(list(corners))} is outside {image}")
    clipped = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
    return clipped, clipped != corners


def to_original(corners: Corners, extent: Extent, view: View, *, limits: BoxLimits) -> Box:
    """Map a box through the part of the original that the view shows, outwards to whole pixels.

    Invariants: the result is inside what the view shows, and keeps the limits as far as that goes.
    Raises: Unreadable if the view shows no part of an original.
    """
    whole = shown_part(view)
    box = enlarge_box(
        _outwards(corners, extent, whole),
        whole.size,
        min_side_px=limits.min_side_px,
        max_aspect=limits.max_aspect,
    )
    return Box(
        whole.left_px + box.left_px,
        whole.top_px + box.top_px,
        whole.left_px + box.right_px,
        whole.top_px + box.bottom_px,
        whole.picture_index,
    )


def count_originals(views: tuple[View, ...]) -> int:
    """Count the first views: one per original, in order, before those that tools brought."""
    # A later view at place n would have to show original n, of which there are fewer.
    firsts = takewhile(
        lambda seen: seen[1].box_px is not None and seen[0] == seen[1].box_px.picture_index,
        enumerate(views),
    )
    return sum(1 for _ in firsts)


def shown_part(view: View) -> Box:
    """Say which part of an original the view shows. Raises: Unreadable if code made the picture."""
    if view.box_px is None:
        raise Unreadable("bad_box", "that image was made by code; name a part of an original one")
    return view.box_px


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _outwards(corners: Corners, extent: Extent, whole: Box) -> Box:
    left_px, top_px = (
        min(math.floor(start * length_px / seen), length_px - 1)
        for start, seen, length_px in zip(corners[:2], extent, whole.size, strict=True)
    )
    right_px, bottom_px = (
        min(math.ceil(end * length_px / seen), length_px)
        for end, seen, length_px in zip(corners[2:], extent, whole.size, strict=True)
    )
    return Box(left_px, top_px, max(right_px, left_px + 1), max(bottom_px, top_px + 1))
