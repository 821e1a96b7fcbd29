"""Servers that fail, each in its way: retried where that helps, then a named error with a mend."""

import asyncio
import json
import math
import socket
import time
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.engines.wire.retry import retry_after_s, wait_before_retry
from speceyes.errors import (
    ContextTooLong,
    EngineError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
)
from tests.http_asked import Asked, ask, words
from tests.stub_server import HangUp, Raw, Silence, refusal, say, serving

pytestmark = pytest.mark.anyio

HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def failure(script, request=None, **settings):
    """Give the error that a call ends in, and the server that caused it."""
    async with serving(script) as server, Asked(server, **settings) as engine:
        with pytest.raises(EngineError) as caught:
            await engine.generate(request or ask())
        assert caught.value.engine == engine.name
        return caught.value, server


def events(*datas, done=True, **more):
    lines = [f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n" for data in datas]
    if done:
        lines.append("data: [DONE]\n\n")
    pieces = tuple(line.encode() for line in lines)
    return Raw(content_type="text/event-stream", pieces=pieces, **more)


def chunk(content="a", finish=None):
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


# What cannot be reached.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def unreachable(base_url, **settings):
    settings = HttpSettings(**({"backoff_s": 0.001, "max_attempts": 2} | settings))
    engine = HttpEngine(base_url, model=None, settings=settings)
    try:
        with pytest.raises((EngineUnavailable, EngineTimeout)) as caught:
            await engine.generate(ask())
    finally:
        await engine.aclose()
    return caught.value


async def test_a_refused_connection_says_where_and_what_to_do():
    error = await unreachable(f"http://127.0.0.1:{(port := free_port())}/v1")
    assert isinstance(error, EngineUnavailable)
    assert f"127.0.0.1:{port}" in str(error)
    assert "2 attempts" in str(error)
    assert "start the server" in str(error)


async def test_a_host_that_does_not_exist_is_named(monkeypatch):
    async def no_such_host(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", no_such_host)
    error = await unreachable("http://nowhere.example:8000/v1")
    assert "nowhere.example" in str(error)
    assert isinstance(error, EngineUnavailable)


async def test_a_port_that_speaks_something_else_is_named():
    async def greet(_, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        engine = HttpEngine(f"http://127.0.0.1:{port}/v1", model="m")
        with pytest.raises(EngineProtocolError, match="port"):
            await engine.generate(ask())
        await engine.aclose()


# What does not answer.


@pytest.mark.parametrize(
    ("settings", "clock"),
    [
        ({"first_byte_timeout_s": 0.1, "stream": True}, "first_byte_timeout_s"),
        ({"total_timeout_s": 0.1, "stream": True}, "total_timeout_s"),
        ({"total_timeout_s": 0.1, "first_byte_timeout_s": 0.01, "stream": False}, "total_timeout"),
    ],
)
async def test_a_server_that_never_answers_names_the_clock_that_ran_out(settings, clock):
    start_s = time.monotonic()
    error, server = await failure(lambda _: Silence(), **settings)
    assert isinstance(error, EngineTimeout)
    assert clock in str(error)
    assert len(server.bodies) == 1  # time is not tried again
    assert time.monotonic() - start_s < 5


async def test_after_its_first_byte_a_stream_may_take_its_time():
    slow = lambda body: say(body, ["word "] * 8, token_s=0.03)  # noqa: E731
    async with serving(slow) as server, Asked(server, first_byte_timeout_s=0.15) as engine:
        assert (await engine.generate(ask())).text == "word " * 8


async def test_a_connection_that_is_not_taken_times_out():
    with socket.socket() as deaf:  # its queue is full: further connections get no answer
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        await anyio.sleep(0.05)
        error = await unreachable(
            f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", connect_timeout_s=0.1
        )
        for filler in fillers:
            filler.close()
    assert isinstance(error, EngineTimeout)
    assert "connect_timeout_s; 2 attempts" in str(error)


# What refuses.


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (refusal(401, "bad key"), EngineUnavailable, "key_env"),
        (refusal(403, "not yours"), EngineUnavailable, "key"),
        (refusal(400, "'max_tokens' must be positive"), EngineProtocolError, "must be positive"),
        (Raw(422, b'{"detail": [{"msg": "Field required"}]}'), EngineProtocolError, "Field"),
        (Raw(400, b"{}"), EngineProtocolError, "400"),
        (Raw(400, b'{"error": "just words"}'), EngineProtocolError, "just words"),
        (Raw(302, headers=(("location", "http://x/"),)), EngineProtocolError, "elsewhere"),
        (Raw(500, b"Internal Server Error", "text/plain"), EngineUnavailable, "Internal Server"),
        (refusal(400, "x", code="context_length_exceeded"), ContextTooLong, "smaller pictures"),
        (
            refusal(400, "The decoder prompt (length 9) is longer than the maximum model length"),
            ContextTooLong,
            "smaller pictures",
        ),
        (refusal(400, "This model's maximum context length is 9 tokens."), ContextTooLong, "fit"),
        (refusal(400, "x", type="exceed_context_size_error"), ContextTooLong, "fit"),
        (
            refusal(400, "The image has 900 tokens, exceeds the pre-allocated encoder cache size"),
            ContextTooLong,
            "pictures",
        ),
        (Raw(413, b"too large", "text/plain"), ContextTooLong, "pictures"),
    ],
)
async def test_a_refusal_is_named_and_not_tried_again(reply, kind, said):
    error, server = await failure(lambda _: reply)
    assert type(error) is kind
    assert said in str(error)
    # One more is sent without the settings that not all servers take, and no other.
    assert len(server.bodies) <= 2


async def test_a_refused_key_names_its_variable_and_never_the_key():
    script = lambda _: refusal(401, "no such key: sk-hush")  # noqa: E731
    error, _ = await failure(script, key="sk-hush", key_env="MY_KEY")
    assert "MY_KEY" in str(error)
    assert "sk-hush" not in str(error)


async def test_an_unknown_model_lists_the_served_ones():
    missing = refusal(404, "The model `nope` does not exist.")
    error, _ = await failure(lambda _: missing, model="nope")
    assert isinstance(error, EngineUnavailable)
    assert "'nope'" in str(error)
    assert "it serves: stub" in str(error)


async def test_an_address_without_the_api_says_so():
    async with serving(words) as server:
        engine = HttpEngine(server.url.removesuffix("/v1"), model="stub")
        with pytest.raises(EngineProtocolError, match="/v1"):
            await engine.generate(ask())
        await engine.aclose()


async def test_a_server_that_serves_nothing_says_so():
    async with serving(words, models=()) as server, Asked(server, model=None) as engine:
        with pytest.raises(EngineUnavailable, match="serves no model"):
            await engine.generate(ask())


async def test_a_model_that_was_looked_up_is_looked_up_again_once_it_is_gone():
    def script(body):
        return words(body) if body["model"] == server.models[0]["id"] else refusal(404, "gone")

    async with serving(script) as server, Asked(server, model=None) as engine:
        await engine.generate(ask())
        server.models = ({"id": "another"},)
        with pytest.raises(EngineUnavailable, match="it serves: another"):
            await engine.generate(ask())
        assert (await engine.generate(ask())).text == "a red disc"


# What is not as agreed.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Raw(body=HTML, content_type="text/html"), "text/html"),
        (Raw(body=HTML, content_type="text/html"), "<!DOCTYPE html>"),
        (Raw(body=b"", content_type="text/html"), "text/html"),
        (Raw(body=b"{"), "no JSON"),
        (Raw(body=b"[]"), "agreed form"),
        (Raw(body=b'{"choices": []}'), "finish_reason"),
        (Raw(body=b'{"choices": [{"message": {"content": "a"}}]}'), "finish_reason"),
        (Raw(body=b'{"choices": [{"message": {"content": 3}}]}'), "agreed form"),
        (Raw(body=b'{"object": "error", "message": "out of order", "code": null}'), "out of"),
        (Raw(body=json.dumps(chunk(finish="content_filter")).encode()), "content_filter"),
    ],
)
async def test_a_reply_that_is_not_of_the_api_is_named(reply, said, stream):
    error, server = await failure(lambda _: reply, stream=stream)
    assert isinstance(error, EngineProtocolError)
    assert said in str(error)
    assert len(str(error)) < 500
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (events("{"), "no JSON"),
        (events("<html>"), "no JSON"),
        (events(chunk()), "finish_reason"),
        (events(), "finish_reason"),
        (events(chunk(finish="stop"), done=False), "[DONE]"),
        (events(chunk(), done=False), "[DONE]"),
        (events(chunk(), {"error": {"message": "CUDA out of memory"}}), "CUDA"),
        (events(chunk(), {"error": {"message": "odd", "code": 400}}), "odd"),
        (events(chunk(), {"object": "error", "message": "old style", "code": 200}), "old style"),
        (events(chunk(finish="abort")), "abort"),
    ],
)
async def test_a_malformed_stream_is_named(reply, said):
    error, server = await failure(lambda _: reply)
    assert isinstance(error, EngineProtocolError)
    assert said in str(error)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [(500, EngineUnavailable), (413, ContextTooLong), (503, EngineUnavailable)]
)
async def test_an_error_within_a_stream_keeps_its_kind_and_is_not_tried_again(code, kind):
    reply = events(chunk(), {"error": {"message": "x", "code": code}})
    error, server = await failure(lambda _: reply)
    assert (type(error), len(server.bodies)) == (kind, 1)


