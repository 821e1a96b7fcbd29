"""Overlap and race on virtual time: what each costs, who wins, and what becomes of the losers.

The plans take 1 s to screen, 2 s to speculate and 5 s a turn.
"""

import math
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import EngineUnavailable, NoAnswer, PictureTruncated
from speceyes.events import Answered, FellBack, PhaseEnded, PhaseStarted, usage_by_phase, wasted
from speceyes.policies.fixed import overlap, race
from speceyes.screen import ScreenSpec
from speceyes.types import Usage
from tests.stand_ins import (
    ACCEPTED,
    CALL,
    NEEDS_TOOL,
    NO_TOOL,
    REJECTED,
    SURE,
    Plan,
    Words,
    a_funnel,
    a_query,
    engines,
    turns,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

DOWN = EngineUnavailable("large", "is down")
QUICK = turns("answer large", latency_s=0.5)


async def settle(plan, policy, **more):
    small, large = engines(plan)
    got = await a_funnel(small, large, policy, **more).settle(a_query())
    assert small.in_flight == large.in_flight == 0
    return got, small, large


def how(outcome):
    answer = outcome.answer
    return answer.text, answer.route, answer.reason, answer.elapsed_s


def at(trace, kind, **fields):
    return next(
        event.at_s
        for event in trace
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items())
    )


async def test_overlap_costs_the_longer_of_the_two():
    got, *_ = await settle(ACCEPTED, overlap)
    assert how(got) == ("small words", "speculative", "accepted", 2.0)
    assert got.answer.phase_s == {"screen": 1.0, "speculate": 2.0, "gate": 0.0}
    assert wasted(got.trace) == Usage.zero


async def test_overlap_ends_speculation_that_the_screen_turns_away():
    got, small, _ = await settle(NEEDS_TOOL, overlap)
    assert how(got) == ("large", "agentic", "needs_tool", 6.0)
    assert [call.outcome for call in small.calls] == ["cancelled"]
    assert small.calls[0].ended_s == 1.0
    assert wasted(got.trace) == Usage(100, 0, 1, 1)  # one of the two words was said


async def test_overlap_waits_for_the_screen_to_have_its_word():
    slow = Plan(replace(NEEDS_TOOL.screen, latency_s=4.0), REJECTED.small)
    got, *_ = await settle(slow, overlap)
    assert how(got) == ("large", "agentic", "needs_tool", 9.0)
    assert not got.answer.verdict.accepted


async def test_a_race_that_the_small_model_wins_cancels_the_agent():
    got, _, large = await settle(ACCEPTED, race)
    assert how(got) == ("small words", "speculative", "accepted", 2.0)
    assert [call.outcome for call in large.calls] == ["finished", "cancelled"]
    assert got.answer.usage_by_phase["fall_back"] == wasted(got.trace) == Usage(100, 0, 0, 1)
    assert got.answer.phase_s["fall_back"] == 2.0


async def test_a_race_that_the_agent_must_win_costs_the_agent_alone():
    two_turns = turns(CALL, "answer large")
    got, *_ = await settle(Plan(small=REJECTED.small, turns=two_turns), race)
    assert how(got) == ("large", "agentic", "below_threshold", 10.0)
    assert at(got.trace, FellBack) == 2.0  # settled long before the agent is done
    assert at(got.trace, PhaseStarted, phase="fall_back") == 0.0
    assert (got.answer.depth, got.answer.turns) == (1, 2)
    assert wasted(got.trace) == Usage.zero  # what the gate rejected told that it must be so


async def test_a_screen_that_asks_for_the_tool_ends_speculation_in_a_race():
    got, small, _ = await settle(NEEDS_TOOL, race)
    assert how(got) == ("large", "agentic", "needs_tool", 5.0)
    assert small.calls[0].ended_s == 1.0


SHARED = {"screen": ScreenSpec(prompt="shared")}


