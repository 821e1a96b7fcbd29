"""What does it save that each token is read once? Phase I's price, and the agent's turns.

Phase I: for each item, what the first token of the agent costs after a screen (in the agent's own
words, and in the paper's) beyond what it costs alone, as a share of that; and, as the least that
any screen could cost, what the same prompt costs that is asked twice (`repeated`). Turns: the same
items answered by the agent, with prefixes kept and without, in turns. Before each figure all is
forgotten. With --heavier N, on a model that says the same and whose feed-forward layers are N times
as wide (`heavier.py`): what a request costs beside its tokens stays as it is. Prints one JSON
document, last.

    python benchmarks/prefix.py --items 24
    make vllm && .venv/bin/python benchmarks/prefix.py --vllm      # Phase I over a real vLLM
    .venv/bin/python benchmarks/prefix.py --vllm --items 8 --heavier 24
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.heavier import heavier_pair  # noqa: E402
from speceyes import SpecEyes, prompts  # noqa: E402
from speceyes.agent import request_for  # noqa: E402
from speceyes.bench.items import Item  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.builtin.pair import BUILTIN  # noqa: E402
from speceyes.builtin.scenes import VIEW_PX  # noqa: E402
from speceyes.builtin.suite import draw_items  # noqa: E402
from speceyes.engines.local import LocalEngine  # noqa: E402
from speceyes.engines.worker import LocalLimits  # noqa: E402
from speceyes.events import Answer, TurnFinished  # noqa: E402
from speceyes.pictures import DecodedPictures  # noqa: E402
from speceyes.protocols.deepeyes import DeepEyes  # noqa: E402
from speceyes.types import Box, Conversation, Engine, Usage, View  # noqa: E402

WARM_UP_ITEMS = 2
PROTOCOL = DeepEyes(min_px=VIEW_PX * VIEW_PX, max_px=VIEW_PX * VIEW_PX)
Forget = Callable[[], object]


@dataclass(frozen=True)
class Asked:
    """One item's conversations."""

    opening: Conversation
    shared: Conversation
    paper: Conversation


def views_of(*items: Item) -> tuple[View, ...]:
    """Give what the models first see of these items' pictures."""
    views = []
    for picture in (picture for item in items for picture in item.query.pictures):
        whole = Box(0, 0, *picture.size)
        seen = DecodedPictures((picture,)).cut(whole, PROTOCOL.view_size(picture.size))
        views.append(View(seen, whole))
    return tuple(views)


def ask_of(item: Item, *beside: Item) -> Asked:
    """Word what is asked about an item and pictures beside it, outside of what is measured."""
    views = views_of(item, *beside)
    opening = PROTOCOL.opening(item.query, views)
    paper = prompts.screen(item.query, views)
    return Asked(opening, prompts.screen_within(opening), paper)


def asked_of(items: Sequence[Item], pictures: int) -> list[Asked]:
    """Word all items, each with so many pictures: its own, and those that follow."""
    around = [*items, *items]
    return [ask_of(*around[at : at + pictures]) for at in range(len(items))]


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of this process' own work."""

    wall_s: float
    cpu_s: float

    def least(self, other: Spent) -> Spent:
        """Take the lesser of each."""
        return Spent(min(self.wall_s, other.wall_s), min(self.cpu_s, other.cpu_s))


NEVER = Spent(float("inf"), float("inf"))


async def first_tokens(
    engine: Engine, conversations: Sequence[Conversation]
) -> tuple[Spent, list[Usage]]:
    """Time one prefill and one token of each, one after the other."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    usages = []
    for conversation in conversations:
        is_screen = conversation is not conversations[-1]
        request = request_for(conversation, 1, top_logprobs=20 if is_screen else 0)
        usages.append((await engine.generate(replace(request, tools=PROTOCOL.tools))).usage)
    return Spent(time.perf_counter() - wall_s, time.process_time() - cpu_s), usages


async def phase_one(
    engine: Engine,
    forget: Forget,
    asked: Sequence[Asked],
    *,
    repeats: int,
    clocks: Sequence[str] = ("wall_s", "cpu_s"),
) -> dict[str, Any]:
    """Measure Phase I's price for a query that falls back.

    `cached_share`: of the tokens of the agent's own first prompt, those that it had not to read.
    """
    bests: list[dict[str, Spent]] = []
    usages: dict[str, list[Usage]] = {}
    last: list[dict[str, Usage]] = []
    for item in [asked[0], *asked]:  # the first one warms up
        kinds = {
            "alone": [item.opening],
            "shared": [item.shared, item.opening],
            "paper": [item.paper, item.opening],
            "repeated": [item.opening, item.opening],
        }
        best = dict.fromkeys(kinds, NEVER)
        for repeat in range(repeats):  # in turns, each time another one first
            for at in range(len(kinds)):
                kind = list(kinds)[(at + repeat) % len(kinds)]
                forget()
                spent, usages[kind] = await first_tokens(engine, kinds[kind])
                best[kind] = best[kind].least(spent)
        bests.append(best)
        last.append({kind: found[-1] for kind, found in usages.items()})
    told: dict[str, Any] = {"items": len(asked), "repeats": repeats}
    told["cached_share"] = {
        kind: round(
            sum(one[kind].cached_tokens or 0 for one in last[1:])
            / sum(one[kind].prompt_tokens for one in last[1:]),
            4,
        )
        for kind in last[0]
    }
    for clock in clocks:
        spent_s = {kind: [getattr(one[kind], clock) for one in bests[1:]] for kind in bests[0]}
        told[clock] = {
            "full_prefill_and_a_token": spread(spent_s["alone"]),
            **{
                f"phase_one_share_{kind}": spread(
                    [(two - one) / one for one, two in zip(spent_s["alone"], found, strict=True)]
                )
                for kind, found in spent_s.items()
                if kind != "alone"
            },
        }
    return told | {"last_usage": {k: [asdict(u) for u in found] for k, found in usages.items()}}


async def phase_ones(
    engine: Engine,
    forget: Forget,
    items: Sequence[Item],
    *,
    repeats: int,
    pictures: Sequence[int],
    clocks: Sequence[str] = ("wall_s", "cpu_s"),
) -> list[dict[str, Any]]:
    """Measure Phase I's price for prompts of several lengths."""
    found = []
    for shown in pictures:
        price = await phase_one(
            engine, forget, asked_of(items, shown), repeats=repeats, clocks=clocks
        )
        found.append({"pictures": shown, **price})
        print(json.dumps(found[-1]), file=sys.stderr)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the middle, and the quarters around it."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    found = {"median": median(ordered), "low": ordered[quarter], "high": ordered[-1 - quarter]}
    return {name: round(value, 4) for name, value in found.items()}


