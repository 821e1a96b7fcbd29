"""What must hold of sizes, boxes and crops for any picture and any box whatever."""

import io
import json

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image as Pillow

from speceyes.pictures import DecodedPictures, encode_png
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.resize import enlarge_box, smart_resize
from speceyes.tools.zoom import ZoomTool
from speceyes.types import Box, Picture, ToolCall, View

RELEASE = DeepEyes()
SIDES = st.integers(1, 12_000)
FLOATS = st.floats(-1e6, 1e6)


@st.composite
def sizes(draw):
    size = draw(st.tuples(SIDES, SIDES))
    assume(max(size) <= 200 * min(size))
    return size


@st.composite
def boxes(draw, within):
    left, right = sorted(draw(st.tuples(*[st.integers(0, within[0])] * 2)))
    top, bottom = sorted(draw(st.tuples(*[st.integers(0, within[1])] * 2)))
    assume(left < right)
    assume(top < bottom)
    return Box(left, top, right, bottom)


@st.composite
def boxes_in_pictures(draw):
    size = draw(sizes())
    return size, draw(boxes(size))


def reply(corners):
    made = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": list(corners)}}
    return f"<tool_call>{json.dumps(made)}</tool_call>"


def seen(size, whole=None):
    return (View(Picture(b"seen", "image/png", *size), Box(0, 0, *(whole or size))),)


def is_inside(box, size):
    return 0 <= box.left_px < box.right_px <= size[0] and 0 <= box.top_px < box.bottom_px <= size[1]


@given(sizes())
def test_a_resized_picture_is_within_bounds_and_stays_as_it_is(size):
    width, height = resized = RELEASE.view_size(size)
    assert width % 28 == height % 28 == 0
    assert RELEASE.min_px <= width * height <= RELEASE.max_px
    assert max(resized) <= 200 * min(resized)
    assert RELEASE.view_size(resized) == resized


@given(sizes(), st.integers(1, 80), st.integers(1, 80))
def test_a_resized_picture_stays_as_it_is_between_any_two_areas(size, one, other):
    least, most = sorted((one, other))
    bounds = {"factor": 28, "min_px": 784 * least, "max_px": 784 * most}
    width, height = resized = smart_resize(size, **bounds)
    assert 784 * least <= width * height <= 784 * most
    assert smart_resize(resized, **bounds) == resized


@given(st.integers(1, 12_000), st.integers(1, 40))
def test_a_square_fills_an_area_that_is_a_square_of_multiples(side, cells):
    # Roots in floating point fall a multiple short, or run one over, at some exact squares.
    area, full = (28 * cells) ** 2, (28 * cells, 28 * cells)
    if side >= 28 * cells:
        assert smart_resize((side, side), factor=28, min_px=1, max_px=area) == full
    else:
        assert smart_resize((side, side), factor=28, min_px=area, max_px=10**9) == full


@given(sizes(), st.integers(1, 60))
def test_the_aspect_changes_no_more_than_rounding_must(size, factor):
    assume(max(size) <= 100 * min(size))  # what is thinner may be cut short: see the next test
    resized = smart_resize(size, factor=factor, min_px=1, max_px=10**9)
    for before, after in zip(size, resized, strict=True):
        assert abs(before - after) <= max(factor / 2, factor - before)


@given(sizes(), st.integers(1, 60))
def test_no_picture_is_made_too_thin_to_be_resized_again_or_larger_for_that(size, factor):
    resized = smart_resize(size, factor=factor, min_px=1, max_px=10**9)
    assert max(resized) <= 200 * min(resized)
    assert all(
        after <= max(before + factor / 2, factor)
        for before, after in zip(size, resized, strict=True)
    )


@given(boxes_in_pictures(), st.integers(1, 60), st.sampled_from([1.0, 7.5, 100.0]))
def test_an_enlarged_box_holds_the_box_is_inside_and_stays_as_it_is(case, min_side, max_aspect):
    size, box = case
    bounds = {"min_side_px": min_side, "max_aspect": max_aspect}
    grown = enlarge_box(box, size, **bounds)
    assert is_inside(grown, size)
    assert grown.left_px <= box.left_px
    assert grown.top_px <= box.top_px
    assert grown.right_px >= box.right_px
    assert grown.bottom_px >= box.bottom_px
    for side, limit in zip(grown.size, size, strict=True):
        assert side >= min(min_side, limit)
        assert side == limit or side * max_aspect >= max(box.size)
    assert enlarge_box(grown, size, **bounds) == grown


@given(boxes_in_pictures())
def test_a_large_enough_integral_box_comes_back_as_it_was(case):
    size, box = case
    assume(min(box.size) >= 28)
    assume(max(box.size) <= 100 * min(box.size))
    corners = (box.left_px, box.top_px, box.right_px, box.bottom_px)
    assert RELEASE.parse(reply(corners), seen(size)).arguments["box"] == box


@given(sizes(), sizes(), st.tuples(FLOATS, FLOATS, FLOATS, FLOATS))
def test_whatever_box_is_called_for_the_crop_is_inside_the_original(size, view_size, corners):
    read = RELEASE.parse(reply(corners), seen(view_size, size))
    x1, y1, x2, y2 = corners
    is_there = max(x1, 0) < min(x2, view_size[0]) and max(y1, 0) < min(y2, view_size[1])
    assert isinstance(read, ToolCall) == is_there
    if is_there:
        assert is_inside(read.arguments["box"], size)
        assert min(read.arguments["size"]) >= 28


@given(sizes(), st.data())
def test_the_crop_covers_what_the_model_pointed_at(size, data):
    view_size = RELEASE.view_size(size)
    box = data.draw(boxes(view_size))
    corners = (box.left_px, box.top_px, box.right_px, box.bottom_px)
    cut = RELEASE.parse(reply(corners), seen(view_size, size)).arguments["box"]
    for axis in (0, 1):
        start, end = ((cut.left_px, cut.right_px), (cut.top_px, cut.bottom_px))[axis]
        assert start * view_size[axis] <= corners[axis] * size[axis]
        assert end * view_size[axis] >= corners[axis + 2] * size[axis]


@given(boxes((48, 32)))
def test_zooming_twice_into_one_box_gives_the_same_pixels_of_the_original(box):
    drawn = np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    pixels = DecodedPictures((encode_png(Pillow.fromarray(drawn)),))
    crop = run_now(zoom(box, pixels)).pictures[0]
    expected = drawn[box.top_px : box.bottom_px, box.left_px : box.right_px]
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(crop.data))), expected)
    again = Box(0, 0, *crop.size)
    assert run_now(zoom(again, DecodedPictures((crop,)))).pictures[0] == crop


async def zoom(box, pixels):
    async with ZoomTool().open(pixels) as tool:
        return await tool.run(ToolCall("zoom", {"box": box}, ""))


def run_now(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")