async def test_a_race_lets_the_screen_read_the_agents_prompt_for_it():
    got, *_ = await settle(REJECTED, race, **SHARED)
    assert at(got.trace, PhaseStarted, phase="fall_back") == 1.0  # beside speculation, to 2 s
    assert how(got) == ("large", "agentic", "below_threshold", 1.0 + 5.0)
    got, small, _ = await settle(NEEDS_TOOL, race, **SHARED)
    assert how(got) == ("large", "agentic", "needs_tool", 1.0 + 5.0)
    assert [call.outcome for call in small.calls] == ["cancelled"]
    got, *_ = await settle(Plan(turns=QUICK), race, **SHARED)
    assert how(got) == ("large", "agentic", "agent_first", 1.0 + 0.5)


async def test_after_a_shared_screen_no_agent_begins_for_what_is_accepted_by_then():
    quick = replace(SURE, latency_s=0.5)
    got, _, large = await settle(Plan(small=quick), race, **SHARED)
    assert how(got) == ("small words", "speculative", "accepted", 1.0)
    assert len(large.calls) == 1
    unsure = replace(REJECTED.small, latency_s=0.5)
    got, *_ = await settle(Plan(small=unsure), race, **SHARED)
    assert how(got) == ("large", "agentic", "below_threshold", 1.0 + 5.0)
    assert [call.outcome for call in large.calls] == ["finished"]


async def test_an_agent_begins_at_once_where_the_screen_is_read_elsewhere():
    small, large = engines(REJECTED)
    apart = {"screener": ReplayEngine(lambda _: NO_TOOL, name="elsewhere")}
    got = await a_funnel(small, large, race, parts=apart, **SHARED).settle(a_query())
    assert at(got.trace, PhaseStarted, phase="fall_back") == 0.0
    assert how(got) == ("large", "agentic", "below_threshold", 5.0)


async def test_a_screen_of_the_shared_prompt_that_fails_leaves_the_query_to_the_agent():
    got, *_ = await settle(Plan(screen=Take(DOWN, 0.5)), race, **SHARED)
    assert how(got) == ("large", "agentic", "screen_failed", 0.5 + 5.0)


async def test_an_agent_that_answers_first_has_the_last_word():
    got, small, large = await settle(Plan(turns=QUICK), race)
    assert how(got) == ("large", "agentic", "agent_first", 0.5)
    assert (small.cancelled, large.cancelled) == (1, 1)
    assert wasted(got.trace) == Usage(200, 0, 0, 2)
    assert got.answer.p_tool is None


async def test_an_agent_that_fails_loses_nothing_but_its_answer():
    got, *_ = await settle(Plan(turns=(Take(DOWN, 0.5),)), race)
    assert how(got) == ("small words", "speculative", "accepted", 2.0)
    ended = at(got.trace, PhaseEnded, phase="fall_back", outcome="failed")
    assert ended == 0.5


async def test_an_agent_that_failed_and_was_needed_fails_the_query():
    got, *_ = await settle(Plan(small=REJECTED.small, turns=(Take(DOWN, 0.5),)), race)
    assert got.error is DOWN
    assert got.trace[-1].at_s == 2.0
    lost = Plan(small=REJECTED.small, turns=turns("x", "x", "x", "x"))
    assert isinstance((await settle(lost, race))[0].error, NoAnswer)


async def test_with_degrade_a_race_gives_what_the_gate_rejected():
    plan = Plan(small=REJECTED.small, turns=(Take(DOWN, 0.5),))
    got, *_ = await settle(plan, race, degrade=True)
    assert how(got) == ("small words", "degraded", "agent_failed", 2.0)


@pytest.mark.parametrize("policy", [overlap, race])
@pytest.mark.parametrize("broken", ["screen", "small"])
async def test_a_damaged_picture_ends_the_query_and_all_its_work(policy, broken):
    damaged = PictureTruncated("picture", "ends early")
    got, *_ = await settle(replace(ACCEPTED, **{broken: Take(damaged, 0.5)}), policy)
    assert got.error is damaged
    # The screen has its word first, at 1 s, whatever speculation has come to.
    assert got.trace[-1].at_s == (0.5 if broken == "screen" else 1.0)


