"""What does the gate cost an answer: to read the scores, and to have them from the engine?

Judged: answers of several lengths with several numbers of candidates, made from a seed, many times
over. Had: each item answered by the small built-in model in this process, with the candidates that
a gate of each K reads and with none, in turns; the least of the repeats counts. Prints one JSON
document, last.

    python benchmarks/gate_cost.py --items 24 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import anyio
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.prefix import views_of  # noqa: E402
from speceyes import prompts  # noqa: E402
from speceyes.agent import request_for  # noqa: E402
from speceyes.bench.items import Item  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.builtin.pair import MODELS  # noqa: E402
from speceyes.builtin.suite import draw_items  # noqa: E402
from speceyes.engines.local import LocalEngine  # noqa: E402
from speceyes.engines.replay import scripted  # noqa: E402
from speceyes.gate import GateSpec, judge  # noqa: E402
from speceyes.types import Evidence, Generation  # noqa: E402

TOKENS: Final = (2, 16, 128)  # of an answer
CANDIDATES: Final = (12, 64)  # K
MAX_TOKENS: Final = 16
CALLS: Final = 200  # of `judge` at a time


def an_answer(tokens: int, k: int, draw: np.random.Generator) -> Generation:
    """Make an answer whose log-probabilities are sound and of no pattern."""
    logits = np.sort(draw.normal(0.0, 3.0, (tokens, k)), axis=1)[:, ::-1]
    logits[:, 0] += 4.0
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # (T, K) nats, descending
    said = scripted("word " * tokens, separability=None)
    return replace(said, evidence=Evidence(rows, rows[:, 0].copy()))


def judged(tokens: int, k: int, *, repeats: int, draw: np.random.Generator) -> dict[str, Any]:
    """Time the gate on answers of one shape; microseconds an answer."""
    spec = GateSpec(threshold=3.0, k=k)
    answers = [an_answer(tokens, k, draw) for _ in range(CALLS)]
    if any(judge(answer, spec).score is None for answer in answers):
        raise SystemExit("an answer that was to be scored was not")
    found_us = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        for answer in answers:
            judge(answer, spec)
        found_us.append((time.perf_counter() - began_s) / CALLS * 1e6)
    return {
        "tokens": tokens,
        "k": k,
        "median_us": round(median(found_us), 1),
        "range_us": [round(min(found_us), 1), round(max(found_us), 1)],
    }


async def had(small: LocalEngine, items: Sequence[Item], repeats: int) -> dict[str, Any]:
    """Time the small model's answers with candidates and without."""
    asked = [prompts.speculate(item.query, views_of(item)) for item in items]
    ways = (0, *CANDIDATES)
    best_s = [dict.fromkeys(ways, float("inf")) for _ in asked]
    for place, conversation in enumerate([asked[0], *asked]):  # the first one warms up
        for repeat in range(repeats):
            for k in ways[repeat % len(ways) :] + ways[: repeat % len(ways)]:
                small.forget()
                began_s = time.perf_counter()
                await small.generate(request_for(conversation, MAX_TOKENS, top_logprobs=k))
                spent_s = time.perf_counter() - began_s
                if place:
                    best_s[place - 1][k] = min(best_s[place - 1][k], spent_s)
    more = {k: [one[k] / one[0] - 1.0 for one in best_s] for k in CANDIDATES}
    return {
        "answer_ms": round(median(one[0] for one in best_s) * 1e3, 2),
        "share_more": {
            k: {
                "median": round(median(found), 4),
                "range": [round(min(found), 4), round(max(found), 4)],
            }
            for k, found in more.items()
        },
    }


async def measure(items: Sequence[Item], repeats: int) -> dict[str, Any]:
    """Measure both parts."""
    draw = np.random.default_rng(0)
    shapes = [
        judged(tokens, k, repeats=max(5, repeats), draw=draw)
        for tokens in TOKENS
        for k in CANDIDATES
    ]
    small = LocalEngine.load(MODELS / "small", name="small", threads=1)
    try:
        answers = await had(small, items, repeats)
    finally:
        await small.aclose()
    share = shapes[0]["median_us"] / 1e3 / answers["answer_ms"]
    return {"judged": shapes, "had": answers, "judged_share_of_answer": round(share, 5)}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20260412)
    asked = parser.parse_args()
    items = list(draw_items(asked.items, seed=asked.seed))
    told = {
        "benchmark": "gate_cost",
        **read_circumstances(),
        "items": asked.items,
        "repeats": asked.repeats,
        "seed": asked.seed,
        **anyio.run(measure, items, asked.repeats),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
