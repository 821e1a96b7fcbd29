"""Connections on a real uvicorn: slow and long heads, bodies in disguise, stalled readers."""

import asyncio
from time import monotonic

import pytest

from speceyes.gateway.guard.bodies import ARRIVED
from speceyes.gateway.settings import Limits
from tests.raw_http import connected, exchange, listening

pytestmark = pytest.mark.anyio

LIMITS = Limits(header_timeout_s=0.4, body_timeout_s=0.6)
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


class Echo:
    """Tells what it was asked, after reading all of it; some paths take long, or tell much."""

    def __init__(self):
        self.asked = []
        self.arrived = []
        self.left = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        body = b""
        self.arrived.append(scope["state"][ARRIVED]())
        while scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.asked.append((scope["method"], scope["path"], body))
        if scope["path"] == "/slow":
            await asyncio.sleep(1.0)
        much = b"x" * 1_000_000
        size = 40_000_000 if scope["path"] == "/much" else 2
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if size == 2:
            await send({"type": "http.response.body", "body": b"ok"})
            return
        for _ in range(40):
            await send({"type": "http.response.body", "body": much, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def test_requests_in_order_are_served_on_one_connection():
    app = Echo()
    async with listening(app, LIMITS) as port, connected(port) as raw:
        for path in ("/a", "/b"):
            body = b"z" * 100_000
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            await raw.send(head.encode() + body)
            assert (await raw.got(until=b"ok")).status == 200
            await asyncio.sleep(0.5)  # between requests, a head's time does not run
        await raw.send(GET)
        assert (await raw.got(until=b"ok")).status == 200
    assert [path for _, path, _ in app.asked] == ["/a", "/b", "/a"]


async def test_several_requests_at_once_are_served_in_order():
    app = Echo()
    async with listening(app, LIMITS) as port, connected(port) as raw:
        await raw.send(GET * 50)
        got = await raw.got(quiet_s=0.3)
        assert got.statuses == [200] * 50
        assert not got.is_closed


async def test_a_head_that_trickles_is_ended_whatever_trickles():
    async with listening(Echo(), LIMITS) as port, connected(port) as raw:

        async def trickle():
            await raw.send(b"GET / HTTP/1.1\r\n")
            while True:
                await raw.send(b"a: b\r\n")
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        got = await raw.got()
        sending.cancel()
        assert got.status == 408
        assert got.is_closed
        assert 0.3 < got.after_s < 2.0
        assert "0.4 s" in got.error["message"]


@pytest.mark.parametrize("drip", [b"", b"\r\n"], ids=["nothing", "empty lines"])
async def test_a_connection_that_never_begins_is_closed_in_silence(drip):
    async with listening(Echo(), LIMITS) as port, connected(port) as raw:

        async def trickle():
            while True:
                await raw.send(drip)
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        got = await raw.got()
        sending.cancel()
        assert (got.data, got.is_closed) == (b"", True)
        assert 0.3 < got.after_s < 2.0


async def test_empty_lines_after_a_request_do_not_hold_the_connection_open():
    async with listening(Echo(), LIMITS, keep_alive_s=60) as port, connected(port) as raw:
        await raw.send(GET)
        await raw.got(until=b"ok")

        async def trickle():
            while True:
                await raw.send(b"\r\n")
                await asyncio.sleep(0.05)

        sending = asyncio.create_task(trickle())
        assert (await raw.got()).is_closed
        sending.cancel()


async def test_the_second_head_on_a_connection_is_timed_as_the_first():
    async with listening(Echo(), LIMITS, keep_alive_s=60) as port, connected(port) as raw:
        await raw.send(GET)
        await raw.got(until=b"ok")
        await raw.send(b"GET /b HTT")
        assert (await raw.got()).status == 408


async def test_a_reply_under_way_is_not_broken_into_by_a_bad_second_request():
    app = Echo()
    for second in (
        b"GET /b HTT",
        b"\x16\x03\x01 nonsense",
        b"GET / HTTP/1.1\r\na: " + b"b" * 99_999,
    ):
        async with listening(app, LIMITS) as port:
            slow = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"
            got = await exchange(port, slow + second)
            assert got.status == 200
            assert got.body == b"ok"
            assert got.is_closed
    assert app.asked == [("GET", "/slow", b"")] * 3


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000_000,  # and no end
        b"GET / HTTP/1.1\r\n" + b"a" * 3_000_000,
        b"GET /" + b"a" * 3_000_000,
    ],
    ids=[
        "long path",
        "long value",
        "many headers",
        "endless value",
        "endless name",
        "endless path",
    ],
)
async def test_a_long_head_is_refused_and_not_gathered(head):
    app = Echo()
    async with listening(app, LIMITS) as port:
        got = await exchange(port, head)
        assert got.is_closed
        assert got.statuses in ([431], [])  # a client that still sends may miss it
        assert got.after_s < 2.0
    assert app.asked == []