async def test_a_defect_of_ours_ends_a_race_as_it_is():
    class Wordless(Words):
        @staticmethod
        def speculate(query, views):
            raise KeyError("template")

    got, _, large = await settle(ACCEPTED, race, parts={"prompts": Wordless})
    assert isinstance(got.error.__cause__, KeyError)  # not a group of errors
    assert large.cancelled == 1


async def test_a_phase_that_hangs_is_timed_out_in_a_race_too():
    hangs = Plan(screen=Take(scripted("x"), math.inf), turns=turns(*[CALL] * 3, "answer large"))
    got, *_ = await settle(hangs, race, screen_timeout_s=7.0)
    assert how(got) == ("large", "agentic", "screen_timeout", 20.0)
    assert at(got.trace, FellBack) == 7.0


async def test_whoever_cancels_a_race_cancels_all_of_it():
    small, large = engines(ACCEPTED)
    async with a_funnel(small, large, race) as funnel:
        async with aclosing(funnel.stream(a_query())) as stream:
            async for event in stream:
                if event.at_s > 0.5:
                    break
        assert small.in_flight == large.in_flight == 0
        assert small.cancelled == 1
        assert [call.outcome for call in large.calls] == ["finished", "cancelled"]


async def test_one_race_does_not_end_another():
    plans = {"q0": ACCEPTED, "q1": REJECTED, "q2": NEEDS_TOOL, "q3": Plan(turns=QUICK)}
    small, large = engines(plans)
    async with a_funnel(small, large, race) as funnel:
        asked = [a_query(name) for name in plans]
        got = [one async for one in funnel.answer_many(asked, concurrency=4)]
    ends = {one.query_id: (one.answer.reason, one.answer.elapsed_s) for one in got}
    assert ends == {
        "q0": ("accepted", 2.0),
        "q1": ("below_threshold", 5.0),
        "q2": ("needs_tool", 5.0),
        "q3": ("agent_first", 0.5),
    }
    assert all(isinstance(one.trace[-1], Answered) for one in got)


# The agent's own first turn as the screen.


async def screened_by_agent(plan):
    return await settle(plan, race, parts={"screener": None}, agent_screens=True)


async def test_a_first_turn_that_answers_ends_the_query_at_once():
    got, small, large = await screened_by_agent(Plan(turns=QUICK))
    assert how(got) == ("large", "agentic", "agent_first", 0.5)
    assert (small.cancelled, len(large.calls)) == (1, 1)


async def test_a_first_turn_that_calls_a_tool_turns_speculation_away():
    looks = turns(CALL, "answer large", latency_s=1.5)
    got, small, _ = await screened_by_agent(Plan(turns=looks))
    assert how(got) == ("large", "agentic", "needs_tool", 3.0)
    assert small.calls[0].ended_s == at(got.trace, FellBack) == 1.5
    assert usage_by_phase(got.trace)["speculate"].completion_tokens == 1


async def test_a_first_turn_that_is_malformed_says_nothing():
    confused = turns("hm", CALL, "answer large", latency_s=0.9)
    got, *_ = await screened_by_agent(Plan(turns=confused))
    assert how(got) == ("small words", "speculative", "accepted", 2.0)


async def test_a_verdict_before_the_first_turn_is_over_stands():
    got, _, large = await screened_by_agent(ACCEPTED)
    assert how(got) == ("small words", "speculative", "accepted", 2.0)
    assert large.cancelled == 1


async def test_a_call_after_the_verdict_changes_no_reason():
    got, *_ = await screened_by_agent(Plan(small=REJECTED.small, turns=turns(CALL, "answer l")))
    assert how(got) == ("l", "agentic", "below_threshold", 10.0)


async def test_many_races_leave_nothing_under_way():
    plans = {f"q{n}": [ACCEPTED, REJECTED, NEEDS_TOOL][n % 3] for n in range(30)}
    small, large = engines(plans, max_batch=3)
    async with a_funnel(small, large, race) as funnel:
        asked = [a_query(name) for name in plans]
        with anyio.fail_after(1000.0):
            got = [one async for one in funnel.answer_many(asked, concurrency=10)]
    assert len(got) == 30
    assert small.in_flight == large.in_flight == 0
