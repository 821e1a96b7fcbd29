"""The gateway's guard: whose key it is, how many come in, what is done when an engine is down."""

import random
import subprocess
import tomllib
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from speceyes import cli
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import (
    ContextTooLong,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    KeyRefused,
    NoRoom,
    RateExceeded,
    RequestTooLarge,
    RequestTooSlow,
)
from speceyes.funnel import serial
from speceyes.gateway.guard.admission import Admission
from speceyes.gateway.guard.bodies import ARRIVED, BodyRoom, ClientLeft
from speceyes.gateway.guard.breaker import Breaker, GuardedEngine, guarded
from speceyes.gateway.guard.buckets import full_bucket, take, whole_seconds
from speceyes.gateway.guard.circuit import CLOSED, Closed, HalfOpen, Open, enter, leave, wait_s
from speceyes.gateway.guard.keys import KeyRing, hash_key, new_key
from speceyes.gateway.guard.pixels import PixelRoom
from speceyes.gateway.settings import BreakerSettings, Key, Limits
from speceyes.load import behind
from speceyes.policies.named import make_policy
from speceyes.types import GenerateRequest, Message, Text
from tests.stand_ins import ACCEPTED, NEEDS_TOOL, REJECTED, Plan, a_funnel, a_query, engines

on_virtual_time = [pytest.mark.anyio, pytest.mark.virtual_time]


def virtual(function):
    for mark in on_virtual_time:
        function = mark(function)
    return function


# Keys.


def a_key(name="anna", secret="sk-anna", **more):  # noqa: S107 - made up
    return Key(name=name, sha256=hash_key(secret), **more)


def bearing(*values):
    return [(b"host", b"x"), *((b"authorization", value) for value in values)]


RING = KeyRing([a_key(), a_key("ben", "sk-ben")])


def test_a_known_key_finds_its_owner():
    assert RING.find(bearing(b"Bearer sk-ben")).name == "ben"
    assert RING.find(bearing(b"bearer  sk-anna ")).name == "anna"


def test_without_keys_whoever_comes_may_come_in():
    assert KeyRing([]).find(bearing()) is None
    assert KeyRing([]).find(bearing(b"Bearer anything")) is None


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"Basic sk-anna",),
        (b"sk-anna",),
        (b"Bearer sk-ann",),
        (b"Bearer sk-annab",),
        (b"Bearer SK-ANNA",),
        (b"Bearer sk-anna, Bearer sk-anna",),
        (b"Bearer sk-anna", b"Bearer sk-anna"),
        (b"Bearer wrong", b"Bearer sk-anna"),
        (b"Bearer \xff\xfe",),
        (b"Bearer " + b"x" * 5000,),
        (b"Bearer " + a_key().sha256.encode(),),  # who reads the settings has no key yet
    ],
    ids=lambda values: repr(values)[:30],
)
def test_any_other_key_is_refused_with_the_header_named(values):
    with pytest.raises(KeyRefused, match=r"^authorization: ") as refused:
        RING.find(bearing(*values))
    assert refused.value.http_status == 401
    assert "sk-anna" not in str(refused.value)


def test_every_known_key_is_compared_whichever_is_shown(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "speceyes.gateway.guard.keys.hmac.compare_digest",
        lambda known, digest: seen.append(known) or known == digest,
    )
    RING.find(bearing(b"Bearer sk-anna"))
    assert len(seen) == 2


def test_settings_hold_the_hash_that_a_shell_prints():
    printed = subprocess.run(
        ["sha256sum"], input=b"sk-anna", capture_output=True, check=True
    ).stdout.decode()
    assert hash_key("sk-anna") == printed.split()[0]


def test_a_new_key_is_random_and_opens_what_its_hash_is_in():
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    key = made.pop()
    assert KeyRing([a_key("new", key)]).find(bearing(b"Bearer " + key.encode())).name == "new"


