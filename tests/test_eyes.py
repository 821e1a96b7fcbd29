"""SpecEyes, the library's front: one question, many, or a stream of events, and how it is left."""

import gc
import math
import threading
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

import speceyes
from speceyes import Query, Settings, SpecEyes, open_picture
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import EngineUnavailable, NoAnswer, PictureTruncated, SpecEyesError
from speceyes.events import Answered, ToolFinished
from speceyes.funnel import Funnel
from speceyes.pictures import decode
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.types import Image
from tests.stand_in_pair import GATE, RING, SURE, UNSURE, ZOOM, ask, says, scene, small_says
from tests.stand_in_pair import pair as pair  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.anyio


async def wait_for(condition):
    with anyio.fail_after(5.0):
        while not condition():  # noqa: ASYNC110 - an engine has no event to wait for
            await anyio.sleep(0.001)


async def test_the_whole_way_with_real_pixels_prompts_and_wire_format():
    small, large = small_says(UNSURE), says(ZOOM, RING)
    protocol = DeepEyes(min_px=112 * 112, max_px=112 * 112)
    async with SpecEyes(small=small, large=large, protocol=protocol, gate=GATE) as eyes:
        answer = await eyes.answer(ask())
    assert (answer.text, answer.route, answer.depth) == ("ring", "agentic", 1)
    (zoomed,) = [e.observation for e in answer.trace if isinstance(e, ToolFinished)]
    assert zoomed.boxes_px[0].size == (224, 224)  # half the view is half the original
    crop = decode(zoomed.pictures[0])
    assert (crop.size, crop.getcolors()) == ((112, 112), [(112 * 112, (255, 0, 0))])
    images = [
        [
            part.picture.size
            for m in call.request.messages
            for part in m.parts
            if type(part) is Image
        ]
        for call in large.calls
    ]
    assert images == [[(112, 112)], [(112, 112)], [(112, 112), (112, 112)]]


async def test_without_arguments_the_built_in_pair_answers(pair):
    async with SpecEyes() as eyes:
        answer = await eyes.answer(ask())
        assert [engine.is_closed for engine in pair.opened] == [False, False]
    small, large = pair.opened
    assert answer.text == "ring"
    assert answer.verdict.spec is GATE
    assert large.calls[0].request.top_logprobs == 7
    assert small.calls[0].request.messages[0].parts[0].picture.size == (112, 112)
    assert [engine.is_closed for engine in pair.opened] == [True, True]


async def test_engines_that_are_given_are_shared_and_stay_open():
    small, large = small_says(SURE), says(RING)
    async with (
        SpecEyes(small=small, large=large, gate=GATE) as eyes,
        SpecEyes(small=small, large=large, policy="agent_only") as baseline,
    ):
        assert (await eyes.answer(ask())).text == "disc"
        alone = await baseline.answer(ask())
        assert (alone.text, alone.reason) == ("ring", "agent_only")
    assert not small.is_closed
    assert not large.is_closed


async def test_other_funnels_can_share_its_parts(pair):
    async with SpecEyes() as eyes:
        parts, rules = eyes.funnel.parts, eyes.funnel.rules
        open_gate = replace(rules.gate, threshold=-math.inf)
        eager = Funnel(replace(parts, screener=None), replace(rules, gate=open_gate))
        assert (await eager.answer(ask())).text == "disc"
        assert (await eyes.answer(ask())).text == "ring"
    assert len(pair.opened) == 2
    with pytest.raises(EngineUnavailable, match="async with"):
        _ = eyes.funnel


async def test_originals_are_decoded_once_and_in_a_worker_thread(pair, monkeypatch):
    threads = []

    def watched(picture):
        threads.append(threading.get_ident())
        return decode(picture)

    monkeypatch.setattr("speceyes.pictures.decode", watched)
    async with SpecEyes() as eyes:
        answer = await eyes.answer(ask())
    assert answer.depth == 1  # a view and a crop were cut
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_it_is_used_within_async_with():
    eyes = SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE)
    with pytest.raises(EngineUnavailable, match="async with"):
        await eyes.answer(ask())
    with pytest.raises(EngineUnavailable, match="async with"):
        eyes.stream(ask())
    async with eyes:
        with pytest.raises(EngineUnavailable, match="open already"):
            await eyes.__aenter__()
        assert (await eyes.answer(ask())).text == "disc"
    with pytest.raises(EngineUnavailable, match="async with"):
        eyes.answer_many([])
    async with eyes:  # once more
        assert (await eyes.answer(ask())).text == "disc"


