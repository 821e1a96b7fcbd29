"""A scene is a picture drawn from a seed: a few large and a few tiny coloured things.

Every thing has a colour no other thing in its scene has, a shape, and a dot on one of its sides.
Downsampling to the first view keeps the colour and place of every thing, and the shape and dot
of the large ones only; the tiny ones must be zoomed into. This file knows nothing of questions,
models or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw

Size = Literal["large", "tiny"]
Box = tuple[float, float, float, float]

SCENE_PX = 1344
VIEW_PX = 112
PX_PER_VIEW_PX = SCENE_PX // VIEW_PX

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (244, 132, 22),
    "yellow": (242, 205, 20),
    "green": (34, 148, 62),
    "cyan": (30, 188, 208),
    "blue": (36, 74, 206),
    "purple": (126, 48, 178),
    "pink": (240, 110, 176),
}
SHAPES = ("disc", "square", "triangle", "star", "ring", "cross")
SIDES = ("left", "right", "top", "bottom")
TONES = ("white", "black")

_SIDE_VECTOR = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "top": (0.0, -1.0), "bottom": (0.0, 1.0)}
# How far from the centre the dot sits, in radii, so that it lies on the shape.
_DOT_REACH = {
    "disc": 0.52,
    "square": 0.50,
    "triangle": 0.34,
    "star": 0.34,
    "ring": 0.72,
    "cross": 0.62,
}
_DOT_LOWERED = {"triangle": 0.16, "star": -0.06}
_DOT_RADIUS = 0.24
_TONE_RGB = {"white": (255, 255, 255), "black": (24, 22, 28)}
_TINY_RADIUS_PX = (17.0, 20.0)
_LARGE_RADIUS_PX = (133.0, 161.0)
_EDGE_PX = {"large": 12.0, "tiny": 60.0}
_SUPERSAMPLE = 2
_WHOLE = (0.0, 0.0, float(SCENE_PX), float(SCENE_PX))


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured thing; lengths in scene pixels, the centre from the top left."""

    colour: str
    shape: str
    side: str
    tone: str
    size: Size
    x_px: float
    y_px: float
    radius_px: float
    shade: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a background whose colour drifts from corner to corner."""

    things: tuple[Thing, ...]
    corners: tuple[tuple[int, int, int], ...]

    def find(self, colour: str) -> Thing | None:
        """Return the thing of this colour, or None when the scene has none."""
        return next((thing for thing in self.things if thing.colour == colour), None)


def draw_scene(rng: np.random.Generator, *, large: int, tiny: int) -> Scene:
    """Place `large` and `tiny` things at random, so that none touch and no colour repeats.

    Invariants: every thing lies wholly inside; a tiny thing keeps far enough from large ones
    that a tight crop shows it alone.
    """
    colours = [str(c) for c in rng.permutation(list(COLOURS))[: large + tiny]]
    while True:
        sizes: list[Size] = ["large" if i < large else "tiny" for i in range(large + tiny)]
        spots = _place(rng, sizes)
        if spots is not None:
            break
    things = tuple(
        Thing(
            colour=colour,
            shape=str(rng.choice(SHAPES)),
            side=str(rng.choice(SIDES)),
            tone=str(rng.choice(TONES)),
            size=size,
            x_px=x,
            y_px=y,
            radius_px=radius,
            shade=float(rng.uniform(0.9, 1.1)),
        )
        for colour, size, (x, y, radius) in zip(colours, sizes, spots, strict=True)
    )
    return Scene(things, _background_corners(rng))


def render(scene: Scene, *, px: int = SCENE_PX, window: Box = _WHOLE) -> PilImage:
    """Draw the part of the scene inside `window` (scene pixels, square) as px x px pixels."""
    from PIL import Image

    left, top, right, _ = window
    corners = Image.new("RGB", (2, 2))
    corners.putdata(scene.corners)
    left_at, top_at, right_at, bottom_at = (0.5 + edge / SCENE_PX for edge in window)
    canvas = corners.resize(
        (px, px), Image.Resampling.BILINEAR, box=(left_at, top_at, right_at, bottom_at)
    )
    for thing in scene.things:
        _paste(canvas, thing, scale=px / (right - left), origin=(left, top))
    return canvas


def _place(rng: np.random.Generator, sizes: list[Size]) -> list[tuple[float, float, float]] | None:
    spots: list[tuple[float, float, float]] = []
    for size in sizes:
        radius = float(rng.uniform(*(_LARGE_RADIUS_PX if size == "large" else _TINY_RADIUS_PX)))
        edge = radius * 1.1 + _EDGE_PX[size]
        for _ in range(60):
            x, y = (float(v) for v in rng.uniform(edge, SCENE_PX - edge, 2))
            if all(math.hypot(x - a, y - b) > _gap(radius, r) for a, b, r in spots):
                spots.append((x, y, radius))
                break
        else:
            return None
    return spots


def _gap(radius_px: float, other_px: float) -> float:
    both_large = min(radius_px, other_px) > _TINY_RADIUS_PX[1]
    both_tiny = max(radius_px, other_px) <= _TINY_RADIUS_PX[1]
    if both_tiny:
        return 250.0
    return 1.12 * (radius_px + other_px) + (10.0 if both_large else 60.0)


def _background_corners(rng: np.random.Generator) -> tuple[tuple[int, int, int], ...]:
    # Red falls to the right, blue falls downwards: the picture tells where on it one looks.
    anchors = ((250, 236, 244), (206, 232, 250), (252, 240, 196), (204, 236, 204))
    jitter = rng.integers(-5, 6, size=(4, 3))
    return tuple(
        (int(r + d[0]), int(g + d[1]), int(b + d[2]))
        for (r, g, b), d in zip(np.minimum(anchors, 250), jitter, strict=True)
    )


def _paste(canvas: PilImage, thing: Thing, *, scale: float, origin: tuple[float, float]) -> None:
    from PIL import Image
    from PIL.ImageDraw import Draw

    reach = thing.radius_px * 1.2 * scale
    x, y = (thing.x_px - origin[0]) * scale, (thing.y_px - origin[1]) * scale
    if max(x, y) > canvas.width + reach or min(x, y) < -reach:
        return
    x0, y0 = math.floor(x - reach), math.floor(y - reach)
    tile_px = math.ceil(2 * reach) + 2
    big = (tile_px * _SUPERSAMPLE, tile_px * _SUPERSAMPLE)
    colour = _shaded(COLOURS[thing.colour], thing.shade)
    paint, mask = Image.new("RGB", big, colour), Image.new("L", big, 0)
    centre = (
        (x - x0) * _SUPERSAMPLE,
        (y - y0) * _SUPERSAMPLE,
    )
    radius = thing.radius_px * scale * _SUPERSAMPLE
    _draw_shape(Draw(mask), thing.shape, centre=centre, radius=radius)
    _draw_dot(Draw(paint), thing, centre=centre, radius=radius)
    tile = (tile_px, tile_px)
    canvas.paste(paint.reduce(_SUPERSAMPLE), (x0, y0), mask.reduce(_SUPERSAMPLE).resize(tile))


def _shaded(rgb: tuple[int, int, int], shade: float) -> tuple[int, int, int]:
    red, green, blue = (min(255, round(v * shade)) for v in rgb)
    return red, green, blue


def _draw_dot(draw: ImageDraw, thing: Thing, *, centre: tuple[float, float], radius: float) -> None:
    dx, dy = _SIDE_VECTOR[thing.side]
    reach = _DOT_REACH[thing.shape] * radius
    lowered = _DOT_LOWERED.get(thing.shape, 0.0) * radius
    x, y = centre[0] + dx * reach, centre[1] + dy * reach + lowered
    r = _DOT_RADIUS * radius
    draw.ellipse((x - r, y - r, x + r, y + r), fill=_TONE_RGB[thing.tone])


def _draw_shape(draw: ImageDraw, shape: str, *, centre: tuple[float, float], radius: float) -> None:
    x, y = centre
    if shape in ("disc", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = 0.46 * radius
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    points = [(x + radius * a, y + radius * b) for a, b in _OUTLINES[shape]]
    draw.polygon(points, fill=255)


def _star() -> tuple[tuple[float, float], ...]:
    return tuple(
        (
            math.sin(math.pi * i / 5) * (1.12 if i % 2 == 0 else 0.52),
            -math.cos(math.pi * i / 5) * (1.12 if i % 2 == 0 else 0.52),
        )
        for i in range(10)
    )


_ARM = 0.36
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    "triangle": ((0.0, -1.05), (1.08, 0.86), (-1.08, 0.86)),
    "star": _star(),
    "cross": (
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ),
}  # fmt: skip