def test_the_command_line_makes_a_key_and_the_entry_that_knows_it():
    made = CliRunner().invoke(cli.build_app(), ["key", "team-a"])
    assert made.exit_code == 0
    (entry,) = tomllib.loads(made.stdout)["gateway"]["keys"]
    found = KeyRing([Key(**entry)]).find(bearing(b"Bearer " + made.stderr.strip().encode()))
    assert found.name == "team-a"
    assert made.stderr.strip() not in made.stdout
    refused = CliRunner().invoke(cli.build_app(), ["key", 'a"b'])
    assert refused.exit_code != 0
    assert "name" in refused.stderr


# Rates.


@given(
    per_minute=st.integers(1, 6000),
    waits=st.lists(st.floats(-1.0, 5.0, allow_nan=False), min_size=1, max_size=200),
)
def test_no_more_tokens_are_taken_than_there_were_and_came_back(per_minute, waits):
    bucket, now_s, taken = full_bucket(per_minute, now_s=0.0), 0.0, 0
    latest_s = 0.0
    for waited_s in waits:
        now_s += waited_s
        latest_s = max(latest_s, now_s)
        bucket, wait = take(bucket, now_s=now_s)
        taken += wait == 0.0
        assert 0.0 <= bucket.tokens <= bucket.capacity
        assert taken <= bucket.capacity + latest_s * bucket.per_s + 1e-6


@given(per_minute=st.integers(1, 6000))
def test_who_waits_as_long_as_told_gets_a_token(per_minute):
    bucket, now_s = full_bucket(per_minute, now_s=1e6), 1e6
    while True:
        bucket, wait = take(bucket, now_s=now_s)
        if wait:
            break
    bucket, again = take(bucket, now_s=now_s + wait)
    assert again == 0.0


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (59.5, 60)])
def test_retry_after_is_whole_seconds_and_never_too_soon(wait, told):
    assert whole_seconds(wait) == told


# Places.


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


# Circuits.

SETTINGS = BreakerSettings(failures=3, share=0.5, least_calls=10, window_s=10.0, open_s=5.0)


def after(outcomes, *, at_s=0.0, step_s=0.1, circuit=CLOSED):
    for outcome in outcomes:
        circuit = leave(circuit, SETTINGS, outcome, now_s=at_s, is_trial=False)
        at_s += step_s
    return circuit


F, S, A = "failed", "succeeded", "abandoned"


def test_failures_in_a_row_open_it_and_one_success_between_does_not():
    assert isinstance(after([F, F]), Closed)
    assert isinstance(after([F, F, S, F, F]), Closed)
    assert after([F, F, F]) == Open(pytest.approx(0.2 + 5.0))


def test_abandoned_calls_are_no_evidence():
    assert isinstance(after([F, F, A, A, F]), Open)
    assert after([A] * 50) == CLOSED


def test_a_share_of_failures_opens_it_once_there_are_enough_calls():
    assert isinstance(after([F, S] * 4), Closed)  # 8 calls
    assert isinstance(after([S, F] * 5), Open)  # 10, half of them failed
    assert isinstance(after([S, S, F] * 20), Closed)


def test_what_is_older_than_the_window_is_forgotten():
    old = after([S, F] * 4)
    assert isinstance(after([S, F], circuit=old, at_s=1.0), Open)
    assert isinstance(after([S, F], circuit=old, at_s=30.0), Closed)


def test_an_open_one_waits_then_lets_one_through_and_no_other():
    opened = after([F] * 3)
    assert wait_s(opened, now_s=1.2) == pytest.approx(4.0)
    assert wait_s(opened, now_s=5.3) == 0.0
    trying, is_trial = enter(opened, SETTINGS, now_s=5.3)
    assert is_trial
    assert wait_s(trying, now_s=5.4) == pytest.approx(4.9)
    assert wait_s(trying, now_s=10.4) == 0.0  # the trial hangs: another one


@pytest.mark.parametrize(
    ("outcome", "then"),
    [(S, CLOSED), (F, Open(13.0)), (A, Open(8.0))],
    ids=["succeeds", "fails", "is abandoned"],
)
def test_a_trial_decides(outcome, then):
    trying, _ = enter(Open(5.0), SETTINGS, now_s=6.0)
    assert leave(trying, SETTINGS, outcome, now_s=8.0, is_trial=True) == then


