"""The zoom tool: crops come from the originals, and what cannot be cut is told, not raised."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from speceyes.errors import PictureTruncated, ToolError
from speceyes.pictures import DecodedPictures, open_picture
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.tools.zoom import ZoomTool
from speceyes.types import Box, Picture, ToolCall, View

pytestmark = pytest.mark.anyio

ZOOM = ZoomTool()


def scene(width_px=640, height_px=480, seed=0):
    """Give random pixels, which only a crop from the original can match, and their picture."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(drawn).save(buffer, format="PNG")
    return drawn, open_picture(buffer.getvalue())


def call(**arguments):
    return ToolCall("image_zoom_in_tool", arguments, "raw")


async def zoom(made, pixels):
    async with ZOOM.open(pixels) as tool:
        return await tool.run(made)


def pixels_of(picture):
    return np.asarray(Pillow.open(io.BytesIO(picture.data)))


async def test_the_crop_has_the_very_pixels_of_the_original():
    drawn, picture = scene()
    seen = await zoom(call(box=Box(50, 60, 150, 130)), DecodedPictures((picture,)))
    assert seen.error is None
    assert seen.boxes_px == (Box(50, 60, 150, 130),)
    assert np.array_equal(pixels_of(seen.pictures[0]), drawn[60:130, 50:150])


async def test_a_view_of_few_pixels_costs_the_crop_none_of_its_own():
    # The way from a reply to the crop: the model saw 112x84, the crop is cut from 640x480.
    drawn, picture = scene()
    protocol = DeepEyes(max_px=112 * 84)
    pixels = DecodedPictures((picture,))
    whole = Box(0, 0, 640, 480)
    view = View(pixels.cut(whole, protocol.view_size(picture.size)), whole)
    assert view.picture.size == (112, 84)
    reply = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [42, 42, 56, 56]}}'
    made = protocol.parse(reply, (view,))
    seen = await zoom(made, pixels)
    assert made.arguments["size"] == seen.pictures[0].size == (84, 84)
    raw = await zoom(call(box=made.arguments["box"]), pixels)
    assert np.array_equal(pixels_of(raw.pictures[0]), drawn[240:320, 240:320])


async def test_the_crop_comes_at_the_size_asked_for():
    _, picture = scene()
    asked = call(box=Box(50, 60, 150, 130), size=(112, 84))
    seen = await zoom(asked, DecodedPictures((picture,)))
    assert seen.pictures[0].size == (112, 84)


async def test_each_picture_of_a_query_can_be_cut():
    pictures = [scene(seed=seed) for seed in (1, 2)]
    pixels = DecodedPictures(tuple(picture for _, picture in pictures))
    seen = await zoom(call(box=Box(0, 0, 30, 30, 1)), pixels)
    assert np.array_equal(pixels_of(seen.pictures[0]), pictures[1][0][:30, :30])


@pytest.mark.parametrize(
    "box",
    [Box(600, 0, 700, 50), Box(-5, 0, 50, 50), Box(50, 50, 50, 90), Box(0, 0, 9, 9, 3)],
    ids=["beyond", "negative", "no area", "no such picture"],
)
async def test_a_box_that_cannot_be_cut_is_an_observation(box):
    _, picture = scene()
    seen = await zoom(call(box=box), DecodedPictures((picture,)))
    assert seen.error is not None
    assert seen.error.startswith("that part cannot be shown: ")
    assert (seen.pictures, seen.boxes_px) == ((), ())


@pytest.mark.parametrize("arguments", [{}, {"box": [1, 2, 3, 4]}], ids=["none", "a list"])
async def test_a_call_without_a_box_is_our_own_fault(arguments):
    _, picture = scene()
    with pytest.raises(ToolError, match="image_zoom_in_tool was called with"):
        await zoom(call(**arguments), DecodedPictures((picture,)))


async def test_a_damaged_picture_is_the_callers_fault():
    _, picture = scene()
    damaged = Picture(picture.data[:2000], "image/png", *picture.size)
    with pytest.raises(PictureTruncated):
        await zoom(call(box=Box(0, 0, 30, 30)), DecodedPictures((damaged,)))
