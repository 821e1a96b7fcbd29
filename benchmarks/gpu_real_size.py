"""What do the phases cost at real sizes, and what does each policy make of them?

The pair has the shapes of Qwen2.5-VL-7B and Qwen3-VL-2B. WEIGHTS ARE RANDOM AND ANSWERS FORCED: the
times are those of the real architectures, of real prompts, pictures and caches, and say nothing of
what such models answer. Scripts: pictures of 1 to 16 thousand tokens, 0 to 5 calls of the zoom
tool. Prints one JSON document, last.

    python benchmarks/gpu_real_size.py                        # on a GPU
    python benchmarks/gpu_real_size.py --size tiny --device cpu --image-tokens 64 256
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import Any

import anyio
import torch
from PIL import Image as Pillow

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.forced import QWEN2_5_VL_7B, QWEN3_VL_2B, ForcedEngine, tiny  # noqa: E402
from speceyes import SpecEyes, prompts  # noqa: E402
from speceyes.agent import request_for  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.config import Settings  # noqa: E402
from speceyes.engines.replay import scripted, scripted_screen  # noqa: E402
from speceyes.engines.worker import LocalLimits  # noqa: E402
from speceyes.events import Answer, TurnFinished  # noqa: E402
from speceyes.gate import GateSpec  # noqa: E402
from speceyes.pictures import encode_png  # noqa: E402
from speceyes.protocols.deepeyes import DeepEyes  # noqa: E402
from speceyes.screen import SCREEN_WORDS  # noqa: E402
from speceyes.types import Box, GenerateRequest, Generation, Query, View  # noqa: E402

FACTOR_PX = 28
CROP_SHARE = 0.25  # of each side
THOUGHT = "I look for the thing that was asked for, where it most likely is. " * 5  # 80 tokens
GATE = GateSpec(threshold=4.0, k=64)
POLICIES = ("serial", "overlap", "race", "adaptive")
GIB = 1024**3
ON_GPU = {
    "large": LocalLimits(
        cache_bytes=24 * GIB, prefix_bytes=6 * GIB, picture_bytes=4 * GIB, prefill_tokens=16384
    ),
    "small": LocalLimits(
        cache_bytes=10 * GIB, prefix_bytes=4 * GIB, picture_bytes=4 * GIB, prefill_tokens=16384
    ),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one query is to go through."""

    image_tokens: int
    depth: int = 0  # tools called by the agent
    needs_tool: bool = False  # what the screen says
    is_sure: bool = True  # what the gate reads
    number: int = field(default_factory=count().__next__)

    @property
    def side_px(self) -> int:
        """The side of its picture."""
        return FACTOR_PX * round(self.image_tokens**0.5)

    def query(self) -> Query:
        """Make the query; no two have the same picture."""
        tint = (self.number % 256, self.number // 256 % 256, self.side_px % 256)
        picture = encode_png(Pillow.new("RGB", (self.side_px, self.side_px), tint))
        words = f"[{self.depth}{'t' if self.needs_tool else '-'}{'s' if self.is_sure else '-'}"
        asked = f"{words} {self.side_px}] What colour is the small thing beside the large one?"
        return Query(asked, (picture,), ("red", "blue", "green", "white"))


def script(request: GenerateRequest) -> Generation:
    """Say what the question's plan says; which phase asks is told from the request."""
    words = "".join(
        part.text for m in request.messages for part in m.parts if hasattr(part, "text")
    )
    depth, needs_tool, is_sure, side = read_plan(words)
    if request.choices == SCREEN_WORDS:
        return scripted_screen(0.9 if needs_tool else 0.1, k=max(4, request.top_logprobs))
    if request.top_logprobs:
        return scripted("the blue one", separability=9.0 if is_sure else 1.0)
    turn = sum(message.role == "assistant" for message in request.messages)
    if turn >= depth:
        return scripted(f"<think>{THOUGHT}</think>\n<answer>blue</answer>", separability=None)
    corner = round(side * (0.1 + 0.12 * turn))
    box = [corner, corner, corner + round(CROP_SHARE * side), corner + round(CROP_SHARE * side)]
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}}
    text = f"<think>{THOUGHT}</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return scripted(text, separability=None)


