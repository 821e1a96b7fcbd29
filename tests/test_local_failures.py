"""How the local engine fails and closes: whom it concerns is told, and nobody is left waiting."""

from __future__ import annotations

import threading
from dataclasses import replace

import anyio
import pytest
import torch

from speceyes.engines.decode import Batch
from speceyes.engines.local import LocalEngine
from speceyes.engines.prompt import PromptWriter
from speceyes.engines.sight import VisionTower
from speceyes.engines.stack import TextStack
from speceyes.engines.worker import LocalLimits
from speceyes.errors import EngineError, EngineUnavailable, PictureTruncated
from speceyes.pictures import open_picture
from speceyes.types import GenerateRequest
from tests.tiny_checkpoints import (
    ENDLESS,
    OTHER,
    PICTURE,
    SHORT,
    ask,
    checkpoint_folder,
    hold_until_waiting,
    opened,
    together,
    until,
)

pytestmark = [pytest.mark.local, pytest.mark.anyio]


async def test_a_damaged_picture_is_the_callers_error():
    cut = open_picture(PICTURE.data[: len(PICTURE.data) // 2])
    async with opened() as engine:
        for _ in range(2):  # the second must not find a stuck first
            with pytest.raises(PictureTruncated):
                await engine.generate(ask(cut, "?"))
        assert (await engine.generate(SHORT)).token_count == 12


async def test_a_failing_prompt_fails_alone(monkeypatch: pytest.MonkeyPatch):
    look = VisionTower._look

    def fails_on_other(tower: VisionTower, unseen):
        if OTHER.digest in unseen:
            raise RuntimeError("a broken kernel")
        return look(tower, unseen)

    async with opened(limits=LocalLimits(max_batch=8)) as engine:
        want = await engine.generate(SHORT)
        engine.forget()
        monkeypatch.setattr(VisionTower, "_look", fails_on_other)
        outcomes: list[object] = []

        async def one(request: GenerateRequest) -> None:
            try:
                outcomes.append((await engine.generate(request)).text)
            except EngineError as error:
                outcomes.append(error)

        hold_until_waiting(engine, 3)
        async with anyio.create_task_group() as tasks:
            for request in (SHORT, ENDLESS, SHORT):
                tasks.start_soon(one, request)
        failures = [o for o in outcomes if isinstance(o, EngineError)]
        assert [o for o in outcomes if isinstance(o, str)] == [want.text] * 2
        assert len(failures) == 1
        assert "broken kernel" in str(failures[0])
        assert isinstance(failures[0].__cause__, RuntimeError)


async def test_a_failing_step_fails_who_was_in_it_and_no_one_after(monkeypatch: pytest.MonkeyPatch):
    decode = TextStack.decode
    calls: list[int] = []

    def fails_once(stack: TextStack, ids, *args, **kwargs):
        calls.append(len(ids))
        if len(calls) == 4:
            raise RuntimeError("a broken kernel")
        return decode(stack, ids, *args, **kwargs)

    async with opened(limits=LocalLimits(prefix_bytes=0)) as engine:
        want = await engine.generate(SHORT)
        monkeypatch.setattr(TextStack, "decode", fails_once)
        with pytest.raises(EngineError, match="broken kernel"):
            await engine.generate(SHORT)
        assert await engine.generate(SHORT) == want
        assert engine.tally.abandoned == 0
    assert calls == [1] * len(calls), "and no row of before takes part"


async def test_out_of_memory_says_so(monkeypatch: pytest.MonkeyPatch):
    def starve(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TextStack, "prefill", starve)
    async with opened() as engine:
        with pytest.raises(EngineUnavailable, match="out of memory"):
            await engine.generate(SHORT)


async def test_a_row_without_numbers_fails_and_spoils_nobody(monkeypatch: pytest.MonkeyPatch):
    decode = TextStack.decode
    spoilt: list[bool] = []

    def spoils_one(stack: TextStack, ids, positions, *, lengths, cache):
        logits = decode(stack, ids, positions, lengths=lengths, cache=cache)
        if not spoilt and len(ids) == 2:
            spoilt.append(True)
            cache._store[:, :, 1] = torch.nan  # as the row itself would have left it
            logits[1] = torch.nan
        return logits

    async with opened() as engine:
        want = await engine.generate(SHORT)
        monkeypatch.setattr(TextStack, "decode", spoils_one)
        outcomes: list[object] = []

        async def one() -> None:
            try:
                outcomes.append(await engine.generate(SHORT))
            except EngineError as error:
                outcomes.append(str(error))

        hold_until_waiting(engine, 2)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(one)
        assert "tiny: the model's logits are not finite" in outcomes
        longer, shorter = await together(engine, [replace(SHORT, max_tokens=30), ask("hm")])
    survivor = next(o for o in outcomes if not isinstance(o, str))
    assert (survivor.text, longer.text[: len(want.text)]) == (want.text, want.text)
    assert shorter.token_count == 12


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_defect_in_the_thread_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Batch, "remove", lambda *_: 1 / 0)
    async with opened() as engine:
        with anyio.fail_after(10):
            for _ in range(2):
                with pytest.raises(EngineUnavailable, match="ZeroDivisionError"):
                    await engine.generate(SHORT)


async def test_closing_ends_the_thread_and_whatever_is_under_way():
    before = threading.active_count()
    engine = LocalEngine.load(checkpoint_folder("qwen3_vl"), name="tiny", threads=1)
    caught: list[EngineUnavailable] = []

    async def one() -> None:
        try:
            await engine.generate(ENDLESS)
        except EngineUnavailable as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await until(lambda: engine.tally.steps > 2)
        assert model_threads() == 1
        await engine.aclose()
    assert model_threads() == 0
    assert "closed" in str(caught[0])
    await engine.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.generate(SHORT)
    assert threading.active_count() <= before + 2  # anyio keeps its workers a while


def model_threads() -> int:
    return sum(thread.name == "speceyes-tiny" for thread in threading.enumerate())


async def test_closing_between_prompt_and_batch_is_an_error_too(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine.load(checkpoint_folder("qwen3_vl"), name="tiny", threads=1)
    await engine.generate(SHORT)
    write = PromptWriter.write
    is_writing, may_go_on = threading.Event(), threading.Event()

    def held(writer: PromptWriter, request: GenerateRequest):
        is_writing.set()
        may_go_on.wait(10)
        return write(writer, request)

    monkeypatch.setattr(PromptWriter, "write", held)

    async def close() -> None:
        await until(is_writing.is_set)
        await engine.aclose()
        may_go_on.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with anyio.fail_after(10), pytest.raises(EngineUnavailable, match="closed"):
            await engine.generate(SHORT)
