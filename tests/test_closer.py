"""Where a small model wants to look is read in whatever words, and never outside the picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes import prompts
from speceyes.protocols.closer import Closer
from speceyes.types import Box, Image, Picture, Query, Text, View

SCENE = Picture(b"scene", "image/png", 672, 672)
SEEN = View(Picture(b"seen", "image/png", 112, 112), Box(0, 0, 672, 672))
IN_PIXELS = Closer(extent=None, factor=28, min_px=112 * 112, max_px=112 * 112)
QUERY = Query("Which shape?", (SCENE,), ("star", "ring"))


@pytest.mark.parametrize(
    "reply",
    [
        "[10, 20, 24, 34]",
        "[10,20,24,34]",
        '```json\n[{"bbox_2d": [10, 20, 24, 34], "label": "the cup"}]\n```',
        "(10, 20, 24, 34)",
        "[10.0, 20.0, 24.0, 34.0] and not [1, 2, 3, 4]",
    ],
)
def test_a_box_is_read_in_pixels_of_the_view(reply: str):
    assert IN_PIXELS.read_where(reply, SEEN) == Box(60, 120, 144, 204)


def test_a_box_is_read_in_thousandths():
    assert Closer().read_where("[250, 500, 500, 1000]", SEEN) == Box(168, 336, 336, 672)


@pytest.mark.parametrize(
    "reply",
    ["", "star", "[1, 2, 3]", "[20, 20, 10, 10]", "[200, 200, 300, 300]", "[5, 5, 5, 9]", "[a, b]"],
)
def test_what_is_no_box_is_nowhere(reply: str):
    assert IN_PIXELS.read_where(reply, SEEN) is None


def test_a_view_that_code_made_has_no_part():
    assert IN_PIXELS.read_where("[10, 20, 24, 34]", View(SEEN.picture, None)) is None


def test_a_side_that_is_too_short_is_grown():
    assert IN_PIXELS.read_where("[50, 50, 51, 51]", SEEN).size == (32, 32)


@given(st.text() | st.lists(st.floats() | st.integers()).map(str))
def test_whatever_is_said_the_box_is_inside_the_original(reply: str):
    box = IN_PIXELS.read_where(reply, SEEN)
    if box is not None:
        assert 0 <= box.left_px < box.right_px <= 672
        assert 0 <= box.top_px < box.bottom_px <= 672


def test_each_step_goes_on_from_what_was_said_before():
    first = prompts.speculate(QUERY, (SEEN,))
    asked = IN_PIXELS.ask_where(first, "star")
    part = Picture(b"part", "image/png", 112, 112)
    shown = IN_PIXELS.show(
        asked, "[10, 20, 24, 34]", part=part, instruction=prompts.answer_briefly(QUERY)
    )
    assert asked[: len(first)] == first
    assert shown[: len(asked)] == asked
    assert [message.role for message in shown] == ["user", "assistant"] * 2 + ["user"]
    assert shown[1].parts == (Text("star"),)
    picture, told = shown[-1].parts
    assert picture == Image(part)
    assert told.text.endswith("Give only the final answer, in the words of one option.")


def test_a_part_is_shown_at_the_size_the_model_sees():
    assert IN_PIXELS.view_size((84, 84)) == (112, 112)
    width_px, height_px = Closer().view_size((40, 20))
    assert width_px * height_px >= 256 * 32 * 32