def tokens_of(answer: Answer) -> dict[str, int]:
    """Count a query's tokens: all prompts, those read, and those that had to be.

    A turn's answer is read as it is drawn, but for its last token, so that only what came after
    it is new to the next turn.
    """
    usages = [e.generation.usage for e in answer.trace if isinstance(e, TurnFinished)]
    new = usages[0].prompt_tokens + sum(
        after.prompt_tokens - before.prompt_tokens - before.completion_tokens + 1
        for before, after in pairwise(usages)
    )
    prompt = sum(usage.prompt_tokens for usage in usages)
    return {
        "turns": len(usages),
        "prompt": prompt,
        "read": prompt - sum(usage.cached_tokens or 0 for usage in usages),
        "new": new,
    }


async def turns(model: Path, items: Sequence[Item], repeats: int) -> dict[str, Any]:
    """Measure the agent's queries with prefixes kept, and without."""
    ways = {"kept": LocalLimits(), "not_kept": LocalLimits(prefix_bytes=0)}
    engines = {
        way: LocalEngine.load(model, name="large", threads=1, limits=limits)
        for way, limits in ways.items()
    }
    ratios: list[float] = []
    counted: dict[str, list[dict[str, int]]] = {way: [] for way in ways}
    same = 0
    for item in items:
        best = dict.fromkeys(ways, float("inf"))
        said: dict[str, Answer] = {}
        for repeat in range(repeats):
            for way in list(ways)[:: 1 if repeat % 2 else -1]:
                spent_s, said[way] = await answered(engines[way], item)
                best[way] = min(best[way], spent_s)
        ratios.append(best["not_kept"] / best["kept"])
        same += said["kept"].text == said["not_kept"].text
        for way, answer in said.items():
            counted[way].append(tokens_of(answer))
    for engine in engines.values():
        await engine.aclose()
    sums = {
        way: {name: sum(one[name] for one in found) for name in found[0]}
        for way, found in counted.items()
    }
    return {
        "items": len(items),
        "repeats": repeats,
        "same_answers": same,
        "tokens": sums,
        "read_per_new_token": {
            way: round(total["read"] / total["new"], 3) for way, total in sums.items()
        },
        "times_faster": spread(ratios),
        "times_faster_with_three_turns_or_more": spread(
            [r for r, one in zip(ratios, counted["kept"], strict=True) if one["turns"] > 2]
            or [float("nan")]
        ),
    }


async def answered(engine: LocalEngine, item: Item) -> tuple[float, Answer]:
    """Time one query of the agent's."""
    engine.forget()
    eyes = SpecEyes(
        small=engine, large=engine, protocol=PROTOCOL, gate=BUILTIN.gate, policy="agent_only"
    )
    async with eyes:
        start_s = time.perf_counter()
        answer = await eyes.answer(item.query)
        return time.perf_counter() - start_s, answer


async def here(items: Sequence[Item], asked: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Measure the local engine."""
    large = LocalEngine.load(model, name="large", threads=1)
    prices = await phase_ones(
        large, large.forget, items, repeats=asked.repeats, pictures=asked.pictures
    )
    await large.aclose()
    return {"phase_one": prices, "turns": await turns(model, items, asked.repeats)}


async def there(items: Sequence[Item], asked: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Measure a real vLLM, on the wall only: what it works is not this process' own."""
    from benchmarks.vllm import Forgetting
    from tests.e2e.vllm_env import FOLDER, is_ready
    from tests.e2e.vllm_server import Server, cores, serve

    if not is_ready():
        raise SystemExit(f"{FOLDER} is not there or out of date; run `make vllm`")
    with tempfile.TemporaryDirectory() as logs:
        server = Server(model=model, name="large", core=cores()[1], folder=Path(logs), tell=tell)
        with serve(server):
            engine = Forgetting(server)
            try:
                return {
                    "phase_one": await phase_ones(
                        engine,
                        engine.forget,
                        items,
                        repeats=asked.repeats,
                        pictures=asked.pictures,
                        clocks=("wall_s",),
                    )
                }
            finally:
                await engine.aclose()


def tell(line: str) -> None:
    """Say on the standard error how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1], help="a prompt's")
    parser.add_argument("--heavier", type=int, default=1, help="feed-forward layers, times as wide")
    parser.add_argument("--seed", type=int, default=20260412)
    parser.add_argument("--vllm", action="store_true")
    asked = parser.parse_args()
    items, circumstances = list(draw_items(asked.items, seed=asked.seed)), read_circumstances()
    with heavier_pair(large=asked.heavier) as models:
        found = anyio.run(there if asked.vllm else here, items, asked, models / "large")
    told = {
        "benchmark": "prefix",
        **circumstances,
        "engine": "vllm" if asked.vllm else "local",
        "seed": asked.seed,
        "heavier": asked.heavier,
        **found,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
