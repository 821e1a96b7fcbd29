"""What does batching bring? The built-in suite, with one row at a time and with many, in turns.

Both engines of the pair run in this process, a thread each. For each number of questions under way,
the two ways take turns, all being forgotten before each; what is compared stands side by side.
Prints one JSON document, last.

    python benchmarks/batching.py --items 32 --repeats 3 --concurrency 1 6 16
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes import SpecEyes  # noqa: E402
from speceyes.bench.items import Item  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.builtin.pair import BUILTIN, MODELS  # noqa: E402
from speceyes.builtin.scenes import VIEW_PX  # noqa: E402
from speceyes.builtin.suite import draw_items  # noqa: E402
from speceyes.engines.local import LocalEngine  # noqa: E402
from speceyes.engines.worker import LocalLimits  # noqa: E402
from speceyes.protocols.deepeyes import DeepEyes  # noqa: E402

WARM_UP_ITEMS = 2
WAYS = {"one_row": LocalLimits(max_batch=1), "batched": LocalLimits()}
PROTOCOL = DeepEyes(min_px=VIEW_PX * VIEW_PX, max_px=VIEW_PX * VIEW_PX)


@dataclass(frozen=True)
class Way:
    """A funnel on a pair of engines of its own."""

    engines: tuple[LocalEngine, LocalEngine]
    eyes: SpecEyes


@dataclass(frozen=True)
class Went:
    """What it took to answer all items, and what was answered."""

    wall_s: float
    cpu_s: float
    answers: dict[str, str]


@asynccontextmanager
async def opened(limits: LocalLimits, policy: str) -> AsyncGenerator[Way, None]:
    """Open the pair with such limits."""
    small, large = (
        LocalEngine.load(MODELS / role, name=f"builtin:{role}", threads=1, limits=limits)
        for role in ("small", "large")
    )
    eyes = SpecEyes(
        small=small,
        large=large,
        protocol=PROTOCOL,
        gate=BUILTIN.gate,
        screen=BUILTIN.screen,
        policy=policy,
    )
    try:
        async with eyes:
            yield Way((small, large), eyes)
    finally:
        await small.aclose()
        await large.aclose()


async def went(way: Way, items: Sequence[Item], concurrency: int) -> Went:
    """Answer all items, so many under way at once."""
    for engine in way.engines:
        engine.forget()
    answers: dict[str, str] = {}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    queries = [item.query for item in items]
    async for outcome in way.eyes.answer_many(queries, concurrency=concurrency):
        answers[outcome.query_id] = (
            str(outcome.error) if outcome.answer is None else (outcome.answer.text)
        )
    return Went(time.perf_counter() - wall_s, time.process_time() - cpu_s, answers)


async def compare(
    items: Sequence[Item], concurrencies: Sequence[int], *, repeats: int, policy: str
) -> list[dict[str, Any]]:
    """Let both ways take turns at each concurrency."""
    runs = []
    async with (
        opened(WAYS["one_row"], policy) as one_row,
        opened(WAYS["batched"], policy) as batched,
    ):
        for way in (one_row, batched):
            await went(way, items[:WARM_UP_ITEMS], WARM_UP_ITEMS)
        for concurrency in concurrencies:
            pairs: list[tuple[Went, Went]] = []
            for repeat in range(repeats):
                if repeat % 2:
                    many = await went(batched, items, concurrency)
                    pairs.append((await went(one_row, items, concurrency), many))
                else:
                    one = await went(one_row, items, concurrency)
                    pairs.append((one, await went(batched, items, concurrency)))
                print(f"concurrency {concurrency}: {_brief(pairs[-1])}", file=sys.stderr)
            runs.append(figures(concurrency, pairs))
        tallies = [asdict(engine.tally) for engine in batched.engines]
    return [*runs, {"batched_tallies": tallies}]


def figures(concurrency: int, pairs: Sequence[tuple[Went, Went]]) -> dict[str, Any]:
    """Lay out one concurrency's figures; ratios are of neighbours."""
    items = len(pairs[0][0].answers)
    return {
        "concurrency": concurrency,
        "items": items,
        "repeats": len(pairs),
        "same_answers": all(one.answers == many.answers for one, many in pairs),
        "items_per_s": {
            name: round(items / median(pair[at].wall_s for pair in pairs), 3)
            for at, name in enumerate(WAYS)
        },
        "times_the_throughput": _spread([one.wall_s / many.wall_s for one, many in pairs]),
        "times_less_cpu": _spread([one.cpu_s / many.cpu_s for one, many in pairs]),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    named = {"median": median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def _brief(pair: tuple[Went, Went]) -> str:
    return " and ".join(f"{one.wall_s:.1f} s (CPU {one.cpu_s:.1f} s)" for one in pair)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20260412)
    parser.add_argument("--policy", default="serial")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6, 16])
    asked = parser.parse_args()
    items = list(draw_items(asked.items, seed=asked.seed))

    async def measure() -> list[dict[str, Any]]:
        return await compare(items, asked.concurrency, repeats=asked.repeats, policy=asked.policy)

    *runs, tallies = anyio.run(measure)
    told = {
        "benchmark": "batching",
        **read_circumstances(),
        "policy": asked.policy,
        "seed": asked.seed,
        "runs": runs,
        **tallies,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
