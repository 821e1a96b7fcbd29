"""Abuse of the gateway over HTTP: bodies, heads, paths, keys and floods, each refused, and soon."""

import asyncio
import gzip
import io
import json
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from time import monotonic

import pytest
from PIL import Image

from speceyes.gateway.guard.keys import hash_key
from speceyes.gateway.settings import Key
from tests.adversarial.abused_gateway import (
    IMAGES,
    LIMITS,
    SETTINGS,
    attacked,
    data_url,
    question,
    raw_post,
)
from tests.adversarial.abused_gateway import anyio_backend as anyio_backend  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import attack as attack  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import gateway as gateway  # noqa: PLC0414 - a fixture
from tests.raw_http import connected, exchange

pytestmark = pytest.mark.anyio


# Bytes that are too many, or never come.


async def test_a_body_that_says_it_is_too_long(attack):
    got = await attack.refused(b"{", 413, "body", length=2_000_001)
    assert got.headers["connection"] == "close"
    assert got.after_s < LIMITS.body_timeout_s


async def test_a_body_that_says_it_is_longer_than_any_number(attack):
    got = await attack.send(raw_post(b"", b"content-length: " + b"9" * 400, length=False))
    assert got.status in {400, 413}


async def test_a_body_in_chunks_that_do_not_end(attack):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    head = raw_post(b"", b"transfer-encoding: chunked", length=False)
    got = await attack.send(head + chunk * 60)
    assert got.statuses in ([413], [])  # a client that still sends may miss it
    assert got.is_closed
    attack.is_untouched()


async def test_a_body_that_never_comes(attack):
    got = await attack.send(raw_post(b"", length=1000))
    assert (got.status, got.error["param"], got.is_closed) == (408, "body", True)


@pytest.mark.parametrize(
    ("begins", "drip"),
    [
        pytest.param(raw_post(b"", length=1000), b" ", id="body"),
        pytest.param(b"POST /v1/chat/completions HTTP/1.1\r\n", b"x: y\r\n", id="head"),
    ],
)
async def test_a_request_that_trickles(attack, begins, drip):
    async with connected(attack.port) as raw:

        async def trickle():
            await raw.send(begins)
            while True:
                await raw.send(drip)
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        got = await raw.got()
        sending.cancel()
        assert (got.status, got.is_closed) == (408, True)
        assert got.after_s < 3.0


async def test_many_connections_that_do_nothing(attack):
    async with AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(attack.port))
        await attack.still_answers()
        idle = await stack.enter_async_context(connected(attack.port))
        assert (await idle.got()).is_closed


async def test_a_head_without_end(attack):
    got = await attack.send(b"POST /v1/chat/completions HTTP/1.1\r\nx: " + b"y" * 1_000_000)
    assert got.statuses in ([431], [])
    assert got.is_closed


async def test_a_thousand_headers(attack):
    got = await attack.send(raw_post(b"{}", *[b"x: y"] * 1000))
    assert got.status == 431


async def test_a_body_that_is_compressed_is_not_unpacked(attack):
    bomb = gzip.compress(b" " * 100_000_000 + json.dumps(question()).encode())
    await attack.refused(bomb, 400, "body", b"content-encoding: gzip")


# Two requests in one, and headers that lie.


@pytest.mark.parametrize(
    "headers",
    [
        (b"content-length: 2", b"content-length: 60"),
        (b"content-length: 2", b"transfer-encoding: chunked"),
        (b"transfer-encoding: chunked", b"content-length: 2"),
        (b"transfer-encoding: chunked", b"transfer-encoding: identity"),
        (b"transfer-encoding: xchunked",),
        (b"transfer-encoding : chunked",),
        (b"content-length: 2\r\n 0",),
        (b"content-length: 2,2",),
        (b"content-length: 0x10",),
    ],
    ids=repr,
)
async def test_a_request_hidden_in_another(attack, headers):
    hidden = raw_post(json.dumps(question()).encode())
    got = await attack.send(raw_post(b"0\r\n\r\n" + hidden, *headers, length=False))
    assert got.status == 400
    assert got.is_closed
    attack.is_untouched()


async def test_a_line_break_in_a_header(attack):
    got = await attack.send(raw_post(b"{}", b"x-request-id: a\rset-cookie: b=c"))
    assert got.status == 400
    assert "set-cookie" not in got.headers


