"""The built-in suite: any number of questions about scenes, drawn from a seed.

Three splits after the benchmarks (attribute, position, existence) take turns. Training,
calibration and test draw from streams of random numbers that cannot meet, whatever the seed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np

from speceyes.bench.items import Item
from speceyes.builtin.questions import SPLITS, Asked, Split, ask
from speceyes.builtin.scenes import SCENE_PX, Scene, draw_scene, render
from speceyes.types import Box, Picture, Query

Stream: TypeAlias = Literal["train", "calibration", "test"]
_STREAM_CODE: dict[Stream, int] = {"train": 1, "calibration": 2, "test": 3}


def draw_items(count: int, *, seed: int, stream: Stream = "test") -> Iterator[Item]:
    """Draw the first `count` items of a seed's stream, one after the other."""
    for index in range(count):
        yield draw_item(index, seed=seed, stream=stream)


def draw_item(index: int, *, seed: int, stream: Stream = "test") -> Item:
    """Draw one item; it depends on nothing but its index, seed and stream."""
    scene, asked, split = _sketch(index, seed=seed, stream=stream)
    item_id = f"builtin-{stream}-{seed}-{split}-{index}"
    query = Query(asked.question, (picture_of(scene),), asked.options, query_id=item_id)
    boxes = tuple(
        Box(
            int(t.x_px - t.radius_px),
            int(t.y_px - t.radius_px),
            int(t.x_px + t.radius_px) + 1,
            int(t.y_px + t.radius_px) + 1,
        )
        for t in asked.targets
    )
    return Item(item_id, split, query, asked.answer, asked.is_hard, asked.kind, boxes)


def picture_of(scene: Scene) -> Picture:
    """Render a scene at its full size and encode it without loss."""
    buffer = io.BytesIO()
    render(scene).save(buffer, format="PNG", compress_level=1)
    return Picture(buffer.getvalue(), "image/png", SCENE_PX, SCENE_PX)


def _sketch(index: int, *, seed: int, stream: Stream) -> tuple[Scene, Asked, Split]:
    rng = np.random.default_rng(np.random.SeedSequence((_STREAM_CODE[stream], seed, index)))
    scene = draw_scene(rng, large=int(rng.integers(2, 4)), tiny=int(rng.integers(2, 4)))
    split = SPLITS[index % len(SPLITS)]
    return scene, ask(rng, scene, split), split
