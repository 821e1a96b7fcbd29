"""The replay engine: it says what it was told, when it was told to, and remembers being asked."""

import math

import anyio
import numpy as np
import pytest

from speceyes.engines.replay import (
    Recorder,
    ReplayEngine,
    Take,
    load_recordings,
    request_digest,
    scripted,
    scripted_screen,
)
from speceyes.errors import ConfigError, EngineTimeout, EngineUnavailable, InputError
from speceyes.gate import GateSpec, check_evidence, score, token_separability
from speceyes.screen import p_needs_tool
from speceyes.types import (
    Evidence,
    GenerateRequest,
    Generation,
    Image,
    Message,
    Picture,
    Text,
    Usage,
)

pytestmark = [pytest.mark.anyio]
virtual = pytest.mark.virtual_time

PICTURE = Picture(b"one", "image/png", 8, 8)


def request(text="?", *, picture=PICTURE, role="user", **more):
    parts = (Image(picture), Text(text))
    return GenerateRequest((Message(role, parts),), **({"max_tokens": 5} | more))


def takes(*texts, latency_s=0.0):
    return [Take(scripted(text), latency_s) for text in texts]


async def test_a_list_is_said_in_order_and_then_nothing():
    engine = ReplayEngine(takes("one", "two"))
    assert [(await engine.generate(request())).text for _ in range(2)] == ["one", "two"]
    with pytest.raises(EngineUnavailable, match="script has ended"):
        await engine.generate(request())
    assert [call.outcome for call in engine.calls] == ["finished", "finished", "failed"]


async def test_a_callable_sees_the_request():
    engine = ReplayEngine(lambda asked: Take(scripted(asked.messages[0].parts[1].text)))
    assert (await engine.generate(request("echo"))).text == "echo"
    assert engine.calls[0].request == request("echo")


async def test_recordings_are_found_by_digest_and_the_last_one_stays():
    engine = ReplayEngine({request_digest(request("a")): takes("first", "second")})
    texts = [(await engine.generate(request("a"))).text for _ in range(3)]
    assert texts == ["first", "second", "second"]
    with pytest.raises(EngineUnavailable, match="not recorded"):
        await engine.generate(request("b"))


async def test_a_scripted_error_is_raised():
    late = EngineTimeout("replay", "late")
    engine = ReplayEngine([Take(late)])
    with pytest.raises(EngineTimeout) as caught:
        await engine.generate(request())
    assert caught.value is late
    assert engine.in_flight == 0


async def test_after_closing_it_refuses():
    engine = ReplayEngine(takes("x"))
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await engine.generate(request())


@virtual
async def test_latencies_pass_on_the_clock():
    engine = ReplayEngine(takes("x", latency_s=3600.0))
    started_s = anyio.current_time()
    await engine.generate(request())
    assert anyio.current_time() - started_s == pytest.approx(3600.0)
    assert engine.calls[0].ended_s - engine.calls[0].started_s == pytest.approx(3600.0)


async def test_a_cancelled_call_is_seen():
    engine = ReplayEngine([Take(scripted("x"), math.inf)])
    with anyio.move_on_after(0.01):
        await engine.generate(request())
    assert (engine.cancelled, engine.in_flight, engine.max_in_flight) == (1, 0, 1)
    assert engine.calls[0].ended_s is not None


@virtual
@pytest.mark.parametrize(("max_batch", "took_s"), [(None, 2.0), (6, 2.0), (3, 4.0), (1, 12.0)])
async def test_a_batch_limit_makes_the_others_wait(max_batch, took_s):
    engine = ReplayEngine(takes(*"abcdef", latency_s=2.0), max_batch=max_batch)
    started_s = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(engine.generate, request())
    assert anyio.current_time() - started_s == pytest.approx(took_s)
    assert engine.max_in_flight == 6


def test_a_batch_of_none_is_refused():
    with pytest.raises(ConfigError, match="max_batch"):
        ReplayEngine([], max_batch=0)


def test_a_digest_is_the_same_for_the_same_content():
    twin = Picture(b"one", "image/png", 8, 8)
    assert request_digest(request()) == request_digest(request(picture=twin))


def test_a_digest_tells_all_parts_apart():
    others = [
        request(),
        request("!"),
        request(picture=Picture(b"two", "image/png", 8, 8)),
        request(role="assistant"),
        request(max_tokens=6),
        request(stop=("x",)),
        request(top_logprobs=1),
        request(continue_final_message=True),
        GenerateRequest((*request().messages, Message("user", ())), 5),
    ]
    assert len({request_digest(other) for other in others}) == len(others)


