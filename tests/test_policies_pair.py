"""Policies on the built-in pair itself: the answers of serial, and losers that leave the batch."""

import pytest

from speceyes import SpecEyes
from speceyes.builtin.suite import draw_items
from speceyes.events import PhaseEnded, usage_by_phase

pytestmark = [pytest.mark.anyio, pytest.mark.local, pytest.mark.slow]

ITEMS = list(draw_items(6, seed=20261131))


async def answers(policy):
    async with SpecEyes(policy=policy) as eyes:
        queries = [item.query for item in ITEMS]
        got = {one.query_id: one async for one in eyes.answer_many(queries, concurrency=2)}
        loads = [eyes.funnel.parts.small.present_load, eyes.funnel.parts.agent.engine.present_load]
    assert [one.error for one in got.values()] == [None] * len(ITEMS)
    return got, loads


async def test_every_policy_gives_the_pairs_own_answers():
    oracle, _ = await answers("serial")
    alone, _ = await answers("agent_only")
    assert {one.answer.route for one in oracle.values()} == {"speculative", "agentic"}
    for policy in ("overlap", "race", "adaptive"):
        got, loads = await answers(policy)
        for name, outcome in got.items():
            is_first = outcome.answer.reason == "agent_first"
            want = (alone if is_first else oracle)[name].answer
            assert outcome.answer.text == want.text
            assert is_first or outcome.answer.reason == want.reason
        assert [load.waiting for load in loads] == [0, 0]
        if policy == "race":
            check_losers(got.values())


def check_losers(outcomes):
    """See that what was cancelled was measured to the token."""
    for outcome in outcomes:
        cancelled = [
            event
            for event in outcome.trace
            if isinstance(event, PhaseEnded) and event.outcome == "cancelled"
        ]
        assert all(event.lost is not None for event in cancelled)
        assert all(
            used.cached_tokens is not None for used in usage_by_phase(outcome.trace).values()
        )
        if outcome.answer.route == "speculative":
            assert [event.phase for event in cancelled] == ["fall_back"]
