"""The gateway's funnel with an engine down: who answers then, and what is said."""

from dataclasses import replace

import anyio
import pytest

from speceyes.engines.replay import Take, scripted, scripted_screen
from speceyes.errors import EngineUnavailable
from speceyes.funnel import serial
from speceyes.gateway.guard.breaker import Breaker, GuardedEngine, guarded
from tests.stand_ins import (
    ACCEPTED,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    a_funnel,
    a_query,
    engines,
    virtual,
)
from tests.test_gateway_circuits import DOWN, SETTINGS


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