def test_calls_begun_before_it_opened_prolong_nothing_but_a_success_closes_it():
    for circuit in (Open(5.0), HalfOpen(5.0)):
        assert leave(circuit, SETTINGS, F, now_s=3.0, is_trial=False) == circuit
        assert leave(circuit, SETTINGS, A, now_s=3.0, is_trial=False) == circuit
        assert leave(circuit, SETTINGS, S, now_s=3.0, is_trial=False) == CLOSED


@given(
    st.lists(
        st.tuples(st.sampled_from([F, S, A]), st.floats(0.0, 20.0), st.booleans()), max_size=120
    )
)
def test_it_never_waits_longer_than_its_open_time_and_stays_small(calls):
    circuit, now_s = CLOSED, 0.0
    for outcome, step_s, is_trial in calls:
        now_s += step_s
        if wait_s(circuit, now_s=now_s) == 0.0:
            circuit, _ = enter(circuit, SETTINGS, now_s=now_s)
        circuit = leave(circuit, SETTINGS, outcome, now_s=now_s, is_trial=is_trial)
        assert wait_s(circuit, now_s=now_s) <= SETTINGS.open_s + 1e-6
        assert not isinstance(circuit, Closed) or len(circuit.slices) <= 10


# Breakers before engines.

DOWN = EngineUnavailable("small", "is down")


class Fickle:
    """An engine that does what it is told."""

    name = "fickle"

    def __init__(self):
        self.does = None
        self.calls = 0

    async def generate(self, request):
        self.calls += 1
        if isinstance(self.does, Exception):
            raise self.does
        if self.does is not None:
            await anyio.sleep(self.does)
        return scripted("yes")

    async def aclose(self):
        raise AssertionError("not its owner")


REQUEST = GenerateRequest((Message("user", (Text("?"),)),), 5)


def guard(engine, **more):
    told = []
    breaker = Breaker(
        engine.name, SETTINGS, tell=told.append, clock=anyio.current_time, hung_after_s=20.0, **more
    )
    return GuardedEngine(engine, breaker), breaker, told


async def fail(engine, times=3):
    for _ in range(times):
        with pytest.raises(EngineUnavailable):
            await engine.generate(REQUEST)


@virtual
async def test_an_engine_that_is_down_is_left_alone_tried_and_taken_back():
    fickle = Fickle()
    engine, breaker, told = guard(fickle)
    fickle.does = DOWN
    await fail(engine)
    assert fickle.calls == 3
    with pytest.raises(EngineUnavailable, match=r"fickle: .* left alone for 5 s") as refused:
        await engine.generate(REQUEST)
    assert refused.value.retry_after_s == pytest.approx(5.0)
    assert fickle.calls == 3
    await anyio.sleep(5.0)
    await fail(engine, 1)  # the trial
    assert fickle.calls == 4
    await anyio.sleep(5.0)
    fickle.does = None
    await engine.generate(REQUEST)
    await engine.generate(REQUEST)
    assert told == ["open", "half_open", "open", "half_open", "closed"]
    assert (breaker.state, breaker.wait_s) == ("closed", 0.0)


@virtual
async def test_while_one_tries_the_others_hear_that_it_is_down():
    fickle = Fickle()
    engine, _, _ = guard(fickle)
    fickle.does = DOWN
    await fail(engine)
    await anyio.sleep(5.0)
    fickle.does = 1.0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.generate, REQUEST)
        await anyio.sleep(0.5)
        await fail(engine, 3)
    assert fickle.calls == 3 + 1
    await engine.generate(REQUEST)