def hostile():
    """Evidence that no JSON number can hold."""
    rows = np.array([[0.1, -math.inf, math.nan], [-1e-45, -9999.0, -3.3333333]], dtype=np.float32)
    evidence = Evidence(rows, rows[:, 0], (("a", '"', "\n"), ("é", "视", "")))
    return Generation("a\nb", "length", "</x>", 2, evidence, Usage(1, None, 2, 3), "odd")


@virtual
async def test_what_is_recorded_is_replayed(tmp_path):
    path = tmp_path / "calls.jsonl"
    said = [Take(hostile(), 1.5), Take(scripted("b", separability=None), 2.5)]
    recorder = Recorder(ReplayEngine(said, name="inner"), path)
    assert recorder.name == "inner"
    heard = [await recorder.generate(request(text)) for text in "ab"]
    assert heard == [take.result for take in said]

    replay = ReplayEngine(load_recordings(path))
    started_s = anyio.current_time()
    again = [await replay.generate(request(text)) for text in "ab"]
    assert again == heard
    assert anyio.current_time() - started_s == pytest.approx(4.0)
    assert again[0].evidence.logp_topk.tobytes() == hostile().evidence.logp_topk.tobytes()
    assert again[0].evidence.candidates == hostile().evidence.candidates


async def test_a_recording_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "calls.jsonl"
    for text in ("one", "two"):
        await Recorder(ReplayEngine(takes(text)), path).generate(request())
    (kept,) = load_recordings(path).values()
    assert [take.result.text for take in kept] == ["one", "two"]


async def test_failures_pass_through_the_recorder(tmp_path):
    path = tmp_path / "calls.jsonl"
    engine = ReplayEngine([Take(EngineTimeout("e", "late")), *takes("x")])
    recorder = Recorder(engine, path)
    with pytest.raises(EngineTimeout):
        await recorder.generate(request())
    assert not path.exists()
    await recorder.aclose()
    assert engine.is_closed


@pytest.mark.parametrize("bad", ["{", "[]", "{}", '{"digest": "d", "evidence": {}}'])
async def test_a_line_that_is_no_recording_is_named(tmp_path, bad):
    path = tmp_path / "calls.jsonl"
    await Recorder(ReplayEngine(takes("x")), path).generate(request())
    path.write_text(path.read_text() + bad + "\n")
    with pytest.raises(InputError, match=r"line 2 of .*calls.jsonl is not a recording"):
        load_recordings(path)


@pytest.mark.parametrize("k", [3, 8, 16, 64, 128])
@pytest.mark.parametrize("separability", [1.0, 4.0, 8.0, 12.0])
def test_scripted_evidence_has_the_separability_asked_for(separability, k):
    generation = scripted("a red disc", separability=separability, k=k)
    rows = generation.evidence.logp_topk
    assert token_separability(rows) == pytest.approx([separability] * 3, rel=1e-4)
    assert np.exp(rows.astype(np.float64)).sum(axis=1) == pytest.approx([1.0] * 3, rel=1e-5)
    spec = GateSpec(threshold=0.0, k=k)
    assert check_evidence(generation, spec) is None
    assert score(generation.evidence, spec) == pytest.approx(separability, rel=1e-4)


@pytest.mark.parametrize(("separability", "k"), [(0.9, 3), (0.1, 64), (5.0, 2)])
def test_a_separability_that_no_row_has_is_refused(separability, k):
    with pytest.raises(ConfigError, match="separability"):
        scripted("x", separability=separability, k=k)


def test_scripted_says_what_it_is_told():
    generation = scripted("a b", separability=None, finish="length", usage=Usage(1, 1, 1, 1))
    assert (generation.text, generation.finish, generation.token_count) == ("a b", "length", 2)
    assert (generation.evidence, generation.usage) == (None, Usage(1, 1, 1, 1))
    assert scripted("ring", token_count=3).evidence.logp_topk.shape == (3, 64)


@pytest.mark.parametrize("p_tool", [0.0, 0.25, 0.5, 0.999, 1.0])
def test_a_scripted_screen_has_the_probability_asked_for(p_tool):
    generation = scripted_screen(p_tool)
    assert p_needs_tool(generation.evidence, min_mass=0.01) == pytest.approx(p_tool, abs=1e-6)
    assert generation.evidence.logp_topk.shape == (1, 20)
    assert (np.diff(generation.evidence.logp_topk) <= 0).all()


def test_a_scripted_screen_in_doubt_names_neither_word():
    assert p_needs_tool(scripted_screen(None).evidence) is None
