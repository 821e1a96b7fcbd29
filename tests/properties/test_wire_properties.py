"""The wire's pure parts, over all that hypothesis can think of."""

import json
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speceyes.engines.wire.ending import Ending, end_of
from speceyes.engines.wire.evidence import evidence_of, read_rows, spelling
from speceyes.engines.wire.heard import Ear, Heard, Refused, Unreadable, hear
from speceyes.engines.wire.hermes import NativeCall, fold_calls, unfold_calls
from speceyes.engines.wire.refusals import clean, error_of, read_refusal
from speceyes.engines.wire.reply import generation_of
from speceyes.engines.wire.sse import SseParser
from speceyes.gate import GateSpec, check_evidence
from speceyes.types import GenerateRequest, Message, Text

LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
BREAKS = st.sampled_from(["\n", "\r\n", "\r"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    events=st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5),
    line_break=BREAKS,
    space=st.booleans(),
    comment=LINES,
    cuts=st.lists(st.integers(0, 2000), max_size=40),
)
def test_where_a_stream_is_cut_changes_nothing(events, line_break, space, comment, cuts):
    lines = []
    for event in events:
        lines += [f":{comment}", "event: x", *(f"data:{' ' if space else ''}{v}" for v in event)]
        lines += ["id: 3", "retry", ""]
    stream = "".join(line + line_break for line in lines).encode()
    want = ["\n".join(v if space else v.removeprefix(" ") for v in event) for event in events]
    for cut in (pieces_of(stream, cuts), [stream[i : i + 1] for i in range(len(stream))]):
        parser = SseParser()
        got = [data for piece in cut for data in parser.feed(piece)]
        assert [*got, *parser.end()] == want


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_no_bytes_break_the_stream_reader(pieces):
    parser, joined = SseParser(), SseParser()
    got = [data for piece in pieces for data in parser.feed(piece)] + parser.end()
    assert got == joined.feed(b"".join(pieces)) + joined.end()


@given(content=WORDS, calls=st.lists(st.tuples(NAMES, OBJECTS), min_size=1, max_size=3))
@example(content="\n", calls=[("zoom", {})])
@example(content="I look.\n\n", calls=[("zoom", {}), ("zoom", {})])
def test_native_calls_come_back_from_text_as_they_were(content, calls):
    native = tuple(NativeCall(name, json.dumps(arguments)) for name, arguments in calls)
    text = fold_calls(content, native)
    said, found = unfold_calls(text)
    assert found == native
    assert fold_calls(said, found) == text
    # A line break before a call is part of how it is written.
    assert said in {content, content.removesuffix("\n")}


@given(
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "\n",
                '{"name": "zoom", "arguments": {"x": 1}}',
                '{"name":"zoom","arguments":"{\\"x\\": 1}"}',
                '"no name"',
                "Look.",
                " ",
            ]
        ),
        max_size=12,
    ).map("".join)
    | WORDS
)
def test_text_comes_back_from_native_calls_to_the_letter(text):
    assert fold_calls(*unfold_calls(text)) == text


@given(JSON)
def test_any_json_is_a_reply_or_a_named_fault(value):
    body = json.dumps(value).encode()
    for read in (hear, lambda data: Ear().take_event(data.decode())):
        with suppress(Unreadable, Refused):
            read(body)


@given(st.integers(100, 599), st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_refusal_has_a_name_and_fits_on_a_line(status, body):
    error = error_of(read_refusal(status, body, key="sk-1"), engine="e")
    assert error.engine == "e"
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@given(WORDS, st.text("ab:/", min_size=1, max_size=4))
def test_the_key_is_never_in_what_is_passed_on(text, key):
    assert key not in clean(f"{text}{key}{text}", key=key).replace("***", "")


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "token": st.text(max_size=3) | JSON,
        "logprob": st.floats() | JSON,
        "bytes": st.lists(st.integers(-3, 300), max_size=3) | JSON,
        "top_logprobs": st.lists(
            st.fixed_dictionaries({"token": st.text(max_size=2), "logprob": st.floats()}) | JSON,
            max_size=5,
        )
        | JSON,
    },
)


@given(
    rows=st.lists(ENTRY | JSON, max_size=5),
    text=st.text(max_size=4),
    finish=st.sampled_from(["stop", "length"]),
)
def test_no_entries_whatever_break_the_reading_and_none_are_trusted_unseen(rows, text, finish):
    request = GenerateRequest((Message("user", (Text("?"),)),), 9, top_logprobs=4)
    heard = Heard(text, (), finish, None, tuple(rows), None, None)
    generation = generation_of(heard, request, engine="e")
    spec = GateSpec(threshold=-1e9, k=4)
    if check_evidence(generation, spec) is None:
        assert generation.evidence.logp_topk.shape[0] == generation.token_count
        whole = spelling(read_rows(rows)[: generation.token_count])
        assert whole.count("\ufffd") or whole == generation.text


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_characters_spread_over_tokens_are_put_together(words, data):
    # Tokens cut anywhere between bytes: told as bytes (OpenAI), or each by itself as text (vLLM).
    whole = "".join(words).encode("utf-8", "replace")
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6))
    tokens = pieces_of(whole, cuts)
    ending = Ending(whole.decode(), "length")
    for told in (
        [{"token": "?", "bytes": list(token)} for token in tokens],
        [{"token": token.decode("utf-8", "replace")} for token in tokens],
    ):
        rows = read_rows(told)
        evidence, count = evidence_of(rows, ending, k=0, completion_tokens=len(tokens))
        assert (count, len(evidence.logp_topk)) == (len(tokens), len(tokens))


@given(st.lists(st.floats(-50, 0), min_size=4, max_size=8))
def test_candidates_are_sorted_with_their_texts(logps):
    top = [{"token": f"t{n}", "logprob": logp} for n, logp in enumerate(logps)]
    rows = read_rows([{"token": "a", "logprob": logps[0], "top_logprobs": top}])
    evidence, _ = evidence_of(rows, Ending("a", "stop"), k=4, completion_tokens=None)
    found = dict(zip(evidence.candidates[0], evidence.logp_topk[0].tolist(), strict=True))
    assert found == {
        text: pytest.approx(logps[int(text[1:])], rel=1e-6) for text in evidence.candidates[0]
    }
    assert (np.diff(evidence.logp_topk, axis=1) <= 0).all()
    assert evidence.logp_topk[0, 0] == np.float32(max(logps))


@given(st.text("<>/ab", max_size=12), st.lists(st.sampled_from(["</a>", "</b>", "ab"]), max_size=3))
def test_no_text_goes_on_after_its_first_stop_string(text, stops):
    ending = end_of(Heard(text, (), "stop", None, (), None, None), tuple(stops))
    if ending.stop_string is None:
        assert ending.text == text
        assert not any(stop in text for stop in stops)
    else:
        assert ending.text.endswith(ending.stop_string)
        assert not any(stop in ending.text[:-1] for stop in stops)