async def test_a_head_of_the_longest_size_still_passes():
    async with listening(Echo(), LIMITS) as port:
        head = b"GET / HTTP/1.1\r\nx: " + b"a" * 30_000 + b"\r\n\r\n"
        assert (await exchange(port, head, until=b"ok")).status == 200


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 0, 40\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 0x2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\rb: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nx y: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda request: repr(request)[2:60],
)
async def test_what_two_servers_could_read_in_two_ways_is_refused(request_):
    app = Echo()
    async with listening(app, LIMITS) as port:
        got = await exchange(port, request_ + SMUGGLED)
        assert got.status == 400
        assert got.is_closed
        assert got.error["type"] == "invalid_request_error"
    assert "/smuggled" not in [path for _, path, _ in app.asked]


async def test_an_upgrade_that_nobody_offers_smuggles_nothing():
    app = Echo()
    async with listening(app, LIMITS) as port:
        upgrade = b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        got = await exchange(port, upgrade + SMUGGLED, quiet_s=1.0)
        assert 101 not in got.statuses
    assert "/smuggled" not in [path for _, path, _ in app.asked]


async def test_a_reader_that_stalls_is_let_go_and_the_application_hears_of_it():
    async with listening(Echo(), LIMITS) as port, connected(port) as raw:
        await raw.send(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
        raw.writer.transport.pause_reading()
        before_s = monotonic()
        await asyncio.sleep(1.5)
        raw.writer.transport.resume_reading()
        got = await raw.got()
        assert got.is_closed
        assert len(got.data) < 40_000_000
        assert monotonic() - before_s < 5.0


async def test_a_reader_that_is_merely_slow_gets_all():
    async with listening(Echo(), LIMITS) as port, connected(port) as raw:
        await raw.send(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
        total = 0
        while total < 40_000_000:
            got = await raw.got(quiet_s=0.05, until=b"x" * 3_000_000)
            total += len(got.data)
            await asyncio.sleep(0.05)
            assert not got.is_closed
        assert total > 40_000_000


async def test_what_is_left_of_a_body_after_its_reply_is_taken_in_but_not_for_ever():
    post = b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    async with listening(Echo(), LIMITS, keep_alive_s=60) as port:
        async with connected(port) as raw:
            await raw.send(post)
            assert (await raw.got(until=b"ok")).status == 200
            await raw.send(bytes(1_000_000) + GET)
            assert (await raw.got(until=b"ok")).status == 200
        async with connected(port) as raw:
            await raw.send(post)
            await raw.got(until=b"ok")

            async def trickle():
                while True:
                    await raw.send(b"a")
                    await asyncio.sleep(0.05)

            sending = asyncio.create_task(trickle())
            got = await raw.got()
            sending.cancel()
            assert (got.data, got.is_closed) == (b"", True)


async def test_the_application_is_told_if_a_body_is_all_there():
    app = Echo()
    async with listening(app, LIMITS) as port, connected(port) as raw:
        post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
        await raw.send(post + b"abcde")
        await raw.got(until=b"ok")
        await raw.send(post)
        await asyncio.sleep(0.1)
        await raw.send(b"abcde" + GET)
        await raw.got(until=b"ok")
        await raw.got(quiet_s=0.2)
    assert app.arrived == [True, False, True]
    assert [body for _, _, body in app.asked] == [b"abcde", b"abcde", b""]


async def test_a_client_that_leaves_within_its_body_is_told_to_the_application():
    app = Echo()
    async with listening(app, LIMITS) as port:
        async with connected(port) as raw:
            await raw.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        assert (app.left, app.asked) == (1, [])
