"""What every tool protocol must do, whatever it looks like on the wire.

A new protocol is added to `CASES`, with a reply that calls its tool and one that answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.protocols.deepeyes import DeepEyes
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


@dataclass(frozen=True)
class Case:
    """A protocol, how its model calls for the middle of picture 0, and how it answers."""

    protocol: ToolProtocol
    call: str
    answer: Callable[[str], str]


def deepeyes(**settings):
    arguments = {"bbox_2d": [56, 56, 112, 112], "label": "middle"}
    made = json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})
    return Case(
        DeepEyes(**settings),
        f"<think> I look. </think>\n<tool_call>\n{made}\n</tool_call>",
        lambda text: f"<think> I know. </think>\n<answer>{text}</answer>",
    )


CASES = {
    "deepeyes": deepeyes(),
    "deepeyes, as built in": deepeyes(min_px=168 * 168, max_px=168 * 168),
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


def parts(conversation):
    return [part for message in conversation for part in message.parts]


def pictures(conversation):
    return [part.picture for part in parts(conversation) if isinstance(part, Image)]


def words(conversation, role=None):
    said = [message for message in conversation if role in {None, message.role}]
    return "".join(part.text for part in parts(said) if isinstance(part, Text))


@every_protocol
def test_it_has_a_name_stop_strings_and_a_budget(case):
    assert case.protocol.name
    assert case.protocol.stop
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
    assert case.protocol.parse(case.answer(text), VIEWS) == FinalAnswer(text)


@every_protocol
def test_a_call_comes_out_in_original_pixels(case):
    made = case.protocol.parse(case.call, VIEWS)
    assert isinstance(made, ToolCall)
    assert made.arguments["box"] == Box(224, 224, 448, 448)
    assert made.tool in case.call
    assert made.raw in case.call


@every_protocol
def test_replies_end_in_a_stop_string_and_are_read_without_it_too(case):
    for reply in (case.call, case.answer("star")):
        (stop,) = (stop for stop in case.protocol.stop if reply.endswith(stop))
        cut = reply.removesuffix(stop)
        assert type(case.protocol.parse(cut, VIEWS)) is type(case.protocol.parse(reply, VIEWS))
        assert all(other not in cut for other in case.protocol.stop)


@every_protocol
@given(text=st.text() | st.text(alphabet='<>/{}[]":,0123456789.-eatoolcnswrNI \n'))
def test_no_reply_whatever_is_an_exception(case, text):
    for reply in (text, text + case.call, case.call.replace("56", text), case.call[: len(text)]):
        read = case.protocol.parse(reply, VIEWS)
        assert isinstance(read, FinalAnswer | ToolCall | Malformed)
        if isinstance(read, Malformed):
            assert read.detail
            read.detail.encode()  # it is put to the model: no half surrogates


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
    assert words(after, "assistant") == words(before, "assistant")


@every_protocol
def test_one_instance_serves_all_queries(case):
    def story(query):
        opening = case.protocol.opening(query, VIEWS)
        return case.protocol.proceed(query, opening, reply=case.call, outcome=SEEN)

    other = Query("And the dot?", (SCENE, OTHER), query_id="r")
    alone = story(QUERY)
    assert story(other) != alone
    assert story(QUERY) == alone
