"""The gateway's places: how many come in, who waits for one, and who is refused."""

import random
from functools import partial

import anyio
import pytest

from speceyes.errors import NoRoom, RateExceeded
from speceyes.gateway.guard.admission import Admission
from speceyes.gateway.settings import Limits
from tests.stand_ins import virtual
from tests.test_gateway_keys import a_key


def admission(**more):
    limits = {"max_in_flight": 2, "max_queue": 2, "queue_timeout_s": 10.0} | more
    return Admission(Limits(**limits), clock=anyio.current_time)


async def hold(admitting, key=None, *, for_s=1.0, log=None, name=""):
    async with admitting.admit(key) as waited_s:
        if log is not None:
            log.append((name, anyio.current_time(), waited_s))
        await anyio.sleep(for_s)


async def refused_at(admitting, key=None):
    with pytest.raises((NoRoom, RateExceeded)) as refused:
        await hold(admitting, key)
    return refused.value


@virtual
async def test_who_finds_no_place_waits_in_order_of_arrival():
    admitting, log = admission(), []
    began_s = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for name, for_s in zip("abcd", (1.0, 1.5, 1.0, 1.0), strict=True):
            held = partial(hold, admitting, for_s=for_s, log=log, name=name)
            tasks.start_soon(held)
            await anyio.lowlevel.checkpoint()
    assert [(name, at_s - began_s, waited) for name, at_s, waited in log] == [
        ("a", 0.0, 0.0),
        ("b", 0.0, 0.0),
        ("c", 1.0, 1.0),
        ("d", 1.5, 1.5),
    ]
    assert (admitting.in_flight, admitting.queued) == (0, 0)


@virtual
async def test_a_full_queue_refuses_at_once_and_says_when_to_ask_again():
    admitting = admission()
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(lambda: hold(admitting, for_s=4.0))
        await anyio.sleep(0.1)
        assert (admitting.in_flight, admitting.queued) == (2, 2)
        refused = await refused_at(admitting)
        assert isinstance(refused, NoRoom)
        assert refused.http_status == 429
        assert refused.retry_after_s == pytest.approx(1.0 * 3 / 2)  # 3 in front, 2 places, 1 s each
    assert (admitting.in_flight, admitting.queued) == (0, 0)


@virtual
async def test_how_long_to_wait_is_learnt_from_how_long_places_are_held():
    admitting = admission(max_in_flight=1, max_queue=0)
    for _ in range(60):
        await hold(admitting, for_s=8.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: hold(admitting))
        await anyio.sleep(0.1)
        assert (await refused_at(admitting)).retry_after_s == pytest.approx(8.0, rel=0.01)


@virtual
async def test_waiting_in_the_queue_comes_to_an_end():
    admitting = admission(queue_timeout_s=3.0)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lambda: hold(admitting, for_s=60.0))
        await anyio.sleep(0.1)
        before_s = anyio.current_time()
        refused = await refused_at(admitting)
        assert anyio.current_time() - before_s == pytest.approx(3.0)
        assert "within 3 s" in str(refused)
        assert admitting.queued == 0
        tasks.cancel_scope.cancel()
    assert (admitting.in_flight, admitting.queued) == (0, 0)


@virtual
async def test_who_leaves_the_queue_leaves_no_hole_in_it():
    admitting, log = admission(max_in_flight=1), []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: hold(admitting, log=log, name="a"))
        await anyio.sleep(0.1)
        with anyio.move_on_after(0.2):
            await hold(admitting, log=log, name="leaves")
        tasks.start_soon(lambda: hold(admitting, log=log, name="b"))
    assert [name for name, _, _ in log] == ["a", "b"]
    assert (admitting.in_flight, admitting.queued) == (0, 0)


@virtual
async def test_a_place_handed_to_somebody_who_leaves_that_very_moment_is_passed_on():
    admitting, log = admission(max_in_flight=1), []
    scopes = []

    async def leave_early():
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await hold(admitting, log=log, name="left")

    async with anyio.create_task_group() as tasks:
        first = admitting.admit(None)
        await first.__aenter__()
        tasks.start_soon(leave_early)
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(lambda: hold(admitting, log=log, name="next"))
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await first.__aexit__(None, None, None)  # hands it over
        scopes[0].cancel()  # before it could be taken up
    assert [name for name, _, _ in log if name == "next"] == ["next"]
    assert (admitting.in_flight, admitting.queued) == (0, 0)


@virtual
async def test_a_key_has_no_more_under_way_than_its_own_limit_waiting_included():
    admitting, key = admission(), a_key(max_in_flight=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: hold(admitting, key))
        await anyio.sleep(0.1)
        refused = await refused_at(admitting, key)
        assert isinstance(refused, RateExceeded)
        assert "'anna'" in str(refused)
        await hold(admitting, a_key("ben", "sk-ben", max_in_flight=1))  # another key's are its own
    await hold(admitting, key)


@virtual
async def test_a_key_asks_no_more_often_than_its_rate_and_the_wait_told_is_enough():
    admitting, key = admission(), a_key(requests_per_minute=60)
    for _ in range(6):
        await hold(admitting, key, for_s=0.0)
    refused = await refused_at(admitting, key)
    assert refused.retry_after_s == pytest.approx(1.0)
    await anyio.sleep(refused.retry_after_s)
    await hold(admitting, key, for_s=0.0)
    await refused_at(admitting, key)


@virtual
async def test_who_is_refused_for_want_of_room_keeps_his_tokens():
    admitting, key = admission(max_in_flight=1, max_queue=0), a_key(requests_per_minute=10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: hold(admitting))
        await anyio.sleep(0.1)
        assert isinstance(await refused_at(admitting, key), NoRoom)
    await hold(admitting, key)  # his one token is still there
    assert isinstance(await refused_at(admitting, key), RateExceeded)


@virtual
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_all_places_come_back(seed):
    rng, admitting, peak = random.Random(seed), admission(max_in_flight=3, max_queue=4), [0]
    keys = [None, a_key(max_in_flight=2), a_key("ben", "sk-ben", requests_per_minute=120)]

    async def come():
        await anyio.sleep(rng.uniform(0.0, 30.0))
        with anyio.move_on_after(rng.uniform(0.0, 6.0)):
            try:
                async with admitting.admit(rng.choice(keys)):
                    peak[0] = max(peak[0], admitting.in_flight)
                    assert admitting.in_flight <= 3
                    assert admitting.queued <= 4
                    await anyio.sleep(rng.uniform(0.0, 3.0))
                    1 / rng.randrange(5)
            except (NoRoom, RateExceeded, ZeroDivisionError):
                pass

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(come)
    assert peak == [3]
    assert (admitting.in_flight, admitting.queued) == (0, 0)
    for key in keys:
        await hold(admitting, key)
