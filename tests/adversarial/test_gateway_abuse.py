"""Abuse of the gateway, one a test: each ends in a named refusal, soon, and the next request works.

The real application on a real server on loopback, with two scripted servers behind it. After each
abuse an honest request must be answered, and nothing of the abuse may have gone upstream.
"""

import asyncio
import base64
import gzip
import io
import json
import logging
import random
import struct
import zlib
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

import pytest
from PIL import Image

from speceyes import assemble_gateway
from speceyes.gate import GateSpec
from speceyes.gateway.app import GatewayApp
from speceyes.gateway.guard.keys import hash_key
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.settings import GatewaySettings, ImageSettings, Key, Limits, RouteSettings
from speceyes.gateway.settings_file import Plan, RoutePlan
from speceyes.settings_file import Choices
from tests.raw_http import connected, exchange, listening
from tests.stub_server import StubServer, say
from tests.test_gateway_fetching import Names, leads_to, says, site
from tests.test_pictures import png_header

pytestmark = pytest.mark.anyio

LIMITS = Limits(
    max_body_bytes=2_000_000,
    max_in_flight=4,
    max_queue=2,
    queue_timeout_s=5.0,
    header_timeout_s=0.5,
    body_timeout_s=0.8,
)
IMAGES = ImageSettings(fetch=True, allow=("*",), timeout_s=2.0, max_count=4)
SETTINGS = GatewaySettings(limits=LIMITS, images=IMAGES)
PICTURE = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
URL = "messages[0].content[1].image_url.url"


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def png():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def question(url=None, **more):
    """Give an honest request, or one with another picture or more fields."""
    picture = {"type": "image_url", "image_url": {"url": data_url(png()) if url is None else url}}
    content = [{"type": "text", "text": "what is it?"}, picture]
    return {"model": "speceyes", "messages": [{"role": "user", "content": content}]} | more


def raw_post(body, *headers, length=None):
    """Write a request."""
    head = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: localhost",
        b"content-type: application/json",
        *headers,
    ]
    if length is not False:
        head.append(b"content-length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*head, b"", body])


def few(body):
    """Take no more of a request than a screen needs: what is passed on can be anything."""
    return {"max_tokens": 20, "top_logprobs": 20 if body.get("top_logprobs") else 0}


@dataclass
class Attack:
    """A gateway to be abused, and the two servers behind it."""

    port: int
    small: StubServer
    large: StubServer

    async def send(self, data, **more):
        """Send bytes; the reply must come soon."""
        got = await exchange(self.port, data, **more)
        assert got.after_s < 4.0
        return got

    async def post(self, body, *headers, **more):
        """Send a request's body, in JSON or as bytes, on a connection of its own."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(raw_post(data, b"connection: close", *headers, **more))

    async def refused(self, body, status, param, *headers, **more):
        """Send what must be refused, naming the field."""
        got = await self.post(body, *headers, **more)
        assert got.status == status
        assert got.error["param"] == param
        assert got.error["message"].startswith(f"{param}: ")
        assert "Traceback" not in got.data.decode("latin-1")
        self.is_untouched()
        return got

    def is_untouched(self):
        """Hold that nothing went upstream."""
        assert self.small.bodies == self.large.bodies == []

    async def still_answers(self, *headers):
        """Hold that an honest request is answered."""
        got = await self.post(question(), *headers)
        assert got.status == 200
        assert json.loads(got.body)["choices"][0]["message"]["content"] == "small words"


@asynccontextmanager
async def attacked(settings=SETTINGS, **routes):
    async with AsyncExitStack() as stack:
        small = StubServer(lambda body: say(body, ["small", " words"]))
        large = StubServer(lambda body: say(few(body), ["no"]))
        for server in (small, large):
            await server.start()
            stack.push_async_callback(server.stop)
        choices = Choices(
            small=f"{small.url}#stub",
            large=f"{large.url}#stub",
            protocol="deepeyes",
            gate=GateSpec(threshold=1.0, k=16),
        )
        plan = Plan(
            settings=settings, routes=(RoutePlan(settings=RouteSettings(), choices=choices),)
        )
        app = GatewayApp(partial(assemble_gateway.open_gateway, plan))
        port = await stack.enter_async_context(
            listening(app, settings.limits, lifespan="on", server_header=False)
        )
        yield Attack(port, small, large)


@pytest.fixture(scope="module")
async def gateway():
    async with attacked() as attack:
        yield attack


@pytest.fixture
async def attack(gateway):
    for server in (gateway.small, gateway.large):
        server.bodies.clear()
        server.headers.clear()
    yield gateway
    await gateway.still_answers()


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


async def test_a_body_that_trickles(attack):
    async with connected(attack.port) as raw:
        await raw.send(raw_post(b"", length=1000))

        async def trickle():
            while True:
                await raw.send(b" ")
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        got = await raw.got()
        sending.cancel()
        assert (got.status, got.is_closed) == (408, True)
        assert got.after_s < 3.0


async def test_a_head_that_trickles(attack):
    async with connected(attack.port) as raw:

        async def trickle():
            await raw.send(b"POST /v1/chat/completions HTTP/1.1\r\n")
            while True:
                await raw.send(b"x: y\r\n")
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


# JSON that is none, or not what was agreed.


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


# Pictures that are bombs, or none.


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def stuffed(*chunks):
    """Give a PNG of one pixel with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *chunks, pixels, chunk(b"IEND", b"")])


GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02"
BOMBS = {
    "a flood of pixels": (png_header(65_000, 65_000), 413),
    "more pixels than a number holds": (png_header(2**31 - 1, 2**31 - 1), 413),
    "pixels beyond the limit by one row": (png_header(10_000, 10_001), 413),
    "a thread of pixels": (png_header(100_000, 10), 400),
    "text that unfolds": (
        stuffed(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(990_000)))] * 80),
        400,
    ),
    "a profile that unfolds": (
        stuffed(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
        400,
    ),
    "a hundred thousand empty parts": (stuffed(*[chunk(b"tEXt", b"a\0")] * 100_000), 400),
    "a jpeg of padding": (b"\xff\xd8" + b"\xff" * 1_400_000, 400),
    "a gif of one-byte blocks": (GIF + FRAME + b"\x01\x00" * 700_000, 400),
    "a drawing that runs": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", 415),
    "a drawing that refers": (b"<svg xmlns:x='http://www.w3.org/1999/xlink'/>", 415),
    "a page": (b"<!doctype html><script>", 415),
    "nothing": (b"", 400),
}


@pytest.mark.parametrize(("data", "status"), BOMBS.values(), ids=BOMBS)
async def test_a_picture_that_is_a_bomb_or_none(attack, data, status):
    await attack.refused(question(data_url(data)), status, URL)


async def test_more_pictures_than_may_be(attack):
    body = question()
    content = body["messages"][0]["content"]
    body["messages"][0]["content"] = [content[0], *[content[1]] * 5]
    await attack.refused(body, 413, "messages[0].content[5].image_url.url")


async def test_a_picture_whose_pixels_lie(attack):
    got = await attack.post(question(data_url(png_header(640, 480))))
    assert (got.status, got.error["code"]) == (400, "picture_truncated")


# Pictures that lie where nobody is to be sent.


@asynccontextmanager
async def canary():
    """Listen on loopback, and tell who came."""
    came = []

    async def hear(reader, writer):
        came.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], came


