"""Many requests in one local engine: they join, wait, leave and are cancelled, and harm nobody."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from speceyes.engines.stack import TextStack
from speceyes.engines.worker import LocalLimits, Ticket
from speceyes.types import GenerateRequest
from tests.tiny_checkpoints import ENDLESS, HEAD_DIM, SHORT, opened, together, until
from tests.tiny_checkpoints import slow as slow  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.local, pytest.mark.anyio]

TOKEN_BYTES = 2 * 3 * 2 * HEAD_DIM * 4  # keys and values, layers, heads, float32


@pytest.mark.usefixtures("slow")
async def test_a_row_joins_and_leaves_while_others_run():
    async with opened() as engine:
        want = await engine.generate(SHORT)
        long = await engine.generate(replace(ENDLESS, max_tokens=60))
        got: list[str] = []

        async def one(request: GenerateRequest) -> None:
            got.append((await engine.generate(request)).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, replace(ENDLESS, max_tokens=60))
            for _ in range(3):
                before = engine.tally.steps
                await until(lambda at=before: engine.tally.steps > at + 2)
                tasks.start_soon(one, SHORT)
        assert engine.tally.widest_step >= 2
    assert got[:3] == [want.text] * 3, "the short ones are done first"
    assert got[3] == long.text


@pytest.mark.usefixtures("slow")
async def test_a_cancelled_row_leaves_the_batch_at_the_next_step():
    async with opened() as engine:
        want = (await engine.generate(replace(SHORT, max_tokens=40))).text
        got: list[str] = []

        async def one() -> None:
            got.append((await engine.generate(replace(SHORT, max_tokens=40))).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            with anyio.move_on_after(5) as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(engine.generate, ENDLESS)
                    await until(lambda: engine.tally.widest_step == 2)
                    scope.cancel()
            drawn = engine.tally.drawn_tokens
            await until(lambda: engine.tally.abandoned == 1)
            assert engine.tally.drawn_tokens - drawn <= 4
        assert got == [want], "who stays does not notice"
        steps = engine.tally.steps
        await anyio.sleep(0.05)
        assert engine.tally.steps == steps, "nobody is served any more"


@pytest.mark.usefixtures("slow")
async def test_a_request_cancelled_while_it_waits_is_never_read():
    async with opened(limits=LocalLimits(max_batch=1)) as engine:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.generate, replace(ENDLESS, max_tokens=200))
            await until(lambda: engine.tally.steps > 0)
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(engine.generate, SHORT)
                await until(lambda: len(engine._open().thread._waiting) == 1)
                leaving.cancel_scope.cancel()
        assert (await engine.generate(SHORT)).token_count == 12
        assert engine.tally.prompts == 2


async def test_no_more_rows_than_allowed_share_a_step():
    async with opened(limits=LocalLimits(max_batch=2)) as engine:
        answers = await together(engine, [SHORT] * 5)
        assert engine.tally.widest_step == 2
    assert len({a.text for a in answers}) == 1


@pytest.mark.parametrize(("prefill_tokens", "most"), [(10_000, 6), (1, 1), (100, 2)])
async def test_prompts_are_read_together_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, prefill_tokens: int, most: int
):
    read: list[int] = []
    prefill = TextStack.prefill

    def counted(*args, spans, **kwargs):
        read.append(len(spans))
        return prefill(*args, spans=spans, **kwargs)

    monkeypatch.setattr(TextStack, "prefill", counted)
    async with opened(limits=LocalLimits(prefill_tokens=prefill_tokens)) as engine:
        await together(engine, [SHORT] * 6)  # some 40 tokens each
    assert max(read) == most
    assert sum(read) == 6


async def test_rows_wait_until_the_cache_has_room():
    async with opened() as engine:
        need = (await engine.generate(SHORT)).usage.prompt_tokens + SHORT.max_tokens
    async with opened(limits=LocalLimits(cache_bytes=3 * need * TOKEN_BYTES)) as engine:
        await together(engine, [SHORT] * 7)
        assert engine.tally.widest_step == 3


@pytest.mark.usefixtures("slow")
async def test_a_tight_cache_keeps_the_longer_row_whole():
    long = replace(ENDLESS, max_tokens=240)
    async with opened() as engine:
        want = await engine.generate(long)
    reserved = want.usage.prompt_tokens + long.max_tokens
    async with opened(limits=LocalLimits(cache_bytes=2 * reserved * TOKEN_BYTES)) as engine:
        got: list[str] = []

        async def one() -> None:
            got.append((await engine.generate(long)).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await until(lambda: engine.tally.steps > 225)
            await engine.generate(replace(SHORT, max_tokens=3))
        assert engine.tally.widest_step == 2
    assert got == [want.text]


async def test_one_engine_serves_event_loops_in_several_threads():
    async with opened() as engine:
        want = await engine.generate(SHORT)
        got: list[str] = []

        async def there() -> None:
            answers = await together(engine, [SHORT] * 2, hold=False)
            got.extend(answer.text for answer in answers)

        def elsewhere(backend: str) -> None:
            anyio.run(there, backend=backend)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, elsewhere, "asyncio")
            tasks.start_soon(anyio.to_thread.run_sync, elsewhere, "trio")
            tasks.start_soon(there)
    assert got == [want.text] * 6


@pytest.mark.usefixtures("slow")
async def test_an_event_loop_that_ends_early_harms_nobody():
    async with opened() as engine:
        want = (await engine.generate(SHORT)).text

        async def leaves_early() -> None:
            with anyio.move_on_after(0.05):
                await engine.generate(ENDLESS)

        await anyio.to_thread.run_sync(lambda: anyio.run(leaves_early))
        assert (await engine.generate(SHORT)).text == want


def test_waking_a_loop_that_has_ended_is_no_error(anyio_backend_name: str):
    async def make() -> Ticket:
        return Ticket(None, reserved_tokens=1)

    ticket = anyio.run(make, backend=anyio_backend_name)
    ticket.wake()
