"""The funnel's streams and many queries at once: told as it happens, and ended early."""

from contextlib import aclosing

import anyio
import pytest
from anyio.lowlevel import checkpoint

from speceyes.engines.replay import Take
from speceyes.errors import ConfigError, EngineProtocolError, EngineUnavailable
from speceyes.events import Answered, Failed, QueryStarted, fold
from speceyes.policies.fixed import serial
from tests.stand_ins import (
    ACCEPTED,
    BROKEN,
    DOWN,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    Words,
    a_funnel,
    a_query,
    answer,
    engines,
    kinds,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


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
