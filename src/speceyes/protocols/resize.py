"""Sizes and boxes are settled here, the way Qwen's vision models want them.

It refuses to know pixels: integers in, integers out.
"""

from __future__ import annotations

from math import isqrt, log
from typing import Final

from speceyes.errors import PictureShapeError
from speceyes.types import Box, Size

_MAX_ASPECT: Final = 200


def smart_resize(size: Size, *, factor: int, min_px: int, max_px: int) -> Size:
    """Find the size nearest in aspect whose sides are multiples of `factor`, within two areas.

    Sides are rounded to the nearest multiple; above `max_px` both shrink by one ratio and are
    rounded down, below `min_px` both grow by one ratio and are rounded up, no side below `factor`.
    A thin picture is never made thinner than 200 to 1. Where the areas are so close that all this
    ends outside them, the size within that is nearest in aspect is taken; the source stays outside.
    Invariants: exact, whole numbers only; a size that is within both comes back unchanged, so the
    engine's own resize keeps its hands off the view, and coordinates stay what they were.
    Source: the smart-resize of Qwen2-VL and later.
    Raises: PictureShapeError if one side is over 200 times the other.

    >>> smart_resize((672, 672), factor=28, min_px=12544, max_px=12544)
    (112, 112)
    """
    width_px, height_px = size
    if max(size) > _MAX_ASPECT * min(size):
        raise PictureShapeError(
            "picture", f"{width_px}x{height_px}: one side is over {_MAX_ASPECT} times the other"
        )
    columns, rows = (max(1, round(side_px / factor)) for side_px in size)
    cell_px = factor * factor
    if columns * rows * cell_px > max_px:
        columns = max(1, isqrt(width_px * max_px // (height_px * cell_px)))
        rows = max(1, isqrt(height_px * max_px // (width_px * cell_px)))
    elif columns * rows * cell_px < min_px:
        columns = _ceil_sqrt(width_px * min_px, height_px * cell_px)
        rows = _ceil_sqrt(height_px * min_px, width_px * cell_px)
    # Rounding may make a thin picture thinner still than what the next resize accepts.
    columns, rows = min(columns, _MAX_ASPECT * rows), min(rows, _MAX_ASPECT * columns)
    least, most = -(-min_px // cell_px), max_px // cell_px
    if not least <= columns * rows <= most:
        columns, rows = _nearest_aspect(size, least, most) or (columns, rows)
    return (columns * factor, rows * factor)


def _nearest_aspect(size: Size, least: int, most: int) -> Size | None:
    """Find the grid of `least` to `most` cells whose aspect is nearest; None if there is none."""
    width_px, height_px = size
    grids = []
    for columns in range(1, isqrt(_MAX_ASPECT * most) + 1):
        fewest = max(-(-least // columns), -(-columns // _MAX_ASPECT))
        furthest = min(most // columns, columns * _MAX_ASPECT)
        if fewest <= furthest:
            rows = round(columns * height_px / width_px)
            grids.append((columns, min(max(rows, fewest), furthest)))
    return min(
        grids,
        key=lambda grid: abs(log(grid[0] * height_px / (grid[1] * width_px))),
        default=None,
    )


def enlarge_box(box: Box, within: Size, *, min_side_px: int, max_aspect: float) -> Box:
    """Grow the sides that are too short about the box's centre, as far as the picture goes.

    Invariants: the result holds the box and is inside the picture; a second time changes nothing.
    Source: DeepEyes enlarges a box with a side below 28 px, and refuses aspects above 100. It
    scales both sides alike; here only the short one grows, and no box need be refused.
    """
    width_px, height_px = (max(side_px, min_side_px) for side_px in box.size)
    wide_px = max(width_px, int(-(-height_px // max_aspect)))
    high_px = max(height_px, int(-(-width_px // max_aspect)))
    left_px, right_px = _grow((box.left_px, box.right_px), wide_px, within[0])
    top_px, bottom_px = _grow((box.top_px, box.bottom_px), high_px, within[1])
    return Box(left_px, top_px, right_px, bottom_px, box.picture_index)


def _grow(span_px: tuple[int, int], length_px: int, limit_px: int) -> tuple[int, int]:
    start_px, end_px = span_px
    length_px = min(length_px, limit_px)
    spare_px = length_px - (end_px - start_px)
    start_px = max(0, min(start_px - spare_px // 2, limit_px - length_px))
    return start_px, start_px + length_px


def _ceil_sqrt(numerator: int, denominator: int) -> int:
    """Give the least n whose square is at least numerator / denominator (> 0)."""
    return isqrt((numerator - 1) // denominator) + 1