async def test_headers_are_not_echoed(attack):
    evil = b'<script>"%0d%0aset-cookie:%20a=b'
    names = (b"x-request-id", b"traceparent", b"x-speceyes-route", b"referer")
    got = await attack.post(question(), *[name + b": " + evil for name in names])
    assert got.status == 200
    assert b"script" not in got.data
    assert not {"set-cookie", "access-control-allow-origin", "server"} & set(got.headers)


async def test_headers_of_any_bytes_on_their_way_upstream(attack):
    headers = [name + b": \x80\xff\xfe" for name in (b"traceparent", b"tracestate", b"accept")]
    got = await attack.post(question(n=2), *headers)
    assert got.status == 200
    assert got.headers["x-speceyes-route"] == "bypass"


async def test_headers_that_would_change_who_is_asked_upstream_stay_here(attack):
    headers = [b"authorization: Bearer mine", b"cookie: a=b", b"x-forwarded-for: 1.2.3.4"]
    assert (await attack.post(question(n=2), *headers)).status == 200
    (told,) = attack.large.headers
    assert not {"authorization", "cookie", "x-forwarded-for"} & {name.lower() for name in told}


@pytest.mark.parametrize("text", [b"nan", b"-1", b"0", b"inf", b"1e999", b"soon", b"1,2", b"\xff"])
async def test_a_deadline_that_is_none(attack, text):
    await attack.refused(question(), 400, "x-request-timeout-s", b"x-request-timeout-s: " + text)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/v1/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/page/index.html",
        "//etc/passwd",
        "/%00",
        "/v1/chat/completions/",
        "http://127.0.0.1:1/v1/models",
        "/" + "a" * 20_000,
        "/v1/models/" + "%F0%9F%98%80" * 100,
        "/%ff%fe",
        "/v1/models/%0d%0aset-cookie:a=b",
        "*",
    ],
    ids=lambda path: path[:40],
)
async def test_a_path_that_leads_nowhere(attack, path):
    got = await attack.send(
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    )
    assert got.status in {200, 400, 404, 405} if path.startswith("http:") else {400, 404, 405}
    assert b"root:" not in got.data
    assert "set-cookie" not in got.headers
    assert len(got.data) < 2000


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH", "CONNECT"])
async def test_another_method(attack, method):
    request = raw_post(b"{}", b"connection: close").replace(b"POST", method.encode(), 1)
    got = await attack.send(request)
    assert got.status in {400, 405}
    attack.is_untouched()


# Pages of elsewhere, and keys.


@pytest.mark.parametrize("path", ["/", "/v1/stats", "/metrics", "/v1/models"])
@pytest.mark.parametrize(
    ("headers", "param"),
    [
        (("host: evil.test:8400",), "host"),
        (("host: localhost.evil.test",), "host"),
        (("host: 127.0.0.1.evil.test",), "host"),
        (("host: 2130706433",), "host"),
        (("host: localhost", "host: evil.test"), "host"),
        (("host: localhost", "origin: https://evil.test"), "origin"),
        (("host: localhost", "origin: null"), "origin"),
        (("host: evil.test", "origin: http://evil.test"), "host"),
    ],
)
async def test_a_page_of_elsewhere_in_a_browser_here(attack, path, headers, param):
    head = "\r\n".join([f"GET {path} HTTP/1.1", *headers, "connection: close", "", ""])
    got = await attack.send(head.encode())
    assert (got.status, got.error["param"]) == (403, param)


async def test_a_form_of_elsewhere_that_a_browser_sends_without_asking(attack):
    headers = (b"content-type: text/plain", b"origin: https://evil.test")
    await attack.refused(question(), 403, "origin", *headers)


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1", "[::1]:8400", "LOCALHOST", "127.9.9.9"]
)
async def test_the_machines_own_names_are_none_of_elsewhere(attack, host):
    head = f"GET /v1/models HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\n"
    assert (await attack.send(f"{head}connection: close\r\n\r\n".encode())).status == 200


async def test_with_keys_or_beyond_loopback_any_name_may_lead_here():
    keys = (Key(name="anna", sha256=hash_key("sk-anna")),)
    for settings in (replace(SETTINGS, keys=keys), replace(SETTINGS, host="192.0.2.1")):
        async with attacked(settings) as attack:
            head = b"GET /v1/models HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n"
            got = await attack.send(head + b"authorization: Bearer sk-anna\r\n\r\n")
            assert got.status == 200


