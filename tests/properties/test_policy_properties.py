"""Serial is the oracle: other policies give its answers, at the times that their formulas say."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from speceyes.engines.replay import Take
from speceyes.events import phase_seconds, usage_by_phase, wasted
from speceyes.policies.adaptive import Adaptive
from speceyes.policies.fixed import agent_only, overlap, race, serial
from speceyes.types import Usage
from tests.properties.test_funnel_properties import (
    LIMIT_S,
    a_query,
    funnel_of,
    on_virtual_time,
    plans,
    screeners,
)
from tests.stand_ins import ACCEPTED, Plan

SCREENED_OUT = {"needs_tool", "screen_failed", "screen_timeout"}


def end_of(plan, policy, screener, **rules):
    policy = Adaptive() if policy is Adaptive else policy
    funnel, small, large = funnel_of({"q": plan}, policy, screener, **rules)
    outcome = on_virtual_time(funnel.settle, a_query("q"))
    assert small.in_flight == large.in_flight == 0
    assert all(call.ended_s <= outcome.trace[-1].at_s for call in [*small.calls, *large.calls])
    return outcome


def how(outcome):
    """Say how a query ended, but not when."""
    answer = outcome.answer
    if answer is None:
        return type(outcome.error), str(outcome.error)
    return answer.text, answer.route, answer.reason


def seconds(take):
    return min(take.latency_s, LIMIT_S)


@settings(max_examples=60)
@given(plans, st.sampled_from([overlap, race, Adaptive]), screeners, st.booleans())
def test_every_policy_gives_serials_answer_and_never_later(plan, policy, screener, degrade):
    oracle = end_of(plan, serial, screener, degrade=degrade)
    got = end_of(plan, policy, screener, degrade=degrade)
    if got.answer is not None and got.answer.reason == "agent_first":
        oracle = end_of(plan, agent_only, screener)
        assert policy is not overlap
        assert (got.answer.text, got.answer.route) == (oracle.answer.text, "agentic")
        assert got.trace[-1].at_s == oracle.trace[-1].at_s
    else:
        assert how(got) == how(oracle)
    assert got.trace[-1].at_s <= oracle.trace[-1].at_s
    assert got.trace[-1].at_s <= sum(phase_seconds(got.trace).values())


@settings(max_examples=60)
@given(plans, st.sampled_from([overlap, race]), screeners)
def test_every_policy_takes_the_time_that_its_formula_says(plan, policy, screener):
    reason = how(end_of(plan, serial, screener))[-1]
    alone = end_of(plan, agent_only, screener)
    agent_s, agent_fails = alone.trace[-1].at_s, alone.error is not None
    screen_s = 0.0 if screener == "none" else seconds(plan.screen)
    settled_s = screen_s if reason in SCREENED_OUT else max(screen_s, seconds(plan.small))
    if reason not in SCREENED_OUT | {"accepted"} and agent_fails:
        return  # serial's own reason went with its error
    want_s = settled_s if reason == "accepted" else settled_s + agent_s
    if policy is race:
        first_s = math.inf if agent_fails else agent_s
        late_s = settled_s if reason == "accepted" else max(settled_s, agent_s)
        want_s = min(first_s, late_s)
    assert end_of(plan, policy, screener).trace[-1].at_s == want_s


@settings(max_examples=60)
@given(plans, st.sampled_from([serial, overlap, race, Adaptive, agent_only]), screeners)
def test_what_was_wasted_is_part_of_what_was_done(plan, policy, screener):
    got = end_of(plan, policy, screener)
    done, waste = sum(usage_by_phase(got.trace).values(), Usage.zero), wasted(got.trace)
    for name in ("prompt_tokens", "completion_tokens", "images"):
        assert 0 <= getattr(waste, name) <= getattr(done, name)
    if policy in {serial, agent_only}:
        assert waste == Usage.zero
    if policy is overlap and got.answer is not None and got.answer.reason == "accepted":
        assert waste == Usage.zero


def test_an_agent_that_hangs_costs_a_raced_query_nothing():
    hangs = Plan(ACCEPTED.screen, ACCEPTED.small, (Take(ACCEPTED.turns[0].result, math.inf),))
    got = end_of(hangs, race, "large")
    assert how(got) == ("small words", "speculative", "accepted")
    assert got.trace[-1].at_s == 2.0