def read_plan(words: str) -> tuple[int, bool, bool, int]:
    """Read back what `Plan.query` wrote: depth, whether a tool is needed, sureness, side."""
    start = words.rindex("[", 0, words.index("] What")) + 1
    marks, side = words[start : words.index("] What")].split()
    return int(marks[0]), marks[1] == "t", marks[2] == "s", int(side)


@dataclass(frozen=True)
class Bench:
    """Both engines, and how queries are put to them."""

    small: ForcedEngine
    large: ForcedEngine

    @asynccontextmanager
    async def eyes(self, image_tokens: int, policy: str, **more: Any) -> AsyncGenerator[SpecEyes]:
        """Open a funnel that sees pictures at so many tokens."""
        settings = Settings(fall_back_timeout_s=3000.0, screen_timeout_s=600.0, **more)
        area = (FACTOR_PX * round(image_tokens**0.5)) ** 2
        protocol = DeepEyes(min_px=4 * FACTOR_PX**2, max_px=area)
        async with SpecEyes(
            small=self.small,
            large=self.large,
            protocol=protocol,
            gate=GATE,
            policy=policy,
            settings=replace(settings, speculate_timeout_s=600.0),
        ) as eyes:
            yield eyes

    def forget(self) -> None:
        """Begin anew."""
        self.small.forget()
        self.large.forget()

    async def answer(self, plan: Plan, policy: str, **more: Any) -> Answer:
        """Answer one query with nothing kept before it."""
        self.forget()
        async with self.eyes(plan.image_tokens, policy, **more) as eyes:
            return await eyes.answer(plan.query())

    async def first_tokens(self, plan: Plan, screen: str | None) -> float:
        """Time the agent's first token, after a screen of this prompt or alone."""
        protocol = DeepEyes()
        query = plan.query()
        (picture,) = query.pictures
        views = (View(picture, Box(0, 0, *picture.size)),)
        opening = protocol.opening(query, views)
        asked = [opening]
        if screen is not None:
            within = screen == "shared"
            asked.insert(
                0, prompts.screen_within(opening) if within else prompts.screen(query, views)
            )
        self.forget()
        start_s = time.perf_counter()
        for conversation in asked:
            await self.large.generate(request_for(conversation, 1))
        return time.perf_counter() - start_s


async def costs(bench: Bench, image_tokens: int, *, depths: Sequence[int], repeats: int) -> Any:
    """Measure what each phase takes at one size of picture."""
    seconds: dict[str, list[float]] = defaultdict(list)
    tokens: dict[str, dict[str, int]] = {}
    for _ in range(repeats):
        plan = Plan(image_tokens=image_tokens)
        for screen in (None, "shared", "paper"):
            name = "first_token" if screen is None else f"first_token_after_{screen}"
            seconds[name].append(await bench.first_tokens(plan, screen))
        for prompt in ("shared", "paper"):
            answer = await bench.answer(
                Plan(image_tokens=image_tokens), "serial", screen_prompt=prompt
            )
            seconds[f"c_J_{prompt}"].append(answer.phase_s["screen"])
            seconds["c_S"].append(answer.phase_s["speculate"])
        for depth in depths:
            plan = Plan(image_tokens=image_tokens, depth=depth)
            answer = await bench.answer(plan, "agent_only")
            seconds[f"L_agent_depth_{depth}"].append(answer.phase_s["fall_back"])
            usages = [e.generation.usage for e in answer.trace if isinstance(e, TurnFinished)]
            tokens[f"depth_{depth}"] = {
                "prompt": sum(usage.prompt_tokens for usage in usages),
                "read": sum(usage.prompt_tokens - (usage.cached_tokens or 0) for usage in usages),
                "drawn": sum(usage.completion_tokens for usage in usages),
            }
    found = {name: median(values) for name, values in seconds.items()}
    price = {
        prompt: found[f"first_token_after_{prompt}"] / found["first_token"] - 1
        for prompt in ("shared", "paper")
    }
    return {
        "image_tokens": image_tokens,
        "repeats": repeats,
        "seconds": {name: round(value, 4) for name, value in found.items()},
        "phase_one_share_of_a_full_prefill": {k: round(v, 4) for k, v in price.items()},
        "tokens": tokens,
    }


