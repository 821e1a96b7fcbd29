"""What every engine must do, whatever stands behind it. One suite; an engine is one entry.

To add one: a function that opens it, on a server or model that can answer the requests below, and
a line in ENGINES. Nothing here asks *what* is said, only how it is said and how it ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest
from PIL import Image as Pillow

from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import EngineUnavailable
from speceyes.meter import metering, one_call
from speceyes.pictures import encode_png
from speceyes.types import Engine, GenerateRequest, Generation, Image, Message, Text, Usage
from tests.stub_server import Body, Reply, last_text, say, serving

if TYPE_CHECKING:
    from tests.e2e.vllm_server import Pair

pytestmark = pytest.mark.anyio

PICTURE = encode_png(Pillow.linear_gradient("L").resize((64, 48)).convert("RGB"))


def ask(text: str, *, images: int = 1, tokens: int = 12, k: int = 8) -> GenerateRequest:
    """Make a request with so many pictures."""
    parts = (*[Image(PICTURE)] * images, Text(text))
    return GenerateRequest((Message("user", parts),), max_tokens=tokens, top_logprobs=k)


SHORT = ask("What is it?")
ENDLESS = ask("Tell me all of it.", tokens=380)


@asynccontextmanager
async def replay() -> AsyncIterator[ReplayEngine]:
    """Replay a script that keeps to the request, as a recording would."""

    def reply(request: GenerateRequest) -> Take:
        last = next(p.text for p in request.messages[-1].parts if isinstance(p, Text))
        words = [f"{word}{n}" for n in range(400) for word in last.split()][: request.max_tokens]
        text = " ".join(words)
        stop_string = next((stop for stop in request.stop if stop in text), None)
        if stop_string is not None:
            text = text[: text.index(stop_string) + len(stop_string)]
        said = scripted(
            text,
            k=request.top_logprobs or 8,
            separability=8.0 if request.top_logprobs else None,
            finish="length" if stop_string is None else "stop",
            usage=Usage(
                prompt_tokens=50,
                cached_tokens=None,
                completion_tokens=len(text.split()),
                images=sum(isinstance(p, Image) for m in request.messages for p in m.parts),
            ),
        )
        said = replace(said, engine="replay", stop_string=stop_string)
        return Take(said, latency_s=0.002 * said.token_count)

    yield ReplayEngine(reply)


@asynccontextmanager
async def local() -> AsyncIterator[Engine]:
    """Run a tiny model of random weights in this process."""
    from tests.tiny_checkpoints import opened

    async with opened("qwen2_5_vl") as engine:
        yield engine


@asynccontextmanager
async def stock() -> AsyncIterator[Engine]:
    """Run a tiny model of another make, by transformers' own loop."""
    from tests.tiny_stock_checkpoints import stock_opened

    async with stock_opened("llava") as engine:
        yield engine


@asynccontextmanager
async def http(*, stream: bool) -> AsyncIterator[Engine]:
    """Ask a server in this process, which tells its tokens as vLLM does."""
    from speceyes.engines.http import HttpEngine, HttpSettings

    def reply(body: Body) -> Reply:
        words = last_text(body).split()
        tokens = [f" {word}{n}" for n in range(400) for word in words]
        return say(body, tokens, token_s=0.002)

    async with serving(reply) as server:
        engine = HttpEngine(server.url, model="stub", settings=HttpSettings(stream=stream))
        try:
            yield engine
        finally:
            await engine.aclose()


@asynccontextmanager
async def vllm(pair: Pair) -> AsyncIterator[Engine]:
    """Ask a real vLLM. The built-in large model would end its answers too early for this suite."""
    from speceyes.engines.http import HttpEngine
    from tests.e2e.proxy import proxying

    def go_on(body: Body) -> None:
        body["ignore_eos"] = True

    async with proxying(pair.large.base_url, ask=go_on) as proxy:
        engine = HttpEngine(proxy.url, model=pair.large.name)
        try:
            yield engine
        finally:
            await engine.aclose()


ENGINES: dict[str, Callable[[], AbstractAsyncContextManager[Engine]]] = {
    "replay": replay,
    "http": partial(http, stream=True),
    "http-whole": partial(http, stream=False),
    "local": local,
    "stock": stock,
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.local if name in {"local", "stock"} else ())
        for name in ENGINES
    ]
    + [pytest.param("vllm", marks=[pytest.mark.e2e, pytest.mark.timeout(900)])]
)
def opened(
    request: pytest.FixtureRequest, anyio_backend_name: str
) -> Callable[[], AbstractAsyncContextManager[Engine]]:
    if request.param.startswith(("http", "vllm")) and anyio_backend_name != "asyncio":
        pytest.skip("aiohttp runs on asyncio only")
    if request.param == "vllm":
        return partial(vllm, request.getfixturevalue("vllm"))
    return ENGINES[request.param]


