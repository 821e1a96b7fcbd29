"""The whole funnel over HTTP: lies about log-probabilities, servers that die, many at once."""

import math
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.errors import EngineUnavailable
from speceyes.policies.fixed import agent_only, race
from tests.stand_ins import a_funnel, a_query
from tests.stub_server import Say, StubServer, altered, last_text, say

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def small_says(body) -> Say:
    return say(body, ["small", " words"])


def large_says(body) -> Say:
    kind = last_text(body).partition("|")[0]
    return say(body, ["no"] if kind == "screen" else ["answer", " large"])


class Pair:
    """Two servers, two engines, and the funnel over them."""

    def __init__(self):
        self.small, self.large = StubServer(small_says), StubServer(large_says)
        self.engines = []
        self.funnel = None

    async def settle(self, count, *, concurrency=4):
        queries = (a_query(f"q{n}") for n in range(count))
        return [one async for one in self.funnel.answer_many(queries, concurrency=concurrency)]


@asynccontextmanager
async def opened(policy=None, **settings):
    pair = Pair()
    settings = HttpSettings(**({"backoff_s": 0.001, "max_attempts": 2} | settings))
    async with AsyncExitStack() as stack:
        for server in (pair.small, pair.large):
            await server.start()
            stack.push_async_callback(server.stop)
            pair.engines.append(HttpEngine(server.url, model="stub", settings=settings))
            stack.push_async_callback(pair.engines[-1].aclose)
        more = {} if policy is None else {"policy": policy}
        pair.funnel = await stack.enter_async_context(a_funnel(*pair.engines, **more))
        yield pair


def routes(outcomes):
    return Counter((one.answer.route, one.answer.reason) for one in outcomes)


# Each way to corrupt log-probabilities, and the reason it is rejected with.


def on_each(change):
    """Change each entry in place."""

    def change_all(rows):
        for row in rows:
            change(row)
        return rows

    return change_all


def on_candidates(value):
    return on_each(lambda row: [one.update(logprob=value(one)) for one in row["top_logprobs"]])


def narrow_one(rows):
    rows[-2]["top_logprobs"] = rows[-2]["top_logprobs"][:15]
    return rows


def zero_all(row):
    row["logprob"] = 0.0
    row["top_logprobs"][0]["logprob"] = 0.0


