"""The pool: many scenes drawn once, each with its first view and the crops an agent would take.

Scenes come from the training stream of seeds only (see `speceyes.builtin.suite`).
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speceyes.builtin.scenes import PX_PER_VIEW_PX, VIEW_PX, Scene, Thing, draw_scene, render
from speceyes.builtin.zones import GRID_PX, ViewBox, grid_point, zoom_box

TRAIN_STREAM = 1
CROPS = 4  # of two tiny and two large things of each scene
POOL_SIZE = 30_000


@dataclass(frozen=True, slots=True)
class Pool:
    """Scenes with their pictures; `crop_things[i][j]` is the thing that crop j of scene i is of.

    Shapes: views (N, 112, 112, 3) uint8; crops (N, 4, 112, 112, 3) uint8; boxes in view pixels.
    """

    scenes: list[Scene]
    crop_things: list[tuple[Thing, ...]]
    crop_boxes: list[tuple[ViewBox, ...]]
    views: npt.NDArray[np.uint8]
    crops: npt.NDArray[np.uint8]


def draw_pool(seed: int, size: int, folder: Path) -> None:
    """Draw `size` scenes of one shard and write them to `folder`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(np.random.SeedSequence((TRAIN_STREAM, seed)))
    views = np.empty((size, VIEW_PX, VIEW_PX, 3), np.uint8)
    crops = np.empty((size, CROPS, VIEW_PX, VIEW_PX, 3), np.uint8)
    scenes, things, boxes = [], [], []
    view = (VIEW_PX, VIEW_PX)
    for i in range(size):
        scene = draw_scene(rng, large=int(rng.integers(2, 5)), tiny=int(rng.integers(2, 4)))
        tiny = [t for t in scene.things if t.size == "tiny"][:2]
        large = [t for t in scene.things if t.size == "large"][:2]
        chosen = tuple(tiny + large)
        zooms = tuple(_near_box(rng, t) for t in chosen)
        picture = render(scene, px=4 * VIEW_PX)
        views[i] = np.asarray(picture.resize(view, Image.Resampling.BICUBIC))
        for j, (thing, box) in enumerate(zip(chosen, zooms, strict=True)):
            window = tuple(float(v * PX_PER_VIEW_PX) for v in box)
            crop = render(scene, px=168 if thing.size == "tiny" else 224, window=window)
            crops[i, j] = np.asarray(crop.resize(view, Image.Resampling.BICUBIC))
        scenes.append(scene)
        things.append(chosen)
        boxes.append(zooms)
    np.save(folder / f"views-{seed}.npy", views)
    np.save(folder / f"crops-{seed}.npy", crops)
    with (folder / f"scenes-{seed}.pkl").open("wb") as file:
        pickle.dump((scenes, things, boxes), file)


def load_pool(folder: Path, seeds: list[int]) -> Pool:
    """Read shards written by `draw_pool` as one pool."""
    scenes: list[Scene] = []
    things: list[tuple[Thing, ...]] = []
    boxes: list[tuple[ViewBox, ...]] = []
    for seed in seeds:
        with (folder / f"scenes-{seed}.pkl").open("rb") as file:
            shard = pickle.load(file)  # noqa: S301  # our own file, written a moment ago
        scenes += shard[0]
        things += shard[1]
        boxes += shard[2]
    views = np.concatenate([np.load(folder / f"views-{s}.npy", mmap_mode="r") for s in seeds])
    crops = np.concatenate([np.load(folder / f"crops-{s}.npy", mmap_mode="r") for s in seeds])
    return Pool(scenes, things, boxes, views, crops)


def _near_box(rng: np.random.Generator, thing: Thing) -> ViewBox:
    # The agent will miss by a step now and then; a crop that is a little off must still be read.
    x, y = grid_point(thing.x_px, thing.y_px)
    if rng.random() < 0.35:
        step = rng.integers(-1, 2, size=2) * GRID_PX
        x, y = (int(min(max(v + d, 8), VIEW_PX - 8)) for v, d in zip((x, y), step, strict=True))
    return zoom_box(thing.size, (x, y))


def main() -> None:
    """Draw one shard of the pool."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--size", type=int, default=POOL_SIZE // 6)
    parser.add_argument("--out", type=Path, default=Path("training/runs/pool"))
    arguments = parser.parse_args()
    draw_pool(arguments.seed, arguments.size, arguments.out)


if __name__ == "__main__":
    main()
