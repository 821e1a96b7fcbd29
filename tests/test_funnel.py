"""The funnel on virtual time: what each phase costs, and where doubt leads."""

import math
from dataclasses import replace

import anyio
import pytest

from speceyes.engines.replay import Take, scripted, scripted_screen
from speceyes.errors import EngineProtocolError, EngineTimeout
from speceyes.events import FellBack, PhaseEnded
from speceyes.policies.fixed import agent_only
from speceyes.screen import ScreenSpec
from speceyes.types import Box, Evidence, Usage
from tests.stand_ins import (
    ACCEPTED,
    BROKEN,
    CALL,
    DOWN,
    GATE,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    StandInPixels,
    a_funnel,
    a_query,
    answer,
    engines,
    kinds,
    of,
    said,
    turns,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


# What serial costs: c_J + c_S when accepted, c_J + c_S + L_agent when not, c_J + L_agent when
# screened out. The plans take 1 s, 2 s and 5 s a turn.


async def test_an_accepted_answer_costs_screen_and_speculation():
    got = await answer(ACCEPTED)
    assert (got.text, got.route, got.reason) == ("small words", "speculative", "accepted")
    assert got.elapsed_s == pytest.approx(1.0 + 2.0)
    assert got.phase_s == pytest.approx({"screen": 1.0, "speculate": 2.0, "gate": 0.0})
    assert got.verdict.accepted
    assert got.verdict.score == pytest.approx(8.0, abs=1e-3)
    assert got.p_tool == pytest.approx(0.1, abs=1e-6)


async def test_a_querys_times_count_from_its_own_start():
    await anyio.sleep(100.0)
    got = await answer(ACCEPTED)
    assert (got.trace[0].at_s, got.elapsed_s) == (0.0, pytest.approx(3.0))


async def test_a_rejected_answer_costs_all_four_phases():
    got = await answer(Plan(small=REJECTED.small, turns=turns(CALL, "answer large")))
    assert (got.text, got.route, got.reason) == ("large", "agentic", "below_threshold")
    assert got.elapsed_s == pytest.approx(1.0 + 2.0 + 2 * 5.0)
    assert got.phase_s["fall_back"] == pytest.approx(10.0)
    assert (got.depth, got.turns) == (1, 2)
    assert not got.verdict.accepted


async def test_a_query_that_needs_a_tool_skips_speculation():
    small, large = engines(NEEDS_TOOL)
    got = await a_funnel(small, large).answer(a_query())
    assert (got.text, got.route, got.reason) == ("large", "agentic", "needs_tool")
    assert got.elapsed_s == pytest.approx(1.0 + 5.0)
    assert small.calls == []


async def test_the_baseline_costs_the_agent_and_nothing_else():
    small, large = engines(ACCEPTED)
    got = await a_funnel(small, large, agent_only).answer(a_query())
    assert (got.text, got.route, got.reason) == ("large", "agentic", "agent_only")
    assert got.elapsed_s == pytest.approx(5.0)
    assert (len(small.calls), len(large.calls)) == (0, 1)
    assert (got.verdict, got.p_tool) == (None, None)


async def test_without_a_screen_every_query_is_speculated_on():
    small, large = engines(NEEDS_TOOL)
    got = await a_funnel(small, large, parts={"screener": None}).answer(a_query())
    assert (got.route, got.p_tool) == ("speculative", None)
    assert got.elapsed_s == pytest.approx(2.0)
    assert large.calls == []


async def test_the_small_engine_can_screen():
    small, large = engines(ACCEPTED)
    got = await a_funnel(small, large, parts={"screener": small}).answer(a_query())
    assert got.route == "speculative"
    assert (len(small.calls), len(large.calls)) == (2, 0)


async def test_the_story_in_full():
    got = await answer(REJECTED)
    assert kinds(got.trace) == [
        "QueryStarted",
        *("PhaseStarted", "Screened", "PhaseEnded"),
        *("PhaseStarted", "Speculated", "PhaseEnded"),
        *("PhaseStarted", "Gated", "PhaseEnded"),
        *("FellBack", "PhaseStarted", "TurnFinished", "PhaseEnded"),
        "Answered",
    ]
    assert [event.at_s for event in got.trace] == sorted(event.at_s for event in got.trace)


async def test_phase_one_is_one_forward_pass_and_phase_two_brings_the_gates_k():
    small, large = engines(ACCEPTED)
    await a_funnel(small, large).answer(a_query())
    screen, speculate = large.calls[0].request, small.calls[0].request
    assert (screen.max_tokens, screen.top_logprobs) == (1, 20)
    assert (speculate.max_tokens, speculate.top_logprobs) == (20, GATE.k)
    assert not speculate.continue_final_message


async def test_a_screen_of_the_shared_prompt_is_shown_what_the_agent_is():
    small, large = engines(NEEDS_TOOL)
    await a_funnel(small, large, screen=ScreenSpec(prompt="shared")).answer(a_query())
    screen, turn = (call.request for call in large.calls[:2])
    assert screen.messages[: len(turn.messages)] == turn.messages
    assert (screen.tools, screen.max_tokens) == (turn.tools, 1)


async def test_both_engines_get_the_view_at_the_protocols_size():
    small, large = engines(REJECTED)
    await a_funnel(small, large).answer(a_query())
    pictures = {call.request.messages[0].parts[0].picture for call in [*small.calls, *large.calls]}
    assert {picture.size for picture in pictures} == {(32, 24)}
    assert len(pictures) == 1


async def test_pixels_are_opened_once_and_their_decoding_is_offloaded():
    opened, offloaded = [], []

    def open_pixels(pictures):
        opened.append(StandInPixels(pictures))
        return opened[-1]

    async def offload(work):
        offloaded.append(len(opened[0].cuts) if opened else 0)
        return work()

    small, large = engines(Plan(small=REJECTED.small, turns=turns(CALL, "answer x")))
    parts = {"open_pixels": open_pixels, "offload": offload}
    await a_funnel(small, large, parts=parts).answer(a_query())
    assert len(opened) == 1
    view, touch, crop = opened[0].cuts
    assert view == (Box(0, 0, 64, 48), (32, 24))
    assert touch[0].size == (1, 1)  # has the original decoded, off the event loop
    assert crop[0].size == (10, 10)
    assert offloaded == [0, 1]


# Doubt goes to the large model, with its reason.


def shown(rows):
    """Say two words with this evidence."""
    evidence = Evidence(rows, [row[0] for row in rows])
    return Take(replace(scripted("small words"), evidence=evidence))


def row(*logp):
    return shown([logp] * 2)


@pytest.mark.parametrize(
    ("reason", "plan"),
    [
        ("needs_tool", Plan(screen=Take(scripted_screen(0.5)))),
        ("needs_tool", Plan(screen=Take(scripted_screen(None)))),  # neither yes nor no
        ("needs_tool", Plan(screen=Take(scripted("not sure", separability=None)))),
        ("needs_tool", Plan(screen=Take(scripted("yes", separability=None)))),
        ("screen_failed", Plan(screen=Take(DOWN))),
        ("screen_failed", Plan(screen=Take(BROKEN))),
        ("screen_timeout", Plan(screen=Take(scripted_screen(0.1), math.inf))),
        ("screen_timeout", Plan(screen=Take(EngineTimeout("large", "late")))),
        ("small_failed", Plan(small=Take(DOWN))),
        ("small_failed", Plan(small=Take(BROKEN))),
        ("small_timeout", Plan(small=Take(scripted("x", k=16), math.inf))),
        ("small_timeout", Plan(small=Take(EngineTimeout("small", "late")))),
        ("below_threshold", REJECTED),
        ("truncated", Plan(small=said(finish="length"))),
        ("empty_answer", Plan(small=Take(scripted(" ", token_count=1, k=16)))),
        ("no_evidence", Plan(small=said(separability=None))),
        ("length_mismatch", Plan(small=shown([[-0.1, *[-3.0] * 14, -9.0]]))),
        ("too_few_candidates", Plan(small=said(k=15))),
        ("masked", Plan(small=row(-0.1, *[-3.0] * 14, -9999.0))),
        ("non_finite", Plan(small=row(-0.1, *[-3.0] * 14, math.nan))),
        ("unsorted", Plan(small=row(-0.1, *[-3.0] * 14, -2.0))),
        ("constant", Plan(small=row(-0.1, *[-3.0] * 15))),
        ("zeroed", Plan(small=row(0.0, *[-3.0] * 14, -4.0))),
    ],
)
async def test_doubt_goes_to_the_large_model(reason, plan):
    got = await answer(plan)
    assert (got.text, got.route, got.reason) == ("large", "agentic", reason)
    assert [event.reason for event in of(got.trace, FellBack)] == [reason]


async def test_a_screen_without_evidence_is_read_from_its_word_alone():
    small, large = engines(Plan(screen=Take(scripted("No", separability=None))))
    got = await a_funnel(small, large).answer(a_query())
    assert (got.route, got.p_tool) == ("speculative", 0.0)
    assert large.calls[0].request.choices == ("yes", "no")
    assert all(call.request.choices == () for call in small.calls)


@pytest.mark.parametrize("plan", [Plan(screen=Take(DOWN)), Plan(small=Take(DOWN)), REJECTED])
async def test_an_answer_tells_if_an_engine_failed_on_the_way(plan):
    got = await answer(plan)
    assert (got.route, got.is_degraded) == ("agentic", plan is not REJECTED)


async def test_a_phase_that_fails_says_so_and_its_work_is_not_counted_as_nothing():
    got = await answer(Plan(small=Take(DOWN, 2.0)))
    ended = next(e for e in of(got.trace, PhaseEnded) if e.phase == "speculate")
    assert (ended.outcome, ended.error, ended.lost) == ("failed", DOWN, None)
    assert got.usage_by_phase["speculate"] == Usage(0, None, 0, 0)


async def test_an_engine_that_breaks_its_contract_is_named():
    got = await answer(Plan(small=Take(BROKEN)))
    ended = next(e for e in of(got.trace, PhaseEnded) if e.phase == "speculate")
    assert isinstance(ended.error, EngineProtocolError)
    assert ended.error.__cause__ is BROKEN


@pytest.mark.parametrize("phase", ["screen", "speculate", "fall_back"])
async def test_every_phase_has_a_deadline_that_cancels_its_engine_call(phase):
    hangs = Take(scripted("x", k=16), math.inf)
    plan = {
        "screen": Plan(screen=hangs),
        "speculate": Plan(small=hangs),
        "fall_back": Plan(screen=NEEDS_TOOL.screen, turns=(hangs,)),
    }[phase]
    small, large = engines(plan)
    got = await a_funnel(small, large, **{f"{phase}_timeout_s": 7.0}).settle(a_query())
    ended = next(e for e in of(got.trace, PhaseEnded) if e.phase == phase)
    assert isinstance(ended.error, EngineTimeout)
    assert "within 7 s" in str(ended.error)
    assert small.cancelled + large.cancelled == 1
    assert small.in_flight == large.in_flight == 0
    assert isinstance(got.error, EngineTimeout) == (phase == "fall_back")