CORRUPTIONS = {
    "missing": (lambda rows: [], "no_evidence"),
    "no candidates": (on_each(lambda row: row.update(top_logprobs=[])), "too_few_candidates"),
    "null candidates": (on_each(lambda row: row.pop("top_logprobs")), "too_few_candidates"),
    "fewer candidates": (
        on_each(lambda row: row.update(top_logprobs=row["top_logprobs"][:15])),
        "too_few_candidates",
    ),
    "one narrow row": (narrow_one, "too_few_candidates"),
    "a row lost": (lambda rows: rows[1:], "length_mismatch"),
    "a row doubled": (lambda rows: [rows[0], *rows], "length_mismatch"),
    "the end doubled": (lambda rows: [*rows, rows[-1]], "length_mismatch"),
    "another's rows": (on_each(lambda row: row.update(bytes=[120])), "length_mismatch"),
    "no objects": (lambda rows: [None, 3, "x"], "length_mismatch"),
    "nan": (on_candidates(lambda one: math.nan), "non_finite"),
    "infinite": (on_candidates(lambda one: math.inf), "non_finite"),
    "null": (on_candidates(lambda one: None), "non_finite"),
    "in quotes": (on_candidates(lambda one: str(one["logprob"])), "non_finite"),
    "chosen nan": (on_each(lambda row: row.update(logprob=math.nan)), "non_finite"),
    "masked": (on_each(lambda row: row["top_logprobs"][5].update(logprob=-9999.0)), "masked"),
    "minus infinity": (
        on_each(lambda row: row["top_logprobs"][5].update(logprob=-math.inf)),
        "masked",
    ),
    "constant": (
        on_each(
            lambda row: (
                [row.update(logprob=-4.2)]
                + [one.update(logprob=-4.2) for one in row["top_logprobs"]]
            )
        ),
        "constant",
    ),
    "constant rivals": (
        on_each(lambda row: [one.update(logprob=-7.0) for one in row["top_logprobs"][1:]]),
        "constant",
    ),
    "chosen all zero": (on_each(lambda row: row.update(logprob=0.0)), "zeroed"),
    "chosen and top zero": (on_each(zero_all), "zeroed"),
    "not greedy": (
        on_each(lambda row: row.update(logprob=row["top_logprobs"][3]["logprob"])),
        "not_greedy",
    ),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", CORRUPTIONS)
async def test_a_corruption_is_rejected_by_name_and_the_agent_answers(name, stream):
    change, reason = CORRUPTIONS[name]
    async with opened(stream=stream) as pair:
        pair.small.script = lambda body: altered(small_says(body), change)
        outcomes = await pair.settle(3)
    assert routes(outcomes) == {("agentic", reason): 3}
    assert {one.answer.text for one in outcomes} == {"large"}


async def test_an_answer_cut_off_is_rejected_by_name():
    async with opened() as pair:
        pair.small.script = lambda body: replace(small_says(body), finish="length")
        assert routes(await pair.settle(3)) == {("agentic", "truncated"): 3}


async def test_what_is_not_corrupted_is_accepted():
    async with opened() as pair:
        assert routes(await pair.settle(5)) == {("speculative", "accepted"): 5}


async def test_the_end_tokens_row_may_be_missing():
    async with opened() as pair:
        pair.small.script = lambda body: altered(small_says(body), lambda rows: rows[:-1])
        assert routes(await pair.settle(3)) == {("speculative", "accepted"): 3}


async def test_a_small_server_without_log_probabilities_leaves_all_to_the_agent():
    async with opened() as pair:
        pair.small.script = lambda body: replace(small_says(body), entries=())
        assert routes(await pair.settle(3)) == {("agentic", "no_evidence"): 3}


async def test_a_large_server_without_log_probabilities_screens_by_its_word():
    async with opened() as pair:
        pair.large.script = lambda body: replace(large_says(body), entries=())
        outcomes = await pair.settle(4, concurrency=1)
    assert routes(outcomes) == {("speculative", "accepted"): 4}
    assert [one.answer.p_tool for one in outcomes] == [0.0] * 4
    imposed = [body.get("structured_outputs") for body in pair.large.bodies]
    assert imposed == [None, *[{"choice": ["yes", "no"]}] * 3]


# Servers that die and come back.


async def test_a_dead_small_server_degrades_and_recovers_without_restart():
    async with opened() as pair:
        assert routes(await pair.settle(6)) == {("speculative", "accepted"): 6}

        pair.small.script = lambda body: replace(small_says(body), wait_s=0.05)
        midway = []

        async def die():
            await pair.small.until(lambda server: server.in_flight)
            await pair.small.stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(die)
            midway = await pair.settle(12)
        assert routes(midway) == {("agentic", "small_failed"): 12}
        assert all(one.answer.is_degraded for one in midway)
        assert all(one.answer.text == "large" for one in midway)

        await pair.small.start()
        pair.small.script = small_says
        after = await pair.settle(6)
        assert routes(after) == {("speculative", "accepted"): 6}
        assert not any(one.answer.is_degraded for one in after)


async def test_a_dead_large_server_gives_named_errors_at_once_and_recovers():
    async with opened(policy=agent_only) as pair:
        pair.large.script = lambda body: replace(large_says(body), wait_s=0.2)
        ends = []

        async def die():
            await pair.large.until(lambda server: server.in_flight)
            await pair.large.stop()

        start_s = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(die)
            ends = await pair.settle(12)
        assert time.monotonic() - start_s < 3
        assert {type(one.error) for one in ends} == {EngineUnavailable}
        assert all("127.0.0.1" in str(one.error) for one in ends)

        await pair.large.start()
        pair.large.script = large_says
        assert routes(await pair.settle(6)) == {("agentic", "agent_only"): 6}


async def test_both_dead_is_an_error_and_both_back_is_an_answer():
    async with opened() as pair:
        await pair.small.stop()
        await pair.large.stop()
        ends = await pair.settle(4)
        assert {type(one.error) for one in ends} == {EngineUnavailable}
        await pair.small.start()
        await pair.large.start()
        assert routes(await pair.settle(4)) == {("speculative", "accepted"): 4}


# A race over servers.


async def test_an_agent_that_loses_its_race_is_closed_at_its_server():
    async with opened(policy=race) as pair:

        def slow_turns(body):
            is_screen = body["max_tokens"] == 1
            return large_says(body) if is_screen else replace(large_says(body), token_s=0.5)

        pair.large.script = slow_turns
        start_s = time.monotonic()
        assert routes(await pair.settle(3)) == {("speculative", "accepted"): 3}
        assert time.monotonic() - start_s < 3
        await pair.large.until(lambda server: server.disconnects == 3)
        assert (pair.small.disconnects, pair.large.in_flight) == (0, 0)


# Many at once.


async def test_many_queries_in_flight_leave_nothing_behind():
    async with opened() as pair:
        pair.small.hold(30)
        ids = {one.query_id for one in await pair.settle(60, concurrency=30)}
        assert ids == {f"q{n}" for n in range(60)}
        assert pair.small.max_in_flight == 30
        assert pair.small.connections <= 30
        assert (pair.small.disconnects, pair.large.disconnects) == (0, 0)
        for engine in pair.engines:
            await engine.aclose()
        for server in (pair.small, pair.large):
            await server.until(lambda server: not server.connections)