def mixed(image_tokens: int, depths: Sequence[int], items: int) -> list[Plan]:
    """Mix: of five queries three are easy, one is screened out, one fails the gate."""
    kinds = ((False, True), (False, True), (True, True), (False, True), (False, False))
    plans = []
    for number in range(items):
        needs_tool, is_sure = kinds[number % len(kinds)]
        is_hard = needs_tool or not is_sure
        depth = depths[number % len(depths)] if is_hard else min(depths)
        plans.append(
            Plan(image_tokens=image_tokens, depth=depth, needs_tool=needs_tool, is_sure=is_sure)
        )
    return plans


def hard(image_tokens: int, depths: Sequence[int], items: int) -> list[Plan]:
    """Only queries that fall back, half of them at each phase."""
    return [
        Plan(
            image_tokens=image_tokens,
            depth=depths[number % len(depths)],
            needs_tool=number % 2 == 0,
            is_sure=False,
        )
        for number in range(items)
    ]


async def race_of(bench: Bench, plans: Sequence[Plan], *, concurrency: int) -> dict[str, Any]:
    """Let every policy, with either screening prompt, answer the same queries, in turns."""
    seconds: dict[str, float] = {}
    latency: dict[str, float] = {}
    ways = [("agent_only", "paper"), *((p, s) for p in POLICIES for s in ("paper", "shared"))]
    for policy, prompt in ways:
        bench.forget()
        queries = [plan.query() for plan in plans]
        name = policy if policy == "agent_only" else f"{policy}_{prompt}"
        took: list[float] = []
        async with bench.eyes(plans[0].image_tokens, policy, screen_prompt=prompt) as eyes:
            start_s = time.perf_counter()
            async for outcome in eyes.answer_many(queries, concurrency=concurrency):
                if outcome.error is not None:
                    raise outcome.error
                took.append(outcome.trace[-1].at_s)
            seconds[name] = time.perf_counter() - start_s
        latency[name] = mean(took)
    return {
        "image_tokens": plans[0].image_tokens,
        "queries": len(plans),
        "concurrency": concurrency,
        "wall_s": {name: round(value, 3) for name, value in seconds.items()},
        "mean_latency_s": {name: round(value, 3) for name, value in latency.items()},
        "speedup": {
            name: round(seconds["agent_only"] / value, 3) for name, value in seconds.items()
        },
    }


async def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Make both models, and measure all that was asked for."""
    is_tiny = asked.size == "tiny"
    shapes = {"small": QWEN3_VL_2B, "large": QWEN2_5_VL_7B}
    engines = {
        role: ForcedEngine(
            tiny(shape) if is_tiny else shape,
            script,
            name=role,
            device=asked.device,
            limits=LocalLimits() if is_tiny else ON_GPU[role],
        )
        for role, shape in shapes.items()
    }
    bench = Bench(engines["small"], engines["large"])
    try:
        await bench.answer(Plan(image_tokens=min(asked.image_tokens), depth=1), "agent_only")
        await bench.answer(Plan(image_tokens=min(asked.image_tokens)), "serial")
        priced, raced = [], []
        for image_tokens in asked.image_tokens:
            priced.append(
                await costs(bench, image_tokens, depths=asked.depths, repeats=asked.repeats)
            )
            print(json.dumps(priced[-1]), file=sys.stderr)
            for make in (mixed, hard):
                plans = make(image_tokens, asked.depths, asked.queries)
                for concurrency in asked.concurrency:
                    run = await race_of(bench, plans, concurrency=concurrency)
                    raced.append({"suite": make.__name__, **run})
                    print(json.dumps(raced[-1]), file=sys.stderr)
        return {"costs": priced, "policies": raced}
    finally:
        for engine in engines.values():
            await engine.aclose()


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6, 16])
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(words)
    if asked.size == "real" and asked.device == "cpu":
        parser.error("real sizes are for a GPU; --size tiny runs anywhere")
    found = anyio.run(measure, asked)
    told = {
        "benchmark": "gpu_real_size",
        "weights": "random",
        "answers": "forced",
        **read_circumstances(),
        "asked": vars(asked),
        **found,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