async def test_a_generation_holds_together(opened):
    async with opened() as engine:
        answer = await engine.generate(SHORT)
    assert engine.name
    assert answer.engine == engine.name
    assert answer.text
    assert answer.token_count >= 1
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens >= answer.token_count


async def test_evidence_covers_the_answer_token_by_token(opened):
    async with opened() as engine:
        answer = await engine.generate(SHORT)
    evidence = answer.evidence
    assert evidence.logp_topk.shape == (answer.token_count, 8)
    assert evidence.logp_chosen.shape == (answer.token_count,)
    assert np.isfinite(evidence.logp_topk).all()
    assert (np.diff(evidence.logp_topk, axis=1) <= 0).all()
    assert (np.exp(evidence.logp_topk.astype(np.float64)).sum(axis=1) <= 1 + 1e-5).all()
    np.testing.assert_allclose(evidence.logp_chosen, evidence.logp_topk[:, 0], atol=1e-3)
    assert {len(row) for row in evidence.candidates} <= {8}
    assert len(evidence.candidates) in {0, answer.token_count}


async def test_no_evidence_unless_asked_for(opened):
    async with opened() as engine:
        answer = await engine.generate(replace(SHORT, top_logprobs=0))
    assert answer.evidence is None


async def test_the_token_limit_is_kept_and_named(opened):
    async with opened() as engine:
        one = await engine.generate(replace(SHORT, max_tokens=1))
        six = await engine.generate(replace(SHORT, max_tokens=6))
    assert (one.token_count, one.finish) == (1, "length")
    assert (six.token_count, six.finish) == (6, "length")
    assert six.text.startswith(one.text)


async def test_a_stop_string_ends_the_text_and_stays_in_it(opened):
    async with opened() as engine:
        whole = (await engine.generate(SHORT)).text
        stop = next(c for c in whole[1:] if c.isascii() and c.isalnum())
        answer = await engine.generate(replace(SHORT, stop=("\x00", stop)))
    assert (answer.finish, answer.stop_string) == ("stop", stop)
    assert answer.text == whole[: whole.index(stop) + 1]
    assert answer.token_count == len(answer.evidence.logp_topk) <= 12


async def test_pictures_are_counted(opened):
    async with opened() as engine:
        counted = [(await engine.generate(ask("?", images=n))).usage.images for n in range(3)]
    assert counted == [0, 1, 2]


async def test_the_same_request_is_answered_alike(opened):
    async with opened() as engine:
        one, two = await engine.generate(SHORT), await engine.generate(SHORT)
    assert (one.text, one.finish, one.token_count) == (two.text, two.finish, two.token_count)
    # What was read before may be kept, and rounds otherwise in its last digits.
    assert replace(one.usage, cached_tokens=0) == replace(two.usage, cached_tokens=0)
    np.testing.assert_allclose(one.evidence.logp_topk, two.evidence.logp_topk, atol=1e-4)


async def test_many_at_once_each_get_their_own_answer(opened):
    requests = [ask(f"Question {'x' * n}?", tokens=3 + n) for n in range(9)]
    async with opened() as engine:
        alone = [(await engine.generate(request)).text for request in requests]
        together: dict[int, Generation] = {}

        async def one(number: int) -> None:
            together[number] = await engine.generate(requests[number])

        async with anyio.create_task_group() as tasks:
            for number in range(len(requests)):
                tasks.start_soon(one, number)
    assert [together[n].text for n in range(len(requests))] == alone


async def test_cancellation_is_prompt_and_harms_nobody(opened):
    async with opened() as engine:
        want = (await engine.generate(SHORT)).text
        got: list[str] = []

        async def one() -> None:
            got.append((await engine.generate(SHORT)).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            with anyio.fail_after(5), anyio.move_on_after(0.01) as scope:
                await engine.generate(ENDLESS)
        assert scope.cancelled_caught
        assert [*got, (await engine.generate(SHORT)).text] == [want, want]


async def test_what_a_cancelled_call_had_cost_is_noted(opened):
    async with opened() as engine:
        await engine.generate(SHORT)
        with metering() as meter:
            with anyio.move_on_after(0.1) as scope, one_call():
                await engine.generate(ENDLESS)
            if not scope.cancelled_caught:  # a quick engine: sooner, then
                with anyio.move_on_after(0.01) as scope, one_call():
                    await engine.generate(ENDLESS)
        assert scope.cancelled_caught
        assert (meter.notes, meter.is_whole) == (1, True)
        assert 0 <= meter.lost.completion_tokens < ENDLESS.max_tokens


async def test_a_closed_engine_says_so_and_may_be_closed_again(opened):
    async with opened() as engine:
        await engine.generate(SHORT)
        await engine.aclose()
        with pytest.raises(EngineUnavailable) as caught:
            await engine.generate(SHORT)
        assert caught.value.engine == engine.name
        await engine.aclose()