async def test_a_key_that_is_wrong_is_refused_before_the_body_is_read():
    keys = (Key(name="anna", sha256=hash_key("sk-anna")),)
    async with attacked(replace(SETTINGS, keys=keys)) as attack:
        for header in (b"x: y", b"authorization: Bearer sk-ben", b"authorization: Basic c2s6c2s="):
            got = await attack.send(raw_post(b"", header, length=1_000_000))
            assert (got.status, got.error["param"]) == (401, "authorization")
            assert got.after_s < LIMITS.body_timeout_s
        for path in ("/", "/metrics", "/v1/stats", "/v1/models"):
            got = await attack.send(f"GET {path} HTTP/1.1\r\nconnection: close\r\n\r\n".encode())
            assert got.status == 401
        await attack.still_answers(b"authorization: Bearer sk-anna")


async def test_a_key_shows_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    keys = (Key(name="anna", sha256=hash_key("sk-anna-secret")),)
    async with attacked(replace(SETTINGS, keys=keys)) as attack:
        got = await attack.post(question(), b"authorization: Bearer sk-wrong-secret")
        assert b"secret" not in got.data
        await attack.still_answers(b"authorization: Bearer sk-anna-secret")
    assert "secret" not in caplog.text


# Too much at once.


async def test_more_requests_than_there_is_room_for():
    async with attacked() as attack:
        attack.large.hold(100)
        data = raw_post(json.dumps(question()).encode(), b"connection: close")
        waiting = [asyncio.create_task(exchange(attack.port, data)) for _ in range(12)]
        done, _ = await asyncio.wait(waiting, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 6:
            done, _ = await asyncio.wait(waiting, timeout=0.1)
        for one in done:
            got = one.result()
            assert got.status == 429
            assert int(got.headers["retry-after"]) >= 1
            assert got.error["code"] == "no_room"
        assert len(done) == 12 - LIMITS.max_in_flight - LIMITS.max_queue
        attack.large.release()
        rest = await asyncio.gather(*waiting)
        assert sorted(one.status for one in rest) == [200] * 6 + [429] * 6


async def test_large_bodies_by_many_at_once():
    limits = replace(LIMITS, max_held_bytes=3_000_000, body_timeout_s=3.0)
    async with attacked(replace(SETTINGS, limits=limits)) as attack, AsyncExitStack() as stack:
        for _ in range(3):
            raw = await stack.enter_async_context(connected(attack.port))
            await raw.send(raw_post(b" " * 900_000, length=900_001))
        await asyncio.sleep(0.2)
        got = await attack.post(b" " * 1_000_000)
        assert (got.status, got.error["code"]) == (429, "no_room")
        assert "retry-after" in got.headers
        await attack.still_answers()
        await stack.aclose()
        await asyncio.sleep(0.2)
        assert (await attack.post(b" " * 1_000_000)).status == 400


async def test_many_pictures_that_are_small_as_files_and_large_as_pixels():
    images = replace(IMAGES, max_pixels=1_000_000, max_held_pixels=1_500_000)
    limits = replace(LIMITS, queue_timeout_s=0.5)
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(buffer, "PNG")
    body = question(data_url(buffer.getvalue()))
    async with attacked(replace(SETTINGS, images=images, limits=limits)) as attack:
        attack.large.hold(100)
        asking = [asyncio.create_task(attack.post(body)) for _ in range(4)]
        refused = [await one for one in asyncio.as_completed(asking[1:])]
        assert [got.status for got in refused] == [429] * 3
        attack.large.release()
        assert (await asking[0]).status == 200
        assert (await attack.post(body)).status == 200


async def test_one_key_that_asks_without_pause_leaves_room_for_others():
    keys = (
        Key(name="anna", sha256=hash_key("sk-anna"), requests_per_minute=20, max_in_flight=1),
        Key(name="ben", sha256=hash_key("sk-ben")),
    )
    async with attacked(replace(SETTINGS, keys=keys)) as attack:
        anna = b"authorization: Bearer sk-anna"
        statuses = [(await attack.post(question(), anna)).status for _ in range(6)]
        assert statuses == [200, 200, 429, 429, 429, 429]
        await attack.still_answers(b"authorization: Bearer sk-ben")


async def test_clients_that_leave_at_once_leave_nothing_behind():
    async with attacked() as attack:
        attack.large.hold(100)
        for _ in range(20):
            async with connected(attack.port) as raw:
                await raw.send(raw_post(json.dumps(question()).encode()))
                await asyncio.sleep(0.02)
        await attack.large.until(lambda server: server.in_flight == 0)
        attack.large.release()
        before_s = monotonic()
        await attack.still_answers()
        assert monotonic() - before_s < 2.0
