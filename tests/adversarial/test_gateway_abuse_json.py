"""Abuse of the gateway by JSON that is none, or not what was agreed: refused by name, soon."""

import json
import random

import pytest

from tests.adversarial.abused_gateway import URL, question, raw_post
from tests.adversarial.abused_gateway import anyio_backend as anyio_backend  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import attack as attack  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import gateway as gateway  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"5",
        b'"x"',
        b"{",
        b"{} {}",
        b"{'model': 1}",
        b'{"model": }',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b'{"\xc3\x28": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xf4\x90\x80\x80"}',
        b'{"a": "\xc0\xaf"}',
        "{}".encode("utf-16"),
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 01}',
        b'{"a": 1.}',
        b'{"a": "\x01"}',
        b'{"a": "\\x41"}',
        b'{"a": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"a": 1,}',
        b"/* */ {}",
    ],
    ids=repr,
)
async def test_a_body_that_is_no_json_object(attack, body):
    got = await attack.post(body)
    assert got.status == 400
    assert got.error["param"] in {"body", "model", "a"}
    attack.is_untouched()


DEEP = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"model": "speceyes", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model": "speceyes", "metadata": {"a": ' + b"[" * DEEP + b"]" * DEEP + b"}}",
        b'{"model": "speceyes", "messages": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model": "speceyes", "messages": [{"role": "user", "content": [{"type": "text", "x": '
        + b"[" * DEEP
        + b"]" * DEEP
        + b"}]}]}",
    ],
    ids=["cut", "arrays", "objects", "unknown field", "metadata", "messages", "part"],
)
async def test_json_that_is_nested_deeply(attack, body):
    got = await attack.post(body)
    assert got.status == 400
    attack.is_untouched()


WRONG = {
    "model": (5, None, "", ["speceyes"], {}, True),
    "messages": (5, None, "hi", [], {}, [5], [None], [[]]),
    "stream": ("yes", 1, 0.5),
    "n": ("2", 0, -1, 1.5, True),
    "max_tokens": ("9", 0, -1, 1.5),
    "temperature": ("hot", -1, [], 10**400),
    "top_p": (2, -0.1, "x"),
    "stop": (5, [5], {}),
    "tools": (5, {}, "x"),
    "response_format": (5, "json", {}, {"type": 5}),
    "logprobs": (5, "x"),
    "stream_options": (5, [], "x"),
    "speceyes": (5, {"boxes": "x"}, {"unknown": 1}),
    "seed": ("x", 1.5),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: repr(value)[:20],
)
async def test_a_field_of_a_wrong_type(attack, field, value):
    got = await attack.post(question() | {field: value})
    assert got.status == 400
    assert got.error["param"].startswith(field)
    attack.is_untouched()


@pytest.mark.parametrize("field", ["seed", "max_tokens", "temperature", "n"])
async def test_a_number_of_ten_thousand_digits(attack, field):
    body = json.dumps(question())[:-1] + f', "{field}": ' + "9" * 10_000 + "}"
    got = await attack.post(body.encode())
    assert got.status in {200, 400}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({}, "messages[0]"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": 5, "content": "x"}, "messages[0].role"),
        ({"role": "root", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [5]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": 5}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].image_url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://x/"}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0].image_url",
        ),
    ],
    ids=lambda value: repr(value)[:80],
)
async def test_a_message_of_a_wrong_form(attack, message, param):
    await attack.refused(question(messages=[message]), 400, param)


@pytest.mark.parametrize("url", [5, None, {}, [], True])
async def test_a_url_of_a_wrong_type(attack, url):
    body = question()
    body["messages"][0]["content"][1]["image_url"]["url"] = url
    await attack.refused(body, 400, URL)


async def test_half_a_character_in_the_question(attack):
    body = json.dumps(question()).replace("what is it?", "what is \\ud83d?").encode()
    await attack.refused(body, 400, "body")


async def test_a_field_twice_means_the_same_here_and_upstream(attack):
    whole = json.dumps(question(n=1))[:-1]
    body = (whole + ', "n": 2, "model": "other", "model": "speceyes"}').encode()
    got = await attack.post(body)
    assert (got.status, got.headers["x-speceyes-reason"]) == (200, "choices")
    (told,) = attack.large.bodies
    assert (told["n"], told["model"]) == (2, "stub")


async def test_a_name_that_is_long_and_strange(attack):
    name = "\r\nset-cookie: a=b\x00<script>" + "x" * 100_000
    got = await attack.refused(question(model=name), 404, "model")
    assert "set-cookie" not in got.headers
    assert len(got.data) < 2000


async def test_a_hundred_thousand_messages(attack):
    body = question()
    body["messages"] = [{"role": "root", "content": ""}] * 40_000
    await attack.refused(body, 400, "messages[0].role")


def mutated(data, rng):
    """Change a few bytes: flipped, cut out, doubled, or strange ones put in."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, width = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 40))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + width]
            case 2:
                data[at:at] = data[at : at + width]
            case _:
                data[at:at] = rng.choice(STRANGE)
        if not data:
            break
    return bytes(data)


STRANGE = (
    b"\0",
    b"\xff",
    b"\r\n",
    b'"',
    b"\\",
    b"{",
    b"]",
    b"\xe2\x80\xa8",
    b"\\ud800",
    b"1e999",
    b",",
)


@pytest.mark.parametrize("seed", range(3))
async def test_requests_with_bytes_changed_at_random(attack, seed):
    rng = random.Random(seed)
    body = json.dumps(question(n=1, stop=None, metadata={"a": [1, {"b": "c"}]})).encode()
    for _ in range(60):
        if rng.random() < 0.8:
            got = await attack.post(mutated(body, rng))
            assert got.status in {200, 400, 404, 413, 415}
        else:
            got = await attack.send(mutated(raw_post(body, b"connection: close"), rng), quiet_s=1.2)
            assert set(got.statuses) <= {200, 400, 404, 405, 408, 413, 415, 431, 403}
