"""The benchmarks of the local engine run, at the least size, and tell what they claim to."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks import batching, gate_cost, gpu_real_size, prefix
from benchmarks.forced import QWEN2_5_VL_7B, QWEN3_VL_2B, ForcedEngine, random_model, tiny
from benchmarks.heavier import heavier, heavier_pair, weights_of
from speceyes.agent import request_for
from speceyes.builtin.pair import MODELS
from speceyes.builtin.suite import draw_items
from speceyes.engines.local import LocalEngine
from speceyes.engines.worker import LocalLimits
from speceyes.gate import GateSpec, judge

pytestmark = [pytest.mark.local]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_query_of_the_agents_reads_each_token_once():
    told = await prefix.turns(MODELS / "large", list(draw_items(2, seed=3)), 1)
    assert told["same_answers"] == 2
    assert told["tokens"]["kept"]["turns"] > 2
    assert told["read_per_new_token"]["kept"] <= 1.02
    assert told["read_per_new_token"]["not_kept"] > 1.5


@pytest.mark.anyio
async def test_phase_one_in_the_agents_words_leaves_it_next_to_nothing_to_read():
    large = LocalEngine.load(MODELS / "large", name="large", threads=1)
    asked = [prefix.ask_of(item) for item in draw_items(1, seed=3)]
    told = await prefix.phase_one(large, large.forget, asked, repeats=1)
    await large.aclose()
    (alone,) = told["last_usage"]["alone"]
    screen, after = told["last_usage"]["shared"]
    extra = screen["prompt_tokens"] + after["prompt_tokens"] - after["cached_tokens"]
    assert extra <= 1.15 * alone["prompt_tokens"]
    assert told["last_usage"]["paper"][1]["cached_tokens"] < 10
    again = told["last_usage"]["repeated"][1]
    assert again["cached_tokens"] == again["prompt_tokens"] - 1


@pytest.mark.anyio
async def test_what_the_gate_costs_is_told_of_each_shape_and_number_of_candidates():
    told = await gate_cost.measure(list(draw_items(1, seed=3)), 1)
    shapes = [(one["tokens"], one["k"]) for one in told["judged"]]
    assert shapes == list(product(gate_cost.TOKENS, gate_cost.CANDIDATES))
    assert set(told["had"]["share_more"]) == set(gate_cost.CANDIDATES)
    shortest_ms = told["judged"][0]["median_us"] / 1e3
    share = shortest_ms / told["had"]["answer_ms"]
    assert told["judged_share_of_answer"] == pytest.approx(share, abs=1e-5)


def test_what_the_gate_is_timed_on_is_scored():
    answer = gate_cost.an_answer(16, 12, np.random.default_rng(1))
    verdict = judge(answer, GateSpec(threshold=0.0, k=12))
    assert (verdict.reason, answer.token_count) == ("accepted", 16)


@pytest.mark.slow
@pytest.mark.anyio
async def test_batched_and_one_by_one_all_is_answered_alike():
    run, tallies = await batching.compare(
        list(draw_items(3, seed=3)), [3], repeats=1, policy="agent_only"
    )
    assert run["same_answers"]
    assert run["items"] == 3
    assert tallies["batched_tallies"][1]["widest_step"] > 1


def test_real_sizes_are_those_of_the_releases():
    counted = {}
    for shape in (QWEN2_5_VL_7B, QWEN3_VL_2B):
        model = random_model(shape, device="meta", dtype=torch.bfloat16)
        counted[shape.make] = sum(p.numel() for p in model.parameters()) / 1e9
    assert counted == pytest.approx({"qwen2_5_vl": 8.29, "qwen3_vl": 2.13}, abs=0.02)


@pytest.mark.anyio
async def test_a_forced_engine_says_what_it_is_told_and_spends_what_it_costs():
    engine = ForcedEngine(
        tiny(QWEN2_5_VL_7B), gpu_real_size.script, name="forced", device="cpu", limits=LocalLimits()
    )
    query = gpu_real_size.Plan(image_tokens=64, depth=1).query()
    opening = gpu_real_size.DeepEyes().opening(query, ())
    said = await engine.generate(request_for(opening, 512))
    again = await engine.generate(request_for(opening, 512))
    await engine.aclose()
    assert "<tool_call>" in said.text
    assert said.usage.completion_tokens == -(-len(said.text) // 4)
    assert engine.tally.drawn_tokens == 2 * said.usage.completion_tokens
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


@pytest.mark.slow
def test_every_policy_is_priced_at_a_tiny_size(capsys):
    words = "--size tiny --device cpu --image-tokens 64 --depths 0 1 --queries 3 --repeats 1"
    gpu_real_size.main([*words.split(), "--concurrency", "3"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["weights"], told["answers"]) == ("random", "forced")
    assert len(told["policies"]) == 2
    assert set(told["policies"][0]["speedup"]) == {
        "agent_only",
        *(f"{p}_{s}" for p in gpu_real_size.POLICIES for s in ("paper", "shared")),
    }
    tokens = told["costs"][0]["tokens"]["depth_1"]
    assert tokens["read"] < tokens["prompt"]


def test_heavier_models_are_as_heavy_as_asked_for():
    with heavier_pair(large=3) as models:
        added = weights_of(models / "large") - weights_of(MODELS / "large")
        assert weights_of(models / "small") == weights_of(MODELS / "small")
    text, sight = 8 * 3 * 160, 5 * (3 * 160 + 2)  # weights of a unit: layers, matrices, hidden size
    assert added == 2 * 432 * (text + sight)


def test_a_model_is_not_made_lighter(tmp_path):
    with pytest.raises(ValueError, match="0 is below 1"):
        heavier(MODELS / "small", tmp_path / "none", 0)


@pytest.mark.anyio
@pytest.mark.parametrize("role", ["small", "large"])
async def test_a_heavier_model_says_what_the_model_says(role):
    with heavier_pair(small=3, large=3) as models:
        said = {}
        for folder in (MODELS / role, models / role):
            engine = LocalEngine.load(folder, name=role, threads=1)
            asked = [prefix.ask_of(item).opening for item in draw_items(2, seed=5)]
            said[folder] = [
                await engine.generate(request_for(one, 48, top_logprobs=8)) for one in asked
            ]
            await engine.aclose()
    plain, heavy = said.values()
    for one, other in zip(plain, heavy, strict=True):
        assert one.text == other.text
        assert one.token_count > 0
        assert np.allclose(other.evidence.logp_topk, one.evidence.logp_topk, atol=1e-3)
