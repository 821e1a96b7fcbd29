"""The gateway's circuits and breakers: an engine that is down is left alone, tried, taken back."""

from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.engines.replay import ReplayEngine, scripted
from speceyes.errors import ContextTooLong, EngineProtocolError, EngineTimeout, EngineUnavailable
from speceyes.gateway.guard.breaker import Breaker, GuardedEngine
from speceyes.gateway.guard.circuit import CLOSED, Closed, HalfOpen, Open, enter, leave, wait_s
from speceyes.gateway.settings import BreakerSettings
from speceyes.load import behind
from speceyes.policies.named import make_policy
from speceyes.types import GenerateRequest, Message, Text
from tests.stand_ins import virtual

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


def test_a_breaker_that_is_not_told_when_a_call_hangs_counts_no_cancellation():
    assert not Breaker("e", SETTINGS).is_hung(-1e9)


def test_how_busy_an_engine_is_shows_through_its_breaker():
    class Probing(ReplayEngine):
        def probe(self):
            return "who asks"

    engine = Probing(lambda _: scripted("yes"), name="large")
    kept, *_ = guard(engine)
    twice, *_ = guard(kept)
    assert behind(twice) is engine
    assert make_policy("adaptive", kept, waste_budget=0.5).probe == "who asks"
