"""Where the built-in agent zooms: boxes in view pixels, on a coarse grid.

This file knows the geometry of the first view only; no pictures, no words.
"""

from __future__ import annotations

from speceyes.builtin.scenes import PX_PER_VIEW_PX, VIEW_PX, Size

GRID_PX = 4
ZOOM_PX: dict[Size, int] = {"tiny": 14, "large": 48}
ViewBox = tuple[int, int, int, int]
WHOLE_VIEW: ViewBox = (0, 0, VIEW_PX, VIEW_PX)


def grid_point(x_px: float, y_px: float) -> tuple[int, int]:
    """Round a place in the scene to the grid of the first view, in view pixels.

    Range: 8 to 104, so that a tiny thing's box stays inside the view.
    """
    return _round(x_px), _round(y_px)


def zoom_box(size: Size, point: tuple[int, int]) -> ViewBox:
    """Return the square around a grid point that shows a thing of this size well."""
    side = ZOOM_PX[size]
    left, top = (min(max(v - side // 2, 0), VIEW_PX - side) for v in point)
    return left, top, left + side, top + side


def _round(scene_px: float) -> int:
    steps = round(scene_px / PX_PER_VIEW_PX / GRID_PX)
    return min(max(steps * GRID_PX, 8), VIEW_PX - 8)
