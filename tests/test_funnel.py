"""The funnel on virtual time: what each phase costs, where doubt leads, and how stories end."""

import math
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest
from anyio.lowlevel import checkpoint

from speceyes.engines.replay import Take, scripted, scripted_screen
from speceyes.errors import (
    ConfigError,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
    NoAnswer,
    PictureTruncated,
    SpecEyesError,
    ToolError,
)
from speceyes.events import (
    Answered,
    Failed,
    FellBack,
    PhaseEnded,
    QueryStarted,
    fold,
    usage_by_phase,
)
from speceyes.phases import Passage
from speceyes.policies.fixed import agent_only, serial
from speceyes.screen import ScreenSpec
from speceyes.types import Box, Evidence, Usage
from tests.stand_ins import (
    ACCEPTED,
    CALL,
    GATE,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    Spyglass,
    StandInPixels,
    Words,
    a_funnel,
    a_query,
    an_agent,
    engines,
    turns,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

DOWN = EngineUnavailable("small", "is down")
BROKEN = RuntimeError("boom")


async def answer(plan, **more):
    small, large = engines(plan)
    return await a_funnel(small, large, **more).answer(a_query())


async def settle(plan, **more):
    small, large = engines(plan)
    return await a_funnel(small, large, **more).settle(a_query())


def kinds(trace):
    return [type(event).__name__ for event in trace]


def of(trace, kind):
    return [event for event in trace if isinstance(event, kind)]


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


def said(**more):
    return Take(scripted("small words", **({"k": 16} | more)))


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


# How stories end.


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


# stream


async def test_a_stream_tells_the_same_story_as_answer():
    small, large = engines(REJECTED)
    async with a_funnel(small, large) as funnel:
        told = [event async for event in funnel.stream(a_query())]
        answered = await funnel.answer(a_query())
    assert kinds(told) == kinds(answered.trace)
    assert fold(told).text == answered.text
    assert isinstance(told[0], QueryStarted)


async def test_events_come_as_they_happen():
    small, large = engines(REJECTED)
    async with a_funnel(small, large) as funnel:
        started_s = anyio.current_time()
        async for event in funnel.stream(a_query()):
            assert anyio.current_time() - started_s == pytest.approx(event.at_s)


async def test_a_slow_listener_does_not_hold_up_the_query():
    small, large = engines(REJECTED)
    async with a_funnel(small, large) as funnel:
        events = []
        async for event in funnel.stream(a_query()):
            events.append(event)
            await anyio.sleep(3.0)
    assert events[-1].at_s == pytest.approx(8.0)


async def test_a_failed_query_streams_its_failure():
    small, large = engines(Plan(screen=NEEDS_TOOL.screen, turns=(Take(DOWN),)))
    async with a_funnel(small, large) as funnel:
        told = [event async for event in funnel.stream(a_query())]
    assert isinstance(told[-1], Failed)
    assert told[-1].error is DOWN


async def test_closing_a_stream_early_cancels_the_work_and_waits_for_its_end():
    small, large = engines(ACCEPTED)
    async with a_funnel(small, large) as funnel:
        async with aclosing(funnel.stream(a_query())) as stream:
            async for event in stream:
                if event.at_s > 0.5:
                    break
            await anyio.sleep(0.5)
            assert small.in_flight == 1
        assert small.in_flight == 0
        assert [call.outcome for call in small.calls] == ["cancelled"]
        assert (await funnel.answer(a_query())).text == "small words"  # the funnel goes on


async def test_work_that_nobody_listens_to_is_cancelled_and_nothing_else():
    seen = []

    async def watched(passage):
        try:
            return await serial(passage)
        except BaseException as error:
            seen.append(error)
            raise

    small, large = engines(ACCEPTED)
    async with (
        a_funnel(small, large, watched) as funnel,
        aclosing(funnel.stream(a_query())) as stream,
    ):
        await anext(stream)
        await anyio.sleep(0.5)
    assert [type(error) for error in seen] == [anyio.get_cancelled_exc_class()]


async def test_a_listener_that_is_cancelled_takes_the_work_with_it():
    small, large = engines(ACCEPTED)
    async with a_funnel(small, large) as funnel:
        with anyio.move_on_after(2.0):
            async with aclosing(funnel.stream(a_query())) as stream:
                async for _ in stream:
                    pass
        await checkpoint()
        assert [call.outcome for call in small.calls] == ["cancelled"]


async def test_a_stream_that_is_never_listened_to_starts_nothing():
    small, large = engines(ACCEPTED)
    async with a_funnel(small, large) as funnel:
        await funnel.stream(a_query()).aclose()
    assert large.calls == []


async def test_leaving_the_funnel_ends_open_streams_with_an_error():
    small, large = engines(ACCEPTED)
    ends = []

    async def listen(funnel):
        try:
            async for _ in funnel.stream(a_query()):
                pass
        except EngineUnavailable as error:
            ends.append(error)

    async with anyio.create_task_group() as tasks, a_funnel(small, large) as funnel:
        tasks.start_soon(listen, funnel)
        await anyio.sleep(2.0)
    assert len(ends) == 1
    assert small.cancelled == 1


async def test_streams_need_an_open_funnel():
    funnel = a_funnel(*engines(ACCEPTED))
    with pytest.raises(EngineUnavailable, match="async with"):
        await anext(funnel.stream(a_query()))
    async with funnel:
        pass
    with pytest.raises(EngineUnavailable, match="async with"):
        await anext(funnel.stream(a_query()))


async def test_an_error_in_the_body_leaves_the_funnel_as_it_is():
    async def fail():
        async with (
            a_funnel(*engines(ACCEPTED)) as funnel,
            aclosing(funnel.stream(a_query())) as stream,
        ):
            await anext(stream)
            raise KeyError("body")

    with pytest.raises(KeyError):  # not a group around it
        await fail()


# answer_many


def many(*plans):
    return {f"q{index}": plan for index, plan in enumerate(plans)}


def asked(plans):
    return [a_query(name) for name in plans]


async def collect(funnel, queries, concurrency):
    async with funnel:
        return [got async for got in funnel.answer_many(queries, concurrency=concurrency)]


async def test_outcomes_come_in_order_of_completion():
    plans = many(REJECTED, ACCEPTED, NEEDS_TOOL)  # 8 s, 3 s, 6 s
    got = await collect(a_funnel(*engines(plans)), asked(plans), 3)
    assert [outcome.query_id for outcome in got] == ["q1", "q2", "q0"]
    assert [outcome.answer.elapsed_s for outcome in got] == pytest.approx([3.0, 6.0, 8.0])


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_concurrency_is_a_limit_and_is_used(concurrency):
    plans = many(*[ACCEPTED] * 10)
    small, large = engines(plans)
    started_s = anyio.current_time()
    got = await collect(a_funnel(small, large), asked(plans), concurrency)
    assert len(got) == 10
    assert anyio.current_time() - started_s == pytest.approx(3.0 * 10 / concurrency)
    assert max(small.max_in_flight, large.max_in_flight) == concurrency


async def test_queries_are_taken_only_when_there_is_room():
    taken = []

    def source():
        for query in asked(many(*[ACCEPTED] * 50)):
            taken.append(query)
            yield query

    async with (
        a_funnel(*engines(ACCEPTED)) as funnel,
        aclosing(funnel.answer_many(source(), concurrency=2)) as outcomes,
    ):
        await anext(outcomes)
        await anyio.sleep(1000.0)
        assert len(taken) == 1 + 2 + 2  # given, kept, and at the door


async def test_a_batch_that_raises_is_not_dropped():
    """Reference defect: a batch that raised was printed and dropped."""
    plans = many(ACCEPTED, Plan(screen=Take(BROKEN), turns=(Take(BROKEN),)), NEEDS_TOOL)
    got = await collect(a_funnel(*engines(plans)), asked(plans), 3)
    ends = {outcome.query_id: outcome for outcome in got}
    assert set(ends) == {"q0", "q1", "q2"}
    assert isinstance(ends["q1"].error, EngineProtocolError)
    assert ends["q1"].answer is None
    assert isinstance(ends["q1"].trace[-1], Failed)
    assert ends["q0"].answer.text == "small words"
    assert ends["q2"].answer.text == "large"


async def test_a_defect_in_one_query_leaves_the_others():
    class Picky(Words):
        @staticmethod
        def speculate(query, views):
            if query.question == "q1":
                raise KeyError("template")
            return Words.speculate(query, views)

    plans = many(ACCEPTED, ACCEPTED, ACCEPTED)
    got = await collect(a_funnel(*engines(plans), parts={"prompts": Picky}), asked(plans), 2)
    assert sorted(outcome.error is None for outcome in got) == [False, True, True]


async def test_a_policy_that_tells_no_story_is_an_outcome_too():
    async def silent(passage):
        return QueryStarted(*passage.narrator.stamp())

    plans = many(ACCEPTED, ACCEPTED)
    got = await collect(a_funnel(*engines(plans), silent), asked(plans), 2)
    assert [type(outcome.error).__name__ for outcome in got] == ["TraceError", "TraceError"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_source_that_breaks_loses_no_outcome(is_async):
    def plain():
        yield a_query("q0")
        yield a_query("q1")
        raise LookupError("no more rows")

    async def awaited():
        for query in (a_query("q0"), a_query("q1")):
            await anyio.sleep(0.5)
            yield query
        raise LookupError("no more rows")

    async def collect(into):
        async with a_funnel(*engines(ACCEPTED)) as funnel:
            source = awaited() if is_async else plain()
            async for outcome in funnel.answer_many(source, concurrency=4):
                into.append(outcome)

    got = []
    with pytest.raises(LookupError, match="no more rows"):
        await collect(got)
    assert [outcome.answer.text for outcome in got] == ["small words"] * 2


async def test_closing_answer_many_early_cancels_what_is_under_way():
    plans = many(ACCEPTED, *[REJECTED] * 5)
    small, large = engines(plans)
    async with a_funnel(small, large) as funnel:
        async with aclosing(funnel.answer_many(asked(plans), concurrency=3)) as outcomes:
            assert (await anext(outcomes)).query_id == "q0"
            await anyio.sleep(2.0)
            assert large.in_flight == 2  # the agents of q1 and q2
            assert small.in_flight == 1  # q3
        assert small.in_flight == large.in_flight == 0
        asked_so_far = len(small.calls) + len(large.calls)
        await anyio.sleep(100.0)
        assert len(small.calls) + len(large.calls) == asked_so_far
        assert (large.cancelled, small.cancelled) == (2, 1)


async def test_no_queries_no_outcomes():
    assert await collect(a_funnel(*engines(ACCEPTED)), [], 3) == []


async def test_concurrency_below_one_is_refused_at_once():
    with pytest.raises(ConfigError, match="concurrency"):
        a_funnel(*engines(ACCEPTED)).answer_many([], concurrency=0)


async def test_queries_share_batches():
    """Stateless phases of different queries meet in one engine: the parallel funnel."""
    plans = many(*[ACCEPTED] * 6)
    small, large = engines(plans, max_batch=6)
    started_s = anyio.current_time()
    await collect(a_funnel(small, large), asked(plans), 6)
    assert anyio.current_time() - started_s == pytest.approx(3.0)
    assert (small.max_in_flight, large.max_in_flight) == (6, 6)


async def test_single_answers_do_not_need_an_open_funnel():
    assert isinstance((await answer(ACCEPTED)).trace[-1], Answered)
