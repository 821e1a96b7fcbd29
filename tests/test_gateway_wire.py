"""Requests as they come: inside the method, outside it with the field that says so, or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.errors import (
    EngineUnavailable,
    NoRoom,
    QueryError,
    RequestMalformed,
    RouteUnknown,
    SpecEyesError,
)
from speceyes.gateway.wire.errors import error_headers, error_object
from speceyes.gateway.wire.fields import FIELDS
from speceyes.gateway.wire.query import images_of, query_of, question_of
from speceyes.gateway.wire.request import passed_on, read_request, settle
from speceyes.types import Image, Text
from tests.stand_ins import a_picture

URL = "data:image/png;base64,AAAA"


def image(url=URL, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words="Which shape?"):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": list(parts)}


ASKED = user(image(), text())


def request(*messages, **fields):
    return {"model": "speceyes", "messages": list(messages or [ASKED]), **fields}


def read(body):
    return read_request(json.dumps(body).encode())


def reason(body):
    outside, _ = settle(read(body), "bypass")
    return outside and outside.reason


def field_at_fault(body):
    with pytest.raises(RequestMalformed) as caught:
        read_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.field


def test_a_picture_and_a_question_are_inside():
    asked = read(request(max_tokens=7, stream=True, stream_options={"include_usage": True}))
    assert settle(asked, "bypass") == (None, ())
    assert (asked.model, asked.max_tokens, asked.is_stream, asked.include_usage) == (
        "speceyes",
        7,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        ("sampling", {"temperature": 0.7}),
        ("sampling", {"top_p": 0.9}),
        ("sampling", {"presence_penalty": -1}),
        ("sampling", {"logit_bias": {"5": 3}}),
        ("choices", {"n": 2}),
        ("tools", {"tools": [{"type": "function"}]}),
        ("tools", {"functions": [{}]}),
        ("tools", {"tool_choice": "required"}),
        ("stop", {"stop": ["."]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("logprobs", {"logprobs": True}),
        ("logprobs", {"top_logprobs": 5}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("reasoning", {"reasoning_effort": "low"}),
        ("unknown_field", {"guided_json": {}}),
        ("unknown_field", {"stream_options": {"continuous_usage_stats": True}}),
    ],
)
def test_a_field_can_put_a_request_outside(wanted, fields):
    outside, _ = settle(read(request(**fields)), "bypass")
    assert (outside.reason, outside.field) == (wanted, next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0.0, "top_p": 1},
        {"n": 1},
        {"seed": 7},
        {"tools": [], "tool_choice": "none"},
        {"stop": []},
        {"response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0},
        {"modalities": ["text"]},
        {"stream": False, "stream_options": None},
    ],
)
def test_what_asks_for_nothing_special_is_inside(fields):
    assert settle(read(request(**fields)), "bypass") == (None, ())


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"model", "messages"}))
def test_a_field_that_is_null_is_not_there(name):
    assert settle(read(request(**{name: None})), "bypass") == (None, ())


@pytest.mark.parametrize(
    ("wanted", "messages"),
    [
        ("no_image", [user(text())]),
        ("no_image", [{"role": "user", "content": "Hello."}]),
        ("last_turn", [ASKED, {"role": "assistant", "content": "A"}]),
        ("no_question", [user(image())]),
        ("no_question", [user(image(), text(" \n"))]),
        ("system_turn", [ASKED, {"role": "system", "content": "Be brief."}, ASKED]),
        ("tools", [ASKED, {"role": "tool", "content": "5", "tool_call_id": "1"}, ASKED]),
        ("tools", [ASKED, {"role": "assistant", "tool_calls": [{"id": "1"}]}, ASKED]),
        ("content_part", [user(image(), text(), {"type": "input_audio", "input_audio": {}})]),
        ("unknown_field", [{**ASKED, "weight": 1}]),
        ("unknown_field", [user(image(max_pixels=5), text())]),
        ("unknown_field", [user(image(), {**text(), "cache_control": {}})]),
        ("modalities", [ASKED, {"role": "assistant", "content": "A", "audio": {"id": 1}}, ASKED]),
    ],
)
def test_messages_can_put_a_request_outside(wanted, messages):
    assert reason(request(*messages)) == wanted


@given(
    st.text(min_size=1).filter(lambda name: name not in FIELDS),
    st.recursive(
        st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)
def test_every_unknown_field_leads_past_the_method_and_is_passed_on(name, value):
    asked = read(request(**{name: value}))
    outside, _ = settle(asked, "greedy")
    assert (outside.reason, outside.field) == ("unknown_field", name)
    assert json.loads(passed_on(asked, "large"))[name] == value


@given(
    st.sampled_from(["message", "part", "image_url"]),
    st.text(min_size=1).filter(lambda name: not name.isidentifier()),
)
def test_an_unknown_field_within_a_message_leads_past_the_method(place, name):
    told = json.loads(json.dumps(ASKED))
    target = {
        "message": told,
        "part": told["content"][1],
        "image_url": told["content"][0]["image_url"],
    }[place]
    target[name] = 1
    assert reason(request(told)) == "unknown_field"


def test_sampling_can_be_answered_greedily_and_is_told():
    asked = read(request(temperature=0.7, top_p=0.5, user="me"))
    assert settle(asked, "greedy") == (None, ("user", "temperature", "top_p"))


def test_greed_excuses_nothing_else():
    outside, _ = settle(read(request(temperature=0.7, n=2)), "greedy")
    assert outside.reason == "choices"


def test_what_is_left_out_is_told():
    spoken = {"role": "assistant", "content": "A", "reasoning_content": "hm", "refusal": None}
    asked = read(
        request(ASKED, spoken, user(image(detail="high"), text()), metadata={"a": "b"}, store=False)
    )
    outside, not_applied = settle(asked, "bypass")
    assert outside is None
    assert not_applied == (
        "metadata",
        "store",
        "messages[1].reasoning_content",
        "messages[2].content[0].image_url.detail",
    )


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("body", b""),
        ("body", b"{"),
        ("body", b"[]"),
        ("body", b'{"model": NaN}'),
        ("body", b'\xef\xbb\xbf{"model": "a"}'),
        ("body", b'{"model": "\xff"}'),
        ("body", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("model", {"messages": [ASKED]}),
        ("model", {"model": "", "messages": [ASKED]}),
        ("model", {"model": 5, "messages": [ASKED]}),
        ("messages", {"model": "a"}),
        ("messages", {"model": "a", "messages": []}),
        ("messages", {"model": "a", "messages": "hello"}),
        ("messages[0]", {"model": "a", "messages": ["hello"]}),
        ("messages[0].role", request({"role": "narrator", "content": "a"})),
        ("messages[0].content", request({"role": "user"})),
        ("messages[0].content", request({"role": "user", "content": 5})),
        ("messages[0].content[0].text", request(user({"type": "text"}))),
        ("messages[0].content[0].image_url", request(user({"type": "image_url"}))),
        (
            "messages[0].content[0].image_url",
            request(user({"type": "image_url", "image_url": "a"})),
        ),
        ("messages[0].content[0]", request(user({"type": "file", "file": {"file_id": "f"}}))),
        ("temperature", request(temperature="hot")),
        ("temperature", request(temperature=-1)),
        ("n", request(n=0)),
        ("n", request(n=1.5)),
        ("stream", request(stream="yes")),
        ("max_tokens", request(max_tokens=0)),
        ("tools", request(tools="hammer")),
        ("speceyes", request(speceyes={"boxen": True})),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_field(field, body):
    assert field_at_fault(body) == field


def test_a_body_that_is_passed_on_is_as_it_came_but_for_the_model():
    body = request(text="°", n=2, seed=10**30, speceyes={"boxes": True})
    body["temperature"] = 0.30000000000000004
    sent = json.loads(passed_on(read(body), "their-name"))
    del body["speceyes"]
    assert sent == {**body, "model": "their-name"}
    assert json.loads(passed_on(read(body), None))["model"] == "speceyes"


def test_of_a_field_that_comes_twice_only_the_last_is_passed_on():
    twice = b'{"model": "mine", "n": 1, "messages": [{"role": "user", "content": "a"}], "n": 3}'
    asked = read_request(twice)
    assert [one.field for one in asked.outside] == ["messages", "n"]
    assert passed_on(asked, None).count(b'"n"') == 1


def query(*messages):
    turns = read(request(*messages)).turns
    pictures = {one.field: a_picture(one.field) for one in images_of(turns)}
    return query_of(turns, pictures, query_id="q")


def names(pictures):
    return [picture.data.decode() for picture in pictures]


def test_the_last_turn_is_the_query():
    asked = query(user(text("Look:"), image(), text("which?\n(A) star\n(B) ring")))
    assert asked.question == "Look:\nwhich?\n(A) star\n(B) ring"
    assert names(asked.pictures) == ["messages[0].content[1].image_url.url"]
    assert (asked.options, asked.earlier, asked.query_id) == ((), (), "q")


def test_earlier_turns_travel_with_the_systems_words_at_their_head():
    asked = query(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [text("Be kind.")]},
        ASKED,
        {"role": "assistant", "content": "A star."},
        user(image(), text("And here?")),
    )
    system, before, said = asked.earlier
    assert (system.role, system.parts) == ("system", (Text("Be brief.\n\nBe kind."),))
    assert [type(part) for part in before.parts] == [Image, Text]
    assert (said.role, said.parts) == ("assistant", (Text("A star."),))
    assert names(asked.pictures) == ["messages[4].content[0].image_url.url"]


def test_pictures_of_an_earlier_turn_move_to_the_question_and_leave_their_words():
    asked = query(
        user(image(), text("Old?")),
        {"role": "assistant", "content": "Yes."},
        user(image(), text("What is this?")),
        {"role": "assistant", "content": "A star."},
        {"role": "user", "content": "Which colour?"},
    )
    assert names(asked.pictures) == ["messages[2].content[0].image_url.url"]
    assert asked.earlier[2].parts == (Text("What is this?"),)
    assert isinstance(asked.earlier[0].parts[0], Image)


def test_a_turn_without_words_goes_with_its_pictures():
    asked = query(user(image()), {"role": "user", "content": "Which colour?"})
    assert (len(asked.pictures), asked.earlier) == (1, ())


def test_the_question_is_the_last_turns_words():
    assert question_of(read(request(user(image(), text("a"), text("b")))).turns) == "a\nb"


def test_an_error_names_its_field():
    told = error_object(RequestMalformed("n", "is below 1"))
    assert told == {
        "message": "n: is below 1",
        "type": "invalid_request_error",
        "param": "n",
        "code": "request_malformed",
    }


def test_an_error_has_the_codes_that_clients_know():
    assert error_object(RouteUnknown("model", "is unknown"))["code"] == "model_not_found"
    assert error_object(NoRoom("full", retry_after_s=1.0))["type"] == "rate_limit_error"


def test_a_defect_tells_nothing_of_its_innards():
    assert "secret" not in json.dumps(error_object(SpecEyesError("unexpected KeyError: secret")))


def test_an_error_says_in_whole_seconds_when_to_ask_again():
    headers = dict(error_headers(EngineUnavailable("small", "is down", retry_after_s=0.2)))
    assert headers == {b"retry-after": b"1"}
    assert error_headers(EngineUnavailable("small", "is down")) == []
    assert error_headers(QueryError("question", "is empty")) == []
