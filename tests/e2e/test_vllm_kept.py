"""A picture that is named is the one that was sent, to a real vLLM; what it lost is sent anew."""

from __future__ import annotations

import numpy as np
import pytest

from speceyes.builtin.suite import draw_items
from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.types import GenerateRequest, Image, Message, Text
from tests.e2e.vllm_server import Pair

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.local, pytest.mark.timeout(900)]

TOLERANCE = 1e-3  # nats: other batches round otherwise
PICTURES = [item.query.pictures[0] for item in draw_items(3, seed=20261129)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def about(*pictures) -> GenerateRequest:
    message = Message("user", (*(Image(one) for one in pictures), Text("What is it?")))
    return GenerateRequest((message,), 6, top_logprobs=8)


async def test_a_name_stands_for_its_picture(vllm: Pair):
    red, blue, green = PICTURES
    asked = [about(red), about(red, blue), about(blue, red), about(green, red), about(red, blue)]
    engines = {
        way: HttpEngine(
            vllm.large.base_url, model=vllm.large.name, settings=HttpSettings(image_reuse=way)
        )
        for way in ("never", "auto")
    }
    said = {way: [] for way in engines}
    for way, engine in engines.items():
        vllm.large.forget()
        for place, request in enumerate(asked):
            if place == 4:  # behind the engine's back
                vllm.large.forget()
            said[way].append(await engine.generate(request))
    kept = engines["auto"]._kept
    assert (kept._found, kept._missed) == (4, 2)
    for sent, named in zip(said["never"], said["auto"], strict=True):
        assert named.text == sent.text
        assert named.usage.prompt_tokens == sent.usage.prompt_tokens
        gap = np.abs(named.evidence.logp_topk - sent.evidence.logp_topk)
        assert gap.max() < TOLERANCE
    for engine in engines.values():
        await engine.aclose()