async def test_a_stream_that_breaks_off_is_not_tried_again():
    error, server = await failure(lambda _: events(chunk(), done=False, breaks_off=True))
    assert isinstance(error, EngineUnavailable)
    assert "broke off" in str(error)
    assert len(server.bodies) == 1


async def test_a_stream_is_over_at_done_though_the_connection_stays():
    async def generate():
        reply = events(chunk(finish="stop"), hold_s=30.0)
        async with serving(lambda _: reply) as server, Asked(server) as engine:
            return await engine.generate(ask())

    with anyio.fail_after(3):
        assert (await generate()).text == "a"


async def test_a_reply_in_one_piece_to_a_wish_for_a_stream_is_read():
    whole = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    reply = Raw(body=json.dumps(whole).encode())
    async with serving(lambda _: reply) as server, Asked(server, stream=True) as engine:
        assert (await engine.generate(ask())).text == "a"


async def test_a_reply_without_end_is_cut_off(monkeypatch):
    monkeypatch.setattr("speceyes.engines.transport._MAX_REPLY_BYTES", 1000)
    reply = events(*[chunk("word " * 20)] * 30)
    error, _ = await failure(lambda _: reply)
    assert isinstance(error, EngineProtocolError)
    assert "1000 bytes" in str(error)


# What is tried again.


