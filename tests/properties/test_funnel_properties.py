"""Whatever the engines do, and whenever: one ending a query, no work unaccounted for, none left."""

import math
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio
import trio.testing
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import EngineTimeout, EngineUnavailable, NoAnswer
from speceyes.events import Failed, QueryStarted, ending, fold, phase_seconds, usage_by_phase
from speceyes.policies.fixed import agent_only, overlap, race, serial
from speceyes.types import Budget, Image, Usage
from tests.stand_ins import BAD_JSON, CALL, Plan, a_funnel, a_query, an_agent, engines, key_of

LIMIT_S = 50.0  # of screen and speculation; some engines hang

latencies_s = st.integers(0, 20).map(lambda tenths: tenths / 8)  # sums of eighths are exact
usages = st.builds(Usage, *[st.integers(0, 99)] * 4)  # none of it is lost on the way
errors = st.sampled_from(
    [EngineUnavailable("e", "down"), EngineTimeout("e", "late"), RuntimeError("boom")]
)


def takes(generations):
    said = st.builds(Take, generations, latencies_s)
    hung = st.builds(Take, generations, st.just(math.inf))
    return st.one_of(said, said, said, said, st.builds(Take, errors, latencies_s), hung)


def spent(generation, usage):
    return replace(generation, usage=usage)


screens = st.builds(
    spent,
    st.one_of(
        (st.none() | st.floats(0.0, 1.0)).map(scripted_screen),
        st.just(scripted("perhaps", separability=None)),
    ),
    usages,
)
answers = st.builds(
    spent,
    st.builds(
        partial(scripted, k=16),
        st.sampled_from(["ring", "a red disc", " "]),
        separability=st.none() | st.floats(0.5, 12.0),
        finish=st.sampled_from(["stop", "stop", "stop", "length"]),
    ),
    usages,
)
replies = st.builds(
    spent,
    st.sampled_from(["answer large", CALL, CALL, BAD_JSON, "call telescope 1", "hm"]).map(
        partial(scripted, separability=None)
    ),
    usages,
)
plans = st.builds(
    Plan, takes(screens), takes(answers), st.tuples(*[takes(replies)] * 4)
)  # four turns are the budget
policies = st.sampled_from([serial, agent_only, overlap, race, race])
in_order = st.sampled_from([serial, serial, serial, agent_only])  # no two events fall together
screeners = st.sampled_from(["large", "large", "small", "none"])


class Heard(ReplayEngine):
    """Remembers which take each call was given."""

    def worked(self):
        """Add up what was done, to the end or until it was cancelled."""
        spent = [
            take.result.usage if call.outcome == "finished" else call.lost or Usage.zero
            for call, take in zip(self.calls, self.taken, strict=True)
        ]
        return sum(spent, Usage.zero)


def engine(plan_of, name, **more):
    taken = []

    def script(request):
        kind, question, turn = key_of(request)
        plan = plan_of[question]
        take = {"screen": plan.screen, "speculate": plan.small}.get(kind) or plan.turns[turn]
        taken.append(take)
        return take

    heard = Heard(script, name=name, **more)
    heard.taken = taken
    return heard


def funnel_of(plan_of, policy=serial, screener="large", **rules):
    small, large = engine(plan_of, "small"), engine(plan_of, "large")
    screened_by = {"small": small, "large": large, "none": None}[screener]
    timeouts = {"screen_timeout_s": LIMIT_S, "speculate_timeout_s": LIMIT_S}
    made = a_funnel(small, large, policy, parts={"screener": screened_by}, **timeouts, **rules)
    return made, small, large


def on_virtual_time(work, *args):
    clock = trio.testing.MockClock(autojump_threshold=0)
    return anyio.run(work, *args, backend="trio", backend_options={"clock": clock})


@given(plans, policies, screeners, st.booleans())
def test_every_query_ends_once_and_all_its_work_is_accounted_for(plan, policy, screener, degrade):
    funnel, small, large = funnel_of({"q": plan}, policy, screener, degrade=degrade)
    outcome = on_virtual_time(funnel.settle, a_query("q"))

    trace = outcome.trace
    end = ending(trace)  # exactly one, and the last
    assert isinstance(trace[0], QueryStarted)
    assert [event.at_s for event in trace] == sorted(event.at_s for event in trace)
    assert (outcome.answer is None) == isinstance(end, Failed) == (outcome.error is not None)
    assert small.in_flight == large.in_flight == 0
    assert {call.outcome for call in [*small.calls, *large.calls]} <= {
        "finished",
        "failed",
        "cancelled",
    }

    counted = sum(usage_by_phase(trace).values(), Usage.zero)
    worked = small.worked() + large.worked()
    assert (counted.prompt_tokens, counted.completion_tokens, counted.images) == (
        worked.prompt_tokens,
        worked.completion_tokens,
        worked.images,
    )
    calls = [*small.calls, *large.calls]
    is_told = all(call.outcome == "finished" or call.lost is not None for call in calls)
    assert (counted.cached_tokens is not None) == is_told  # what is not is marked

    # No time is wasted: some phase is open at any time, and under serial just one.
    spent_s = sum(phase_seconds(trace).values())
    assert spent_s >= trace[-1].at_s
    if policy in {serial, agent_only}:
        assert spent_s == trace[-1].at_s
    if outcome.answer is not None:
        check_route(outcome.answer, plan, degrade)


