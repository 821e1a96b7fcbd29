"""Scenes: drawn from a seed, nothing touches, colours are unique, the picture shows them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from speceyes.builtin.scenes import COLOURS, SCENE_PX, VIEW_PX, Scene, draw_scene, render
from speceyes.builtin.zones import GRID_PX, grid_point, zoom_box


def scenes(count: int = 40) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [draw_scene(rng, large=2 + i % 2, tiny=2 + i % 2) for i in range(count)]


def test_the_same_seed_draws_the_same_scene_and_the_same_pixels() -> None:
    one, two = (draw_scene(np.random.default_rng(8), large=2, tiny=2) for _ in range(2))
    assert one == two
    assert np.array_equal(np.asarray(render(one, px=224)), np.asarray(render(two, px=224)))
    assert one != draw_scene(np.random.default_rng(9), large=2, tiny=2)


def test_things_keep_apart_and_inside_and_share_no_colour() -> None:
    for scene in scenes():
        assert len({thing.colour for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            assert thing.radius_px < thing.x_px < SCENE_PX - thing.radius_px
            assert thing.radius_px < thing.y_px < SCENE_PX - thing.radius_px
        for a, b in itertools.combinations(scene.things, 2):
            assert math.hypot(a.x_px - b.x_px, a.y_px - b.y_px) > a.radius_px + b.radius_px


def test_large_things_are_read_in_the_first_view_and_tiny_ones_are_four_pixels_at_most() -> None:
    for scene in scenes():
        for thing in scene.things:
            across_px = 2 * thing.radius_px * VIEW_PX / SCENE_PX
            assert across_px > 20 if thing.size == "large" else across_px < 4


def test_each_thing_shows_its_colour_at_its_place() -> None:
    for scene in scenes(10):
        pixels = np.asarray(render(scene)).astype(int)
        for thing in scene.things:
            r = int(thing.radius_px)
            x, y = int(thing.x_px), int(thing.y_px)
            around = pixels[y - r : y + r, x - r : x + r].reshape(-1, 3)
            wanted = np.array(COLOURS[thing.colour]) * thing.shade
            distance = np.abs(around - np.minimum(wanted, 255)).max(axis=1)
            assert (distance <= 3).mean() > 0.2, thing


def test_a_window_shows_what_the_whole_picture_shows_there() -> None:
    scene = scenes(1)[0]
    whole = np.asarray(render(scene)).astype(int)
    window = np.asarray(render(scene, px=336, window=(336.0, 672.0, 672.0, 1008.0))).astype(int)
    assert np.abs(whole[672:1008, 336:672] - window).mean() < 1.0


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_zoom_boxes_lie_in_the_view_and_hold_their_thing(size: str) -> None:
    for scene in scenes():
        for thing in (t for t in scene.things if t.size == size):
            point = grid_point(thing.x_px, thing.y_px)
            left, top, right, bottom = zoom_box(thing.size, point)
            assert 0 <= left < right <= VIEW_PX
            assert 0 <= top < bottom <= VIEW_PX
            scale = SCENE_PX / VIEW_PX
            assert left * scale < thing.x_px - thing.radius_px * 0.9
            assert thing.x_px + thing.radius_px * 0.9 < right * scale
            assert top * scale < thing.y_px - thing.radius_px * 0.9
            assert thing.y_px + thing.radius_px * 0.9 < bottom * scale
            assert all(v % GRID_PX == 0 for v in point)