async def test_an_error_comes_out_as_it_is():
    with pytest.raises(NoAnswer):  # not a group around it
        async with SpecEyes(
            small=small_says(UNSURE),
            large=says(*["?"] * 6),
            gate=GATE,
        ) as eyes:
            await eyes.answer(ask())


async def test_settings_reach_the_phases():
    small, large = small_says(SURE), says(RING, p_tool=0.9)
    settings = Settings(screen_by="none", max_answer_tokens=9)
    async with SpecEyes(small=small, large=large, gate=GATE, settings=settings) as eyes:
        assert (await eyes.answer(ask())).route == "speculative"
    assert small.calls[0].request.max_tokens == 9
    assert large.calls == []

    settings = Settings(screen_by="small", max_turns=1, max_tokens_per_turn=33, degrade=True)
    small = ReplayEngine([Take(scripted_screen(0.2)), UNSURE])
    large = ReplayEngine(lambda _: Take(scripted("?", separability=None)))
    async with SpecEyes(small=small, large=large, gate=GATE, settings=settings) as eyes:
        answer = await eyes.answer(ask())
    assert (answer.text, answer.route, answer.turns) == ("disc", "degraded", 1)
    assert answer.p_tool == pytest.approx(0.2, abs=1e-6)
    assert large.calls[0].request.max_tokens == 33


async def test_a_damaged_picture_is_a_named_error():
    data = scene().data
    picture = open_picture(data[: len(data) // 2])
    protocol = DeepEyes(max_px=112 * 112)  # the view is smaller, so pixels are needed at once
    async with SpecEyes(
        small=small_says(SURE), large=says(RING), protocol=protocol, gate=GATE
    ) as eyes:
        with pytest.raises(PictureTruncated):
            await eyes.answer(Query("?", (picture,)))


async def test_many_queries():
    async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
        asked = [ask(f"q{index}") for index in range(20)]
        got = [outcome async for outcome in eyes.answer_many(asked, concurrency=4)]
    assert sorted(outcome.query_id for outcome in got) == sorted(query.query_id for query in asked)
    assert {outcome.answer.text for outcome in got} == {"disc"}


async def test_a_stream_ends_in_its_answer():
    async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
        events = [event async for event in eyes.stream(ask())]
    assert isinstance(events[-1], Answered)


async def test_closing_a_stream_cancels_the_engine_call():
    small = small_says(Take(scripted("x"), math.inf))
    async with SpecEyes(small=small, large=says(RING), gate=GATE) as eyes:
        async with aclosing(eyes.stream(ask())) as stream:
            async for _ in stream:
                if small.in_flight:
                    break
        assert (small.cancelled, small.in_flight) == (1, 0)


async def test_a_stream_that_is_dropped_is_closed_by_the_garbage_collector(anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("trio warns instead, and closes it as well")
    small = small_says(Take(scripted("x"), math.inf))
    async with SpecEyes(small=small, large=says(RING), gate=GATE) as eyes:
        stream = eyes.stream(ask())
        while not small.in_flight:
            await anext(stream)
        del stream
        gc.collect()
        await wait_for(lambda: not small.in_flight)
        assert small.cancelled == 1


async def test_leaving_cancels_what_is_under_way():
    small = small_says(Take(scripted("x"), math.inf))
    errors = []

    async def listen(eyes):
        try:
            async for _ in eyes.stream(ask()):
                pass
        except SpecEyesError as error:
            errors.append(error)

    async with (
        anyio.create_task_group() as tasks,
        SpecEyes(small=small, large=says(RING), gate=GATE) as eyes,
    ):
        tasks.start_soon(listen, eyes)
        await wait_for(lambda: small.in_flight)
    assert small.cancelled == 1
    assert [type(error) for error in errors] == [EngineUnavailable]


def test_the_sync_edge_is_one_line():
    async def main():
        async with SpecEyes(small=small_says(SURE), large=says(RING), gate=GATE) as eyes:
            return await eyes.answer(ask())

    assert anyio.run(main).text == "disc"


def test_the_front_door_knows_these_names():
    assert {"SpecEyes", "Settings", "Outcome", "Query", "Answer"} <= set(dir(speceyes))
    assert speceyes.SpecEyes is SpecEyes
