"""How a query's story ends in the funnel: failed, degraded or cancelled, and never untold."""

import anyio
import pytest

from speceyes.engines.replay import Take, scripted
from speceyes.errors import NoAnswer, PictureTruncated, SpecEyesError, ToolError
from speceyes.events import Failed, FellBack, PhaseEnded, usage_by_phase
from speceyes.phases import Passage
from speceyes.types import Usage
from tests.stand_ins import (
    ACCEPTED,
    CALL,
    DOWN,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    Spyglass,
    StandInPixels,
    Words,
    a_funnel,
    a_query,
    an_agent,
    answer,
    engines,
    kinds,
    of,
    said,
    settle,
    turns,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_an_agent_that_fails_fails_the_query():
    got = await settle(Plan(small=REJECTED.small, turns=turns("x", "x", "x", "x")))
    assert isinstance(got.error, NoAnswer)
    assert got.answer is None
    assert of(got.trace, Failed)[0].error is got.error
    assert usage_by_phase(got.trace)["fall_back"] == Usage(400, 0, 4, 4)  # all four turns told


async def test_with_degrade_the_rejected_answer_is_given_and_marked():
    plan = Plan(small=REJECTED.small, turns=(Take(DOWN),))
    got = (await settle(plan, degrade=True)).answer
    assert (got.text, got.route, got.reason) == ("small words", "degraded", "agent_failed")
    assert [event.reason for event in of(got.trace, FellBack)] == ["below_threshold"]


@pytest.mark.parametrize(
    "small", [said(finish="length"), Take(scripted("  ", token_count=1, k=16)), Take(DOWN)]
)
async def test_degrade_never_gives_half_an_answer(small):
    got = await settle(Plan(small=small, turns=(Take(DOWN),)), degrade=True)
    assert got.error is DOWN


async def test_without_speculation_there_is_nothing_to_degrade_to():
    got = await settle(Plan(screen=NEEDS_TOOL.screen, turns=(Take(DOWN),)), degrade=True)
    assert got.error is DOWN


@pytest.mark.parametrize("degrade", [False, True])
async def test_a_damaged_picture_is_the_callers_fault_in_any_phase(degrade):
    damaged = PictureTruncated("picture", "ends early")
    for plan in (
        Plan(screen=Take(damaged)),
        Plan(small=Take(damaged)),
        Plan(small=REJECTED.small, turns=(Take(damaged),)),
    ):
        assert (await settle(plan, degrade=degrade)).error is damaged


async def test_a_picture_that_cannot_be_viewed_fails_before_any_engine_is_asked():
    damaged = PictureTruncated("picture", "ends early")
    small, large = engines(ACCEPTED)
    parts = {"open_pixels": lambda pictures: StandInPixels(pictures, error=damaged)}
    got = await a_funnel(small, large, parts=parts).settle(a_query())
    assert got.error is damaged
    assert kinds(got.trace) == ["QueryStarted", "Failed"]
    assert small.calls == large.calls == []


async def test_a_broken_tool_fails_the_query():
    class Broken(Spyglass):
        async def run(self, call, pixels):
            raise OSError("disk full")

    small, large = engines(Plan(screen=NEEDS_TOOL.screen, turns=turns(CALL)))
    parts = {"agent": an_agent(large, tool=Broken())}
    got = await a_funnel(small, large, parts=parts).settle(a_query())
    assert isinstance(got.error, ToolError)
    assert usage_by_phase(got.trace)["fall_back"] == Usage(100, 0, 3, 1)


async def test_a_defect_of_ours_ends_its_query_and_keeps_its_cause():
    class Wordless(Words):
        @staticmethod
        def speculate(query, views):
            raise KeyError("template")

    small, large = engines(ACCEPTED)
    funnel = a_funnel(small, large, parts={"prompts": Wordless})
    with pytest.raises(SpecEyesError, match=r"unexpected KeyError.*defect") as caught:
        await funnel.answer(a_query())
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_defect_within_a_phase_closes_the_phase():
    small, large = engines(REJECTED)

    class Mute:
        name, stop, budget = "mute", (), None
        view_size = staticmethod(lambda size: size)

    agent = an_agent(large, protocol=Mute())
    got = await a_funnel(small, large, parts={"agent": agent}).settle(a_query())
    ended = of(got.trace, PhaseEnded)[-1]
    assert (ended.phase, ended.outcome, ended.lost) == ("fall_back", "failed", None)
    assert isinstance(got.error.__cause__, AttributeError)


async def test_a_policy_cannot_accept_what_the_gate_rejected():
    async def reckless(passage: Passage):
        await passage.screen()
        return passage.accept(await passage.speculate())

    small, large = engines(REJECTED)
    got = await a_funnel(small, large, reckless).settle(a_query())
    assert isinstance(got.error.__cause__, ValueError)


async def test_rejected_work_stays_in_usage():
    got = await answer(REJECTED)
    assert got.usage_by_phase == {
        "screen": Usage(100, 0, 1, 1),
        "speculate": Usage(100, 0, 2, 1),
        "fall_back": Usage(100, 0, 2, 1),
    }
    assert got.usage == Usage(300, 0, 5, 3)


async def test_cancelling_an_answer_closes_the_engine_call():
    small, large = engines(ACCEPTED)
    with anyio.move_on_after(2.0) as scope:
        await a_funnel(small, large).answer(a_query())
    assert scope.cancelled_caught
    assert [call.outcome for call in small.calls] == ["cancelled"]
    assert small.calls[0].ended_s - small.calls[0].started_s == pytest.approx(1.0)
    assert [call.outcome for call in large.calls] == ["finished"]
