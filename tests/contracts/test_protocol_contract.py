"""What every tool protocol must do, whatever it looks like on the wire.

It runs over `SPEAKERS` of tests/speakers.py: one entry per protocol, and a test that none is
missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from speceyes.notebook import PYTHON, WritesCode
from speceyes.protocols import PROTOCOLS, make_protocol
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.tools.zoom import ZoomTool
from speceyes.types import (
    Box,
    FinalAnswer,
    Image,
    Malformed,
    Observation,
    Picture,
    Query,
    Text,
    ToolCall,
    ToolProtocol,
    View,
)
from tests.speakers import DEEPEYES, SPEAKERS, Speaker


@dataclass(frozen=True)
class Case:
    """A protocol, and a model that speaks it."""

    protocol: ToolProtocol
    speaker: Speaker

    @property
    def call(self) -> str:
        return self.speaker.quarter()


CASES = {
    **{name: Case(make_protocol(name), speaker) for name, speaker in SPEAKERS.items()},
    "deepeyes, as built in": Case(DeepEyes(min_px=168 * 168, max_px=168 * 168), DEEPEYES),
}

SCENE = Picture(b"scene", "image/png", 672, 672)
OTHER = Picture(b"other", "image/png", 336, 336)
VIEWS = (
    View(Picture(b"seen", "image/png", 168, 168), Box(0, 0, 672, 672)),
    View(Picture(b"other seen", "image/png", 168, 168), Box(0, 0, 336, 336, 1)),
)
QUERY = Query("Which shape, 赤?", (SCENE, OTHER), ("star", "ring"), query_id="q")
CROP = Picture(b"crop", "image/png", 168, 168)
SEEN = Observation(pictures=(CROP,), boxes_px=(Box(224, 224, 448, 448),))
WRONG = Malformed("bad_json", "the call is not as it should be")

every_protocol = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_that_zooms = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in CASES.items() if not case.speaker.writes_code],
)
each_that_writes_code = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in CASES.items() if case.speaker.writes_code],
)
each_that_nests = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name) for name, case in CASES.items() if case.speaker.nests]
)
BAD = {
    f"{name}, {kind}": (CASES[name], *bad)
    for name, speaker in SPEAKERS.items()
    for kind, bad in speaker.bad.items()
}


def parts(conversation):
    return [part for message in conversation for part in message.parts]


def pictures(conversation):
    return [part.picture for part in parts(conversation) if isinstance(part, Image)]


def words(conversation, role=None):
    said = [message for message in conversation if role in {None, message.role}]
    return "".join(part.text for part in parts(said) if isinstance(part, Text))


def is_inside(box, whole):
    return (
        whole.left_px <= box.left_px < box.right_px <= whole.right_px
        and whole.top_px <= box.top_px < box.bottom_px <= whole.bottom_px
        and box.picture_index == whole.picture_index
    )


SIDES = st.integers(1, 12_000)


@st.composite
def sizes(draw):
    size = draw(st.tuples(SIDES, SIDES))
    assume(max(size) <= 200 * min(size))
    return size


@st.composite
def corners(draw):
    low, high = zip(*[sorted(draw(st.tuples(*[st.floats(0, 1)] * 2))) for _ in "xy"], strict=True)
    assume(all(high[axis] - low[axis] > 0.02 for axis in (0, 1)))
    return (*low, *high)


def draw_views(draw, case):
    """Give first views of two originals, as that protocol shows them, and crops of some parts."""
    originals = draw(st.tuples(sizes(), sizes()))
    views = [
        View(Picture(b"view", "image/png", *case.protocol.view_size(size)), Box(0, 0, *size, n))
        for n, size in enumerate(originals)
    ]
    for _ in range(draw(st.integers(0, 3))):
        whole = draw(st.sampled_from(views)).box_px
        reply = case.speaker.call(draw(corners()), views[0].picture.size, 0)
        made = case.protocol.parse(reply, (View(views[0].picture, whole),))
        assume(isinstance(made, ToolCall))
        views.append(
            View(Picture(b"crop", "image/png", *made.arguments["size"]), made.arguments["box"])
        )
    return tuple(views)


def test_every_registered_protocol_has_a_speaker():
    assert list(SPEAKERS) == list(PROTOCOLS)
    assert {name: case.protocol.name for name, case in CASES.items() if name in PROTOCOLS} == {
        name: name for name in PROTOCOLS
    }


@every_protocol
def test_it_has_a_name_stop_strings_and_a_budget(case):
    assert case.protocol.name
    assert all(case.protocol.stop)
    assert case.protocol.budget.max_turns > 1
    assert case.protocol.budget.max_tokens_per_turn > 1


@every_protocol
@pytest.mark.parametrize("size", [(672, 672), (1, 1), (8000, 3000), (140, 2800)], ids=str)
def test_what_has_the_size_of_a_view_keeps_it(case, size):
    # Otherwise the engine would resize it again, and the model's coordinates would not be ours.
    view = case.protocol.view_size(size)
    assert min(view) >= 1
    assert case.protocol.view_size(view) == view


@every_protocol
def test_the_opening_shows_each_view_once_in_order_and_asks_the_question(case):
    conversation = case.protocol.opening(QUERY, VIEWS)
    assert pictures(conversation) == [view.picture for view in VIEWS]
    for text in (QUERY.question, *QUERY.options):
        assert text in words(conversation, "user")
    assert "assistant" not in {message.role for message in conversation}


@every_protocol
@pytest.mark.parametrize("text", ["star", "a red star, on the left", "星", "0"])
def test_an_answer_comes_out_as_it_was_given(case, text):
    read = case.protocol.parse(case.speaker.answer(text), VIEWS)
    assert isinstance(read, FinalAnswer)
    assert read.text == text


@each_that_zooms
def test_a_call_comes_out_in_original_pixels(case):
    made = case.protocol.parse(case.call, VIEWS)
    assert isinstance(made, ToolCall)
    low_x, low_y, high_x, high_y = case.speaker.shown((0.25, 0.25, 0.5, 0.5))
    assert made.arguments["box"] == Box(
        math.floor(672 * low_x),
        math.floor(672 * low_y),
        *map(math.ceil, (672 * high_x, 672 * high_y)),
    )
    assert made.tool == ZoomTool().name
    assert made.raw in case.call


@each_that_writes_code
def test_code_comes_out_as_the_model_wrote_it(case):
    made = case.protocol.parse(case.call, VIEWS)
    written = case.call.partition("<code>")[2].removesuffix("</code>")
    assert made == ToolCall(PYTHON, {"code": written}, raw=written.strip())


@each_that_writes_code
def test_its_notebook_says_where_originals_are_as_the_opening_does(case):
    assert isinstance(case.protocol, WritesCode)
    notebook = case.protocol.notebook
    told = words(case.protocol.opening(QUERY, VIEWS))
    name = notebook.name_of(0)
    assert (name or notebook.path_of(0, SCENE)) in told
    assert (notebook.name_of(1) or notebook.path_of(1, OTHER)) in told
    assert notebook.collects != "both"


@each_that_writes_code
def test_what_code_printed_and_how_it_failed_are_both_told(case):
    before = case.protocol.opening(QUERY, VIEWS)
    failed = Observation(text="12 cells\n", error="NameError: name 'x' is not defined")
    told = words(case.protocol.proceed(QUERY, before, reply=case.call, outcome=failed))
    assert told.index("12 cells") < told.index(failed.error)


@each_that_writes_code
def test_code_that_shows_nothing_is_told_so_and_the_conversation_goes_on(case):
    before = case.protocol.opening(QUERY, VIEWS)
    after = case.protocol.proceed(QUERY, before, reply=case.call, outcome=Observation())
    told = words(after).partition("</code>")[2].partition("</code>")[2]
    assert told.strip()
    assert pictures(after) == pictures(before)


@every_protocol
def test_replies_end_in_a_stop_string_and_are_read_without_it_too(case):
    for reply in (case.call, case.speaker.answer("star")):
        ends = [stop for stop in case.protocol.stop if reply.endswith(stop)]
        assert len(ends) == 1 or reply != case.call or not case.protocol.stop
        cut = reply.removesuffix(*ends) if ends else reply
        assert type(case.protocol.parse(cut, VIEWS)) is type(case.protocol.parse(reply, VIEWS))
        assert all(stop not in cut for stop in case.protocol.stop)


@pytest.mark.parametrize(("case", "reply", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_neither_answer_nor_call_is_malformed_with_its_reason(case, reply, reason):
    read = case.protocol.parse(reply, VIEWS)
    assert isinstance(read, Malformed), read
    assert read.reason == reason
    assert 10 < len(read.detail) < 400


@pytest.mark.parametrize(("case", "reply", "reason"), BAD.values(), ids=BAD.keys())
def test_after_what_is_malformed_the_conversation_goes_on(case, reply, reason):
    before = case.protocol.opening(QUERY, VIEWS)
    wrong = case.protocol.parse(reply, VIEWS)
    after = case.protocol.proceed(QUERY, before, reply=reply, outcome=wrong)
    assert after[: len(before)] == before
    roles = [message.role for message in after[len(before) :]]
    if case.speaker.goes_on:
        assert roles == ["assistant"]
        assert words(after[-1:]).startswith(reply)
    else:
        assert roles in (["assistant", "user"], ["assistant", "tool"])
        assert words(after[-2:-1]) == reply
    assert wrong.detail in words(after[-1:])


@every_protocol
@given(text=st.text() | st.text(alphabet='<>/{}[]":,=0123456789.-eatoolcnswrNI \n'))
def test_no_reply_whatever_is_an_exception(case, text):
    call = case.call
    for reply in (text, text + call, call.replace("25", text), call[: len(text)], f"{call}{text}"):
        read = case.protocol.parse(reply, VIEWS)
        assert isinstance(read, FinalAnswer | ToolCall | Malformed)
        if isinstance(read, Malformed):
            assert read.detail
            read.detail.encode()  # it is put to the model: no half surrogates
        case.protocol.proceed(
            QUERY, case.protocol.opening(QUERY, VIEWS), reply=reply, outcome=WRONG
        )


@each_that_zooms
@given(st.data())
def test_whatever_box_is_called_for_the_crop_is_inside_what_its_view_shows(case, data):
    views = draw_views(data.draw, case)
    index = data.draw(st.integers(0, len(views) - 1)) if case.speaker.nests else 0
    bounds = st.floats(-3, 3)
    anywhere = data.draw(st.tuples(bounds, bounds, bounds, bounds))
    made = case.protocol.parse(case.speaker.call(anywhere, views[index].picture.size, index), views)
    if isinstance(made, ToolCall):
        assert is_inside(made.arguments["box"], views[index].box_px)
        assert min(made.arguments["size"]) >= 1
        assert max(made.arguments["size"]) <= 200 * min(made.arguments["size"])


@each_that_zooms
@given(size=sizes(), wanted=corners())
def test_a_call_for_a_part_brings_that_part(case, size, wanted):
    seen = case.protocol.view_size(size)
    view = View(Picture(b"view", "image/png", *seen), Box(0, 0, *size))
    made = case.protocol.parse(case.speaker.call(wanted, seen, 0), (view,))
    assume(isinstance(made, ToolCall))  # a thin part may have no area in the model's own numbers
    box = made.arguments["box"]
    shown = case.speaker.shown(wanted)
    for axis, (start, end) in enumerate([(box.left_px, box.right_px), (box.top_px, box.bottom_px)]):
        # A number is off by half a step at most, and enlarging makes that more.
        slack = 1 + case.speaker.scale * size[axis] * (case.speaker.step or 1 / seen[axis])
        low, high = shown[axis] * size[axis], shown[axis + 2] * size[axis]
        assert start <= low + slack
        assert end >= high - slack
        grown = end - start <= 28 * 2 or max(box.size) >= 50 * min(box.size)
        assert grown or (start >= low - slack - 1 and end <= high + slack + 1)


@each_that_nests
@given(st.data())
def test_the_whole_of_a_view_is_what_the_view_shows_however_deep(case, data):
    views = draw_views(data.draw, case)
    index = data.draw(st.integers(0, len(views) - 1))
    assume(case.protocol.name != "mini-o3" or index != 1)  # it has no name for a second original
    made = case.protocol.parse(
        case.speaker.call((0, 0, 1, 1), views[index].picture.size, index), views
    )
    assert made.arguments["box"] == views[index].box_px


@each_that_nests
def test_a_box_within_an_observation_is_mapped_through_what_it_shows(case):
    observed = View(CROP, Box(112, 56, 312, 256, 1))
    made = case.protocol.parse(case.speaker.quarter(index=2), (*VIEWS, observed))
    low, _, high, _ = case.speaker.shown((0.25, 0.25, 0.5, 0.5))
    start, end = math.floor(200 * low), math.ceil(200 * high)
    assert made.arguments["box"] == Box(112 + start, 56 + start, 112 + end, 56 + end, 1)
    deeper = (*VIEWS, observed, View(CROP, made.arguments["box"]))
    again = case.protocol.parse(case.speaker.quarter(index=3), deeper)
    assert is_inside(again.arguments["box"], made.arguments["box"])


@every_protocol
def test_an_observation_is_shown_after_what_was_said(case):
    before = case.protocol.opening(QUERY, VIEWS)
    after = case.protocol.proceed(QUERY, before, reply=case.call, outcome=SEEN)
    assert after[: len(before)] == before
    assert pictures(after) == [*pictures(before), CROP]
    assert case.call in words(after, "assistant")
    assert after[-1].role in {"user", "tool", "assistant"}


@every_protocol
def test_two_observations_are_shown_in_order(case):
    conversation = case.protocol.opening(QUERY, VIEWS)
    for picture in (CROP, OTHER):
        seen = Observation(pictures=(picture,), boxes_px=SEEN.boxes_px)
        conversation = case.protocol.proceed(QUERY, conversation, reply=case.call, outcome=seen)
    assert pictures(conversation)[-2:] == [CROP, OTHER]
    assert words(conversation, "assistant").count(case.call) == 2


@every_protocol
def test_what_was_imagined_after_a_call_is_forgotten_once_the_call_is_made(case):
    before = case.protocol.opening(QUERY, VIEWS)
    for reply in (case.call + "\nI see a star there.", case.call):
        after = case.protocol.proceed(QUERY, before, reply=reply, outcome=SEEN)
        said = words(after, "assistant")
        assert said == case.call or (case.speaker.goes_on and said.startswith(case.call))
        assert "I see a star" not in said
    for stop in case.protocol.stop:
        cut = case.call.removesuffix(stop)
        after = case.protocol.proceed(QUERY, before, reply=cut, outcome=SEEN)
        assert words(after, "assistant").startswith(cut)


@every_protocol
@pytest.mark.parametrize("outcome", [WRONG, Observation(error=WRONG.detail)], ids=["call", "tool"])
def test_an_error_is_told_and_never_put_into_the_models_mouth(case, outcome):
    # Defect of the reference code: the user's prompt came back as an assistant turn.
    before = case.protocol.opening(QUERY, VIEWS)
    after = case.protocol.proceed(QUERY, before, reply=case.call, outcome=outcome)
    assert WRONG.detail in words(after)
    assert case.call in words(after, "assistant")
    assert QUERY.question not in words(after, "assistant")
    assert pictures(after) == pictures(before)


@every_protocol
@pytest.mark.parametrize("outcome", [None, SEEN, WRONG], ids=["opening", "seen", "wrong"])
def test_forcing_an_answer_only_adds_words(case, outcome):
    before = case.protocol.opening(QUERY, VIEWS)
    if outcome is not None:
        before = case.protocol.proceed(QUERY, before, reply=case.call, outcome=outcome)
    after = case.protocol.force_answer(QUERY, before)
    assert pictures(after) == pictures(before)
    assert words(after).startswith(words(before))
    assert len(words(after)) > len(words(before))
    if case.speaker.goes_on and outcome is not None:
        assert after[:-1] == before[:-1]
        assert after[-1].role == "assistant"
    else:
        assert words(after, "assistant") == words(before, "assistant")
        assert after[-1].role == "user"


@every_protocol
def test_a_forced_answer_is_read_as_one(case):
    before = case.protocol.opening(QUERY, VIEWS)
    before = case.protocol.proceed(QUERY, before, reply=case.call, outcome=SEEN)
    after = case.protocol.force_answer(QUERY, before)
    opened = "<answer>" if after[-1].role == "assistant" else ""
    assert words(after[-1:]).endswith(opened)
    read = case.protocol.parse(case.speaker.answer("star").rpartition(opened or "\0")[2], VIEWS)
    assert isinstance(read, FinalAnswer)
    assert read.text == "star"


@every_protocol
def test_one_instance_serves_all_queries(case):
    def story(query):
        opening = case.protocol.opening(query, VIEWS)
        return case.protocol.proceed(query, opening, reply=case.call, outcome=SEEN)

    other = Query("And the dot?", (SCENE, OTHER), query_id="r")
    alone = story(QUERY)
    assert story(other) != alone
    assert story(QUERY) == alone
