"""What a server refuses or leaves out, the HTTP engine learns: it is asked in another way, once."""

import json
from dataclasses import replace

import pytest

from speceyes.engines.wire.terms import Learnt
from tests.http_asked import ZOOM, Asked, ask, generate, words
from tests.stub_server import Raw, refusal, say, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_server_that_cannot_read_calls_is_asked_for_the_raw_text():
    def script(body):
        if body.get("tool_choice") == "auto":
            return refusal(400, '"auto" tool choice requires --enable-auto-tool-choice')
        return say(body, ["Look."])

    async with serving(script) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(ask(tools=(ZOOM,)))
    assert [body["tool_choice"] for body in server.bodies] == ["auto", "none", "none"]
    assert all(body["tools"] for body in server.bodies)


# Screening: the choices are imposed only where there are no log-probabilities.


def blind(body):
    return replace(say(body, ["no"]), entries=())


SCREEN = ask(tokens=1, top_logprobs=5, choices=("yes", "no"))


async def test_choices_are_not_imposed_on_a_server_with_evidence():
    async with serving(words) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(SCREEN)
    assert all("structured_outputs" not in body for body in server.bodies)


async def test_choices_are_imposed_once_a_reply_had_no_evidence():
    async with serving(blind) as server, Asked(server) as engine:
        got = [await engine.generate(SCREEN) for _ in range(2)]
        await engine.generate(replace(SCREEN, choices=()))
        server.script = words
        for _ in range(2):
            await engine.generate(SCREEN)
    imposed = [body.get("structured_outputs") for body in server.bodies]
    assert [one.evidence for one in got] == [None, None]
    assert imposed == [None, {"choice": ["yes", "no"]}, None, {"choice": ["yes", "no"]}, None]


async def test_a_server_that_refuses_log_probabilities_is_held_to_the_choices():
    def script(body):
        if "logprobs" in body:
            return refusal(400, "unknown field", param="top_logprobs")
        if "structured_outputs" in body and server.refuses_choice:
            return refusal(422, "extra inputs are not permitted")
        return say(body, ["no"])

    async with serving(script) as server, Asked(server) as engine:
        server.refuses_choice = False
        first = await engine.generate(SCREEN)
        assert "structured_outputs" in server.bodies[1]
        await engine.generate(SCREEN)
        assert len(server.bodies) == 3  # learnt: asked once
        server.refuses_choice = True
        assert (await engine.generate(SCREEN)).text == first.text == "no"
        await engine.generate(SCREEN)
    kinds = [("logprobs" in body, "structured_outputs" in body) for body in server.bodies]
    assert kinds == [(True, False), *[(False, True)] * 3, *[(False, False)] * 2]


async def test_a_server_with_a_cap_gives_the_least_that_is_content():
    def script(body):
        if body.get("top_logprobs", 0) > 20:
            return refusal(400, "Requested sample logprobs of 64, greater than max allowed: 20")
        return say(body, ["a"])

    many = ask(top_logprobs=64)
    async with serving(script) as server, Asked(server, least_top_logprobs=20) as engine:
        got = [await engine.generate(many) for _ in range(2)]
        small = await engine.generate(ask(top_logprobs=12))
    assert [body["top_logprobs"] for body in server.bodies] == [64, 20, 20, 12]
    assert [len(one.evidence.logp_topk[0]) for one in (*got, small)] == [20, 20, 12]
    got, _ = await generate(script, many)
    assert got.evidence is None


async def test_a_cap_told_within_a_stream_is_a_cap_all_the_same():
    told = {"error": {"message": "Requested sample logprobs of 96, max allowed: 64", "code": 400}}

    def script(body):
        if body["top_logprobs"] > 64:
            line = f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n"
            return Raw(content_type="text/event-stream", pieces=(line.encode(),))
        return say(body, ["a"])

    async with serving(script) as server, Asked(server, least_top_logprobs=12) as engine:
        got = await engine.generate(ask(top_logprobs=96))
    assert [body["top_logprobs"] for body in server.bodies] == [96, 12]
    assert len(got.evidence.logp_topk[0]) == 12


async def test_a_server_without_the_penalty_setting_is_asked_without():
    def script(body):
        return (
            refusal(400, "Unrecognized argument") if "repetition_penalty" in body else words(body)
        )

    async with serving(script) as server, Asked(server) as engine:
        for _ in range(2):
            await engine.generate(ask())
    assert ["repetition_penalty" in body for body in server.bodies] == [True, False, False]


async def test_nothing_is_learnt_from_what_stays_refused():
    async with serving(lambda b: refusal(400, "bad request")) as server, Asked(server) as engine:
        with pytest.raises(Exception, match="bad request"):
            await engine.generate(replace(SCREEN, tools=(ZOOM,)))
        assert engine._learnt == Learnt()