@virtual
@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (EngineUnavailable("e", "down"), True),
        (EngineTimeout("e", "late"), True),
        (EngineProtocolError("e", "refused the request (400)"), False),
        (ContextTooLong("e", "too long"), False),
        (ZeroDivisionError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_what_no_caller_can_bring_about_speaks_against_an_engine(error, opens):
    fickle = Fickle()
    engine, breaker, _ = guard(fickle)
    fickle.does = error
    for _ in range(30):
        with pytest.raises(type(error)):
            await engine.generate(REQUEST)
        if breaker.state == "open":
            break
    assert (breaker.state == "open") is opens


@virtual
@pytest.mark.parametrize(("patience_s", "opens"), [(21.0, True), (2.0, False)])
async def test_giving_up_on_an_engine_counts_only_if_it_hung(patience_s, opens):
    fickle = Fickle()
    engine, breaker, _ = guard(fickle)
    fickle.does = 1000.0
    for _ in range(3):
        with anyio.move_on_after(patience_s):
            await engine.generate(REQUEST)
    assert (breaker.state == "open") is opens


@virtual
async def test_a_slow_call_that_is_given_up_on_while_others_succeed_is_no_evidence():
    fickle = Fickle()
    engine, breaker, _ = guard(fickle)
    for _ in range(5):
        async with anyio.create_task_group() as tasks:
            fickle.does = 1000.0
            tasks.start_soon(engine.generate, REQUEST)
            await anyio.sleep(25.0)
            fickle.does = None
            await engine.generate(REQUEST)
            tasks.cancel_scope.cancel()
    assert breaker.state == "closed"


@virtual
async def test_a_reply_that_has_begun_speaks_for_the_engine_whoever_leaves():
    _, breaker, _ = guard(Fickle())
    for _ in range(5):
        with anyio.move_on_after(100.0), breaker.call() as call:
            call.hear()
            await anyio.sleep(1000.0)
    assert breaker.state == "closed"
    for _ in range(3):
        with suppress(EngineUnavailable), breaker.call() as call:
            call.hear()
            raise DOWN  # it broke off
    assert breaker.state == "open"


@virtual
async def test_a_trial_that_its_caller_leaves_makes_room_for_the_next():
    fickle = Fickle()
    engine, breaker, _ = guard(fickle)
    fickle.does = DOWN
    await fail(engine)
    await anyio.sleep(5.0)
    fickle.does = 1000.0
    with anyio.move_on_after(0.1):
        await engine.generate(REQUEST)
    fickle.does = None
    await engine.generate(REQUEST)
    assert breaker.state == "closed"


@virtual
async def test_a_call_can_fail_without_an_error_and_closing_is_the_owners():
    engine, breaker, _ = guard(Fickle())
    for _ in range(3):
        with breaker.call() as call:
            call.fail()  # a relayed 502, say
    assert breaker.state == "open"
    await engine.aclose()
    assert engine.name == "fickle"


# The funnel, with breakers before both engines.


def guarded_funnel(plan, *, large_down="refuse", **more):
    small, large = engines(plan)
    breakers = {
        name: Breaker(
            name, replace(SETTINGS, open_s=60.0), clock=anyio.current_time, hung_after_s=20.0
        )
        for name in ("small", "large")
    }
    kept = GuardedEngine(small, breakers["small"]), GuardedEngine(large, breakers["large"])
    policy = guarded(serial, **breakers, large_down=large_down)
    return a_funnel(*kept, policy, **more), small, large, breakers


def open_(breaker):
    for _ in range(3):
        with breaker.call() as call:
            call.fail()


@virtual
async def test_with_both_up_the_order_is_as_ever():
    funnel, *_ = guarded_funnel(ACCEPTED)
    got = await funnel.answer(a_query())
    assert (got.route, got.reason, got.is_degraded) == ("speculative", "accepted", False)
    funnel, *_ = guarded_funnel(REJECTED)
    assert (await funnel.answer(a_query())).reason == "below_threshold"


@virtual
async def test_small_down_all_goes_straight_to_the_agent_marked_degraded():
    funnel, small, large, breakers = guarded_funnel(ACCEPTED)
    open_(breakers["small"])
    got = await funnel.answer(a_query())
    assert (got.text, got.route, got.reason) == ("large", "agentic", "small_failed")
    assert got.is_degraded
    assert got.elapsed_s == pytest.approx(5.0)  # neither screened nor speculated on
    assert (len(small.calls), len(large.calls)) == (0, 1)


@virtual
async def test_a_small_engine_that_dies_is_asked_three_times_and_then_left_alone():
    funnel, small, _, _ = guarded_funnel(replace(ACCEPTED, small=Take(DOWN)))
    for _ in range(6):
        got = await funnel.answer(a_query())
        assert (got.text, got.reason) == ("large", "small_failed")
    assert len(small.calls) == 3


@virtual
async def test_a_small_engine_that_hangs_counts_as_down():
    hung = replace(ACCEPTED, small=Take(scripted("late"), latency_s=1000.0))
    funnel, _, _, breakers = guarded_funnel(hung)
    for _ in range(3):
        assert (await funnel.answer(a_query())).reason == "small_timeout"
    assert breakers["small"].state == "open"


@virtual
async def test_when_small_is_back_it_is_used_again():
    funnel, small, _, breakers = guarded_funnel(ACCEPTED)
    open_(breakers["small"])
    await anyio.sleep(60.0)
    got = await funnel.answer(a_query())
    assert (got.route, breakers["small"].state, len(small.calls)) == ("speculative", "closed", 1)


@virtual
@pytest.mark.parametrize("plan", [ACCEPTED, REJECTED, NEEDS_TOOL])
async def test_large_down_is_said_at_once_and_when_to_ask_again(plan):
    funnel, small, large, breakers = guarded_funnel(plan)
    open_(breakers["large"])
    before_s = anyio.current_time()
    with pytest.raises(EngineUnavailable, match=r"^large: ") as refused:
        await funnel.answer(a_query())
    assert anyio.current_time() == before_s
    assert refused.value.http_status == 503
    assert refused.value.retry_after_s == pytest.approx(60.0)
    assert (small.calls, large.calls) == ([], [])


@virtual
async def test_large_down_gated_answers_only_where_so_set():
    funnel, _, large, breakers = guarded_funnel(ACCEPTED, large_down="gated")
    open_(breakers["large"])
    got = await funnel.answer(a_query())
    assert (got.text, got.route, got.reason) == ("small words", "speculative", "screen_failed")
    assert got.is_degraded
    assert got.verdict.accepted
    assert large.calls == []
    funnel, _, _, breakers = guarded_funnel(REJECTED, large_down="gated")
    open_(breakers["large"])
    with pytest.raises(EngineUnavailable, match=r"^large: "):
        await funnel.answer(a_query())


@virtual
async def test_large_down_and_small_down_is_refused_however_it_is_set():
    funnel, small, _, breakers = guarded_funnel(ACCEPTED, large_down="gated")
    open_(breakers["large"])
    open_(breakers["small"])
    with pytest.raises(EngineUnavailable, match=r"^large: "):
        await funnel.answer(a_query())
    assert small.calls == []


@virtual
@pytest.mark.parametrize(("p_tool", "is_answered"), [(0.1, True), (0.9, False)])
async def test_large_down_a_small_screen_still_screens(p_tool, is_answered):
    plan = Plan(screen=Take(scripted_screen(p_tool), 1.0))
    small, large = engines(plan)
    breakers = {
        name: Breaker(name, SETTINGS, clock=anyio.current_time) for name in ("small", "large")
    }
    open_(breakers["large"])
    kept = GuardedEngine(small, breakers["small"])
    policy = guarded(serial, **breakers, large_down="gated")
    funnel = a_funnel(kept, large, policy, parts={"screener": kept})
    if is_answered:
        assert (await funnel.answer(a_query())).reason == "accepted"
    else:
        with pytest.raises(EngineUnavailable, match=r"^large: "):
            await funnel.answer(a_query())


# Bodies.

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


def test_a_breaker_that_is_not_told_when_a_call_hangs_counts_no_cancellation():
    assert not Breaker("e", SETTINGS).is_hung(-1e9)


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


def test_how_busy_an_engine_is_shows_through_its_breaker():
    class Probing(ReplayEngine):
        def probe(self):
            return "who asks"

    engine = Probing(lambda _: scripted("yes"), name="large")
    kept, *_ = guard(engine)
    twice, *_ = guard(kept)
    assert behind(twice) is engine
    assert make_policy("adaptive", kept, waste_budget=0.5).probe == "who asks"