def after(times, reply):
    """Give a reply so many times, and then a good one."""
    left = [reply] * times

    def script(body):
        return left.pop() if left else words(body)

    return script


@pytest.mark.parametrize(
    "reply", [refusal(429, "busy"), refusal(503, "loading"), Raw(502), Raw(504), HangUp()]
)
async def test_what_may_pass_is_tried_again(reply):
    async with serving(after(2, reply)) as server, Asked(server) as engine:
        assert (await engine.generate(ask())).text == "a red disc"
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(429, "busy"), "too much to do"),
        (refusal(503, "loading the model"), "loading the model"),
        (Raw(502, HTML, "text/html"), "502"),
        (HangUp(), "3 attempts"),
    ],
)
async def test_what_does_not_pass_is_given_up_and_named(reply, said):
    error, server = await failure(lambda _: reply)
    assert isinstance(error, EngineUnavailable)
    assert said in str(error)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("in_words", [False, True])
async def test_the_wait_that_a_server_asks_for_is_kept(in_words):
    date = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    busy = refusal(429, "busy", headers={"Retry-After": date if in_words else "1"})
    start_s = time.monotonic()
    async with serving(after(1, busy)) as server, Asked(server) as engine:
        await engine.generate(ask())
    assert 0.9 < time.monotonic() - start_s < 4


async def test_a_wait_beyond_the_deadline_is_an_error_at_once():
    busy = refusal(503, "back tomorrow", headers={"Retry-After": "86400"})
    start_s = time.monotonic()
    error, server = await failure(lambda _: busy)
    assert "back tomorrow" in str(error)
    assert len(server.bodies) == 1
    assert time.monotonic() - start_s < 2


# The plan of retries, by itself.


def wait(attempts=1, elapsed_s=0.0, asked_s=None, draw=0.5, **settings):
    return wait_before_retry(
        HttpSettings(**settings), attempts=attempts, elapsed_s=elapsed_s, asked_s=asked_s, draw=draw
    )


def test_waits_double_and_are_spread():
    assert [wait(n, max_attempts=9) for n in (1, 2, 3)] == [0.25, 0.5, 1.0]
    assert [wait(draw=draw) for draw in (0.0, 0.5, 0.999)] == pytest.approx([0.125, 0.25, 0.37475])


def test_waits_end_with_the_attempts_and_with_the_deadline():
    assert wait(3) is None
    assert wait(1, max_attempts=1) is None
    assert wait(2, elapsed_s=29.5) == 0.5
    assert wait(2, elapsed_s=29.6) is None


def test_a_server_may_ask_for_more_and_not_for_less():
    assert wait(asked_s=7.0) == 7.0
    assert wait(asked_s=0.0) == 0.25
    assert wait(asked_s=31.0) is None


NOON = datetime(2026, 10, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2026 12:00:09 GMT", 9.0),
        ("Wed, 21 Oct 2026 12:00:09 -0000", 9.0),
        ("Wed, 21 Oct 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_a_wish_to_wait_is_read(header, seconds):
    assert retry_after_s(header, now=NOON) == seconds
    assert not math.isnan(seconds or 0.0)
