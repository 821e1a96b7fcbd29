"""The gateway's room for bodies and pixels: what is read, what waits, what is refused."""

from functools import partial

import anyio
import pytest

from speceyes.errors import NoRoom, RequestTooLarge, RequestTooSlow
from speceyes.gateway.guard.bodies import ARRIVED, BodyRoom, ClientLeft
from speceyes.gateway.guard.pixels import PixelRoom
from speceyes.gateway.settings import Limits
from tests.stand_ins import virtual

LIMITS = Limits(max_body_bytes=10, max_held_bytes=25, body_timeout_s=5.0)


def scope(*headers):
    return {"type": "http", "headers": list(headers)}


def arriving(*messages, gap_s=0.0):
    left = list(messages)

    async def receive():
        await anyio.sleep(gap_s)
        if not left:
            await anyio.sleep_forever()
        return left.pop(0)

    return receive


async def read_body(scope, receive, limits, room=None):
    room = room or BodyRoom(limits)
    before = room.held_bytes
    try:
        body = await room.read(scope, receive)
    except BaseException:
        assert room.held_bytes == before
        raise
    assert room.held_bytes == before + len(body)
    return body


def piece(data, *, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


@virtual
async def test_a_body_is_read_whole():
    whole = arriving(piece(b"abc"), piece(b""), piece(b"defghij", more=False))
    assert await read_body(scope((b"content-length", b"10")), whole, LIMITS) == b"abcdefghij"
    assert await read_body(scope(), arriving(piece(b"", more=False)), LIMITS) == b""


@virtual
@pytest.mark.parametrize("has_arrived", [True, False])
async def test_a_body_that_is_all_there_is_read_the_same(has_arrived):
    told = scope() | {"state": {ARRIVED: lambda: has_arrived}}
    assert await read_body(told, arriving(piece(b"ab", more=False)), LIMITS) == b"ab"
    with pytest.raises(RequestTooLarge):
        await read_body(told, arriving(piece(b"a" * 11, more=False)), LIMITS)


@virtual
@pytest.mark.parametrize("told", [b"11", b"0000011", b"9" * 5000])
async def test_a_body_that_says_it_is_too_long_is_not_read_at_all(told):
    with pytest.raises(RequestTooLarge, match=r"^body: is above 10 bytes") as refused:
        await read_body(scope((b"content-length", told)), arriving(), LIMITS)
    assert refused.value.http_status == 413


@virtual
async def test_a_body_that_does_not_say_is_read_no_further_than_the_limit():
    endless = arriving(*[piece(b"abcd")] * 5)
    with pytest.raises(RequestTooLarge):
        await read_body(scope((b"transfer-encoding", b"chunked")), endless, LIMITS)


@virtual
async def test_a_body_that_trickles_comes_to_an_end():
    trickle = arriving(*[piece(b"a")] * 100, gap_s=1.0)
    began_s = anyio.current_time()
    with pytest.raises(RequestTooSlow, match=r"^body: did not arrive within 5 s") as refused:
        await read_body(scope(), trickle, LIMITS)
    assert refused.value.http_status == 408
    assert anyio.current_time() - began_s == pytest.approx(5.0)


@virtual
async def test_a_client_that_leaves_is_no_error_of_the_bodys():
    with pytest.raises(ClientLeft):
        await read_body(scope(), arriving(piece(b"ab"), {"type": "http.disconnect"}), LIMITS)


@virtual
async def test_bodies_are_read_only_as_far_as_there_is_room_for_all():
    room = BodyRoom(LIMITS)
    for _ in range(2):
        await read_body(scope(), arriving(piece(b"0123456789", more=False)), LIMITS, room)
    said = scope((b"content-length", b"6"))
    with pytest.raises(NoRoom, match="hold 20 bytes already") as refused:
        await read_body(said, arriving(), LIMITS, room)
    assert refused.value.retry_after_s == 1.0
    with pytest.raises(NoRoom):
        await read_body(scope(), arriving(piece(b"abc"), piece(b"def")), LIMITS, room)
    with anyio.move_on_after(1.0):
        await read_body(scope(), arriving(piece(b"abc")), LIMITS, room)
    assert room.held_bytes == 20
    room.give_back(10)
    assert await read_body(said, arriving(piece(b"abcdef", more=False)), LIMITS, room) == b"abcdef"


# Pixels.


async def work_on(room, pixels, *, for_s=1.0, log=None):
    async with room.hold(pixels):
        if log is not None:
            log.append((pixels, anyio.current_time()))
        await anyio.sleep(for_s)


@virtual
async def test_pixels_that_do_not_fit_wait_in_order_and_small_ones_do_not_overtake():
    room, log, began_s = PixelRoom(100, timeout_s=10.0), [], anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for pixels in (60, 70, 10, 5):
            tasks.start_soon(partial(work_on, room, pixels, log=log))
            await anyio.lowlevel.checkpoint()
    assert log[0] == (60, began_s)
    assert sorted(log[1:]) == [(pixels, began_s + 1.0) for pixels in (5, 10, 70)]
    assert room.held == 0


@virtual
async def test_more_pixels_than_there_is_room_for_are_worked_on_alone():
    room, log, began_s = PixelRoom(100, timeout_s=10.0), [], anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for pixels in (500, 50, 600):
            tasks.start_soon(partial(work_on, room, pixels, log=log))
            await anyio.lowlevel.checkpoint()
    assert log == [(500, began_s), (50, began_s + 1.0), (600, began_s + 2.0)]


@virtual
async def test_who_finds_no_room_for_pixels_in_time_or_leaves_holds_up_nobody():
    room, log = PixelRoom(100, timeout_s=3.0), []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(work_on, room, 80, for_s=5.0))
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(1.0):
            await work_on(room, 90)
        with pytest.raises(NoRoom, match=r"pictures of 80 pixels .* these have 90"):
            await work_on(room, 90)
        await work_on(room, 20, log=log)
    assert len(log) == 1
    assert room.held == 0