INSIDE = {
    "an address": "http://127.0.0.1:{port}/",
    "a name": "http://localhost:{port}/",
    "a decimal": "http://2130706433:{port}/",
    "a hexadecimal": "http://0x7f000001:{port}/",
    "an octal": "http://017700000001:{port}/",
    "a short one": "http://127.1:{port}/",
    "a mixed one": "http://0x7f.0.0.01:{port}/",
    "nothing but zero": "http://0:{port}/",
    "the unspecified": "http://0.0.0.0:{port}/",
    "six, loopback": "http://[::1]:{port}/",
    "six, mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "six, mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "six, compatible": "http://[::127.0.0.1]:{port}/",
    "six, translated": "http://[64:ff9b::7f00:1]:{port}/",
    "six, tunnelled": "http://[2002:7f00:1::]:{port}/",
    "six, with a zone": "http://[fe80::1%25lo]:{port}/",
    "wide digits": "http://１２７.0.0.1:{port}/",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "wide dots": "http://127。0。0。1:{port}/",
    "a dot at the end": "http://127.0.0.1.:{port}/",
    "percent-encoded": "http://127%2e0%2e0%2e1:{port}/",
    "behind a user": "http://example.org@127.0.0.1:{port}/",
    "behind a backslash": "http://127.0.0.1:{port}\\@example.org/",
    "behind a mark": "http://127.0.0.1:{port}#@example.org/",
    "a cloud's metadata": "http://169.254.169.254/latest/meta-data/",
    "a cloud's metadata in six": "http://[fd00:ec2::254]/latest/meta-data/",
    "a private net": "http://10.0.0.1/",
    "a file": "file:///etc/passwd",
    "another scheme": "gopher://127.0.0.1:{port}/_GET",
    "no scheme": "//127.0.0.1:{port}/",
}


@pytest.mark.parametrize("url", INSIDE.values(), ids=INSIDE)
async def test_a_picture_that_lies_inside(url):
    async with canary() as (port, came):
        images = replace(IMAGES, allow=("*", f"localhost:{port}", f"127.0.0.1:{port}"))
        async with attacked(replace(SETTINGS, images=images)) as attack:
            await attack.refused(question(url.format(port=port)), 400, URL)
            await attack.still_answers()
        assert came == []


def a_net(monkeypatch, names, port):
    """Let one address of loopback be public, and a few names lead where they should not."""
    judge = {"127.0.0.1": None}
    fetcher = partial(
        Fetcher, resolver=names, judge=lambda address: judge.get(str(address), "inside")
    )
    monkeypatch.setattr(assemble_gateway, "Fetcher", fetcher)
    allow = (f"*.test:{port}", f"127.0.0.2:{port}")
    return replace(SETTINGS, images=replace(IMAGES, allow=allow))


async def test_a_name_that_leads_elsewhere_the_second_time(monkeypatch):
    async with site() as outer, site("127.0.0.2", outer.port) as inner:
        outer.replies = inner.replies = {"/a.png": says(png())}
        names = Names(rebinds=[["127.0.0.1"], ["127.0.0.2"]])
        async with attacked(a_net(monkeypatch, names, outer.port)) as attack:
            url = f"http://rebinds.test:{outer.port}/a.png"
            assert (await attack.post(question(url))).status == 200
            asked = len(attack.small.bodies)
            got = await attack.post(question(url))
            assert (got.status, got.error["param"]) == (400, URL)
            assert len(attack.small.bodies) == asked
            await attack.still_answers()
        assert (len(outer.asked), len(inner.asked)) == (1, 0)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/a.png",
        "http://2130706434:{port}/a.png",
        "http://[::ffff:127.0.0.2]:{port}/a.png",
        "http://inside.test:{port}/a.png",
        "//inside.test:{port}/a.png",
        "http://127.0.0.1:1/a.png",
        "file:///etc/passwd",
        "/round",
    ],
)
async def test_a_redirect_that_leads_inside_or_round_and_round(monkeypatch, location):
    async with site() as outer, site("127.0.0.2", outer.port) as inner:
        target = leads_to(location.format(port=outer.port))
        outer.replies = {"/a.png": target, "/round": target}
        names = Names(outside=["127.0.0.1"], inside=["127.0.0.2"])
        async with attacked(a_net(monkeypatch, names, outer.port)) as attack:
            await attack.refused(question(f"http://outside.test:{outer.port}/a.png"), 400, URL)
            await attack.still_answers()
        assert inner.asked == []
        assert len(outer.asked) <= 4


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
