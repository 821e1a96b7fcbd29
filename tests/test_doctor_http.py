"""The doctor over HTTP: what a server refuses, drops or lacks is found through the real engine."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from speceyes import SpecEyes
from speceyes.doctor.visit import Visit
from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.gate import GateSpec
from speceyes.protocols.deepeyes import DeepEyes
from tests.stub_server import altered, image_urls, last_text, refusal, say, serving

pytestmark = pytest.mark.anyio

GATE = GateSpec(threshold=2.0, k=64)
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 60, 90]}}'


@pytest.fixture
def anyio_backend() -> str:
    """aiohttp runs on asyncio only."""
    return "asyncio"


def healthy(body):
    """Answer each kind of request as a vision-language model would."""
    pictures = len(image_urls(body))
    first, last = body["messages"][0], last_text(body)
    unlike = str(sum(map(len, image_urls(body))))  # another picture, another answer
    if first["role"] == "system":
        tokens = [CALL, "</tool_call>"]
    elif body["max_tokens"] == 1:
        tokens = ["no"]
    else:
        tokens = [f"a{unlike}", " picture", " of", " some", " things"]
    words = len(str(first["content"]).split()) if first["role"] == "system" else 30
    begun = 1 if body.get("continue_final_message") and len(last) == 1 else 0
    said = say(body, tokens, prompt_tokens=words + 16 * pictures + begun)
    return altered(said, unlike_rows)


def unlike_rows(entries):
    for place, entry in enumerate(entries):
        for candidate in entry["top_logprobs"][1:]:
            candidate["logprob"] -= 0.1 * place
    return entries


def blind(body):
    return say(body, ["a", " picture"], prompt_tokens=50)


def stingy(body):
    if body.get("top_logprobs", 0) > 20:
        return refusal(400, "Requested top_logprobs of 64, which is greater than max allowed: 20")
    return healthy(body)


def mute(body):
    return healthy(body | {"top_logprobs": 0})


def closed(body):
    return refusal(401, "Unauthorized")


async def visited(small, large=healthy, *, down=False):
    async with AsyncExitStack() as stack:
        models = ({"id": "stub", "max_model_len": 8192},)
        servers = [
            await stack.enter_async_context(serving(script, models=models))
            for script in (small, large)
        ]
        engines = [
            HttpEngine(server.url, model="stub", settings=HttpSettings(max_attempts=1))
            for server in servers
        ]
        if down:
            await servers[0].stop()
        eyes = SpecEyes(small=engines[0], large=engines[1], gate=GATE, protocol=DeepEyes())
        async with eyes:
            funnel = eyes.funnel
            report = await Visit(parts=funnel.parts, rules=funnel.rules).run()
        for engine in engines:
            await engine.aclose()
    return report, {(f.role, f.subject): f for f in report.findings}


async def test_two_healthy_servers():
    report, found = await visited(healthy)
    assert [(f.role, f.subject, f.told) for f in report.findings if f.status != "ok"] == []
    assert found["small", "model"].figures == {"served": "stub", "context_tokens": 8192}
    assert found["small", "top log-probabilities"].figures["arrived"] == 64
    assert found["large", "prefix cache"].figures["cached_tokens"] == 32


async def test_a_server_that_drops_pictures():
    report, found = await visited(blind)
    assert not report.can_run
    assert found["small", "image"].status == "failure"


async def test_a_server_that_gives_fewer_log_probabilities_than_asked_for():
    report, found = await visited(stingy)
    assert not report.can_run
    finding = found["small", "top log-probabilities"]
    assert (finding.status, finding.figures["arrived"]) == ("failure", 20)
    assert "K of at most 20" in finding.mend


async def test_a_small_server_without_log_probabilities():
    report, found = await visited(mute)
    assert not report.can_run
    assert found["small", "top log-probabilities"].status == "failure"
    assert found["small", "top log-probabilities"].figures["arrived"] == 0


async def test_a_large_server_without_log_probabilities_can_still_say_yes_or_no():
    report, found = await visited(healthy, mute)
    assert report.can_run
    assert found["large", "top log-probabilities"].status == "warning"
    assert (found["large", "screen"].status, found["large", "screen"].figures["p_tool"]) == (
        "warning",
        0.0,
    )


async def test_a_server_that_refuses_the_key():
    report, found = await visited(closed)
    assert not report.can_run
    assert found["small", "reach"].status == "failure"
    assert [f.subject for f in report.findings if f.role == "small"] == ["reach"]


async def test_a_server_that_is_not_there():
    report, found = await visited(healthy, down=True)
    assert not report.can_run
    assert found["small", "reach"].status == "failure"
    assert found["large", "reach"].status == "ok"