def check_route(answer, plan, degrade):
    match answer.route:
        case "speculative":
            assert answer.verdict.accepted
            assert answer.verdict.score > answer.verdict.threshold
            assert (answer.text, answer.reason) == (plan.small.result.text, "accepted")
        case "agentic":
            assert answer.text == "large"
            is_first = answer.reason == "agent_first"  # a verdict may have come with no screen yet
            assert is_first or answer.verdict is None or not answer.verdict.accepted
        case "degraded":
            assert degrade
            assert not answer.verdict.accepted
            assert (answer.text, answer.reason) == (plan.small.result.text, "agent_failed")


@given(plans, policies, st.integers(0, 64).map(lambda eighths: eighths / 4))
def test_a_stream_closed_at_any_time_leaves_no_work_behind(plan, policy, close_at_s):
    funnel, small, large = funnel_of({"q": plan}, policy)

    async def listen():
        async with funnel:
            told = []
            with anyio.move_on_after(close_at_s):
                async with aclosing(funnel.stream(a_query("q"))) as stream:
                    async for event in stream:
                        told.append(event)  # noqa: PERF401 - what came before the end is kept
            await checkpoint()
            assert small.in_flight == large.in_flight == 0
            asked = len(small.calls) + len(large.calls)
            await anyio.sleep(1000.0)
            assert len(small.calls) + len(large.calls) == asked
            return told

    told = on_virtual_time(listen)
    whole = funnel_of({"q": plan}, policy)[0]
    story = on_virtual_time(whole.settle, a_query("q")).trace
    if policy in {serial, agent_only}:  # elsewhere, chance orders what falls together
        kinds = [type(event) for event in story]
        assert [type(event) for event in told] == kinds[: len(told)]


@settings(max_examples=25)
@given(st.lists(plans, max_size=8), st.integers(1, 4), in_order)
def test_many_queries_end_as_they_would_alone(many, concurrency, policy):
    plan_of = {f"q{index}": plan for index, plan in enumerate(many)}
    funnel, small, large = funnel_of(plan_of, policy)

    async def collect():
        async with funnel:
            asked = [a_query(name) for name in plan_of]
            return [got async for got in funnel.answer_many(asked, concurrency=concurrency)]

    got = on_virtual_time(collect)
    assert sorted(outcome.query_id for outcome in got) == sorted(plan_of)
    assert max(small.max_in_flight, large.max_in_flight) <= concurrency
    for outcome in got:
        alone, *_ = funnel_of(plan_of, policy)
        same = on_virtual_time(alone.settle, a_query(outcome.query_id))
        assert type(outcome.error) is type(same.error)
        assert [type(event) for event in outcome.trace] == [type(event) for event in same.trace]
        if same.answer is not None:
            assert (outcome.answer.text, outcome.answer.reason) == (
                same.answer.text,
                same.answer.reason,
            )


@given(st.lists(replies, min_size=1, max_size=12), st.integers(1, 8), st.integers(1, 6))
def test_an_agent_stays_within_its_budget(said, max_turns, max_pictures):
    turns = tuple(map(Take, said)) + (Take(scripted("hm", separability=None)),) * max_turns
    small, large = engines(Plan(turns=turns))
    agent = an_agent(large, budget=Budget(max_turns, 50), max_pictures=max_pictures)
    funnel = a_funnel(small, large, agent_only, parts={"agent": agent})
    outcome = on_virtual_time(funnel.settle, a_query())
    assert len(large.calls) <= max_turns
    pictures = {
        part.picture
        for call in large.calls
        for message in call.request.messages
        for part in message.parts
        if isinstance(part, Image)
    }
    assert len(pictures) <= max(max_pictures, 1)
    if outcome.error is None:
        assert fold(outcome.trace).text == "large"
    else:
        assert isinstance(outcome.error, NoAnswer)
