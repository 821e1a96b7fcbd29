"""How many items does a model get right by itself, by kind and difficulty?

The large one in each protocol, the real agent with its real tools; the small one at first sight,
and the closer one also after each look. On calibration items that no training scene is drawn from.
The last line is one JSON document.

    python -m training.evaluate large --items 150 --seed 777 --protocols deepeyes thyme
    python -m training.evaluate closer --items 120 --seed 555 --looks 2 [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from speceyes import SpecEyes
from speceyes.bench.grade import grade
from speceyes.bench.items import Item
from speceyes.builtin.pair import BUILTIN, MODELS, load
from speceyes.builtin.suite import draw_items
from speceyes.config import Settings
from speceyes.engines.local import LocalEngine
from speceyes.events import Looked, Speculated, ToolFinished
from speceyes.funnel import Outcome
from speceyes.gate import GateSpec
from speceyes.types import Box, Engine

NEVER = GateSpec(threshold=1e9, k=12)  # lets nothing pass, so that all looks are taken


async def outcomes(
    eyes: SpecEyes, drawn: Mapping[str, Item]
) -> AsyncIterator[tuple[Item, Outcome]]:
    """Answer all items, saying how far it is."""
    queries = [item.query for item in drawn.values()]
    done = 0
    async for outcome in eyes.answer_many(queries, concurrency=4):
        done += 1
        print(f"{done}/{len(queries)}", flush=True)
        yield drawn[outcome.query_id], outcome


async def evaluate_large(folder: Path, protocol: str, drawn: Mapping[str, Item]) -> dict[str, Any]:
    """Let the large model in a folder answer every item as an agent."""
    right: dict[str, list[bool]] = defaultdict(list)
    calls = []
    small, large = load("small"), LocalEngine.load(folder, name=str(folder))
    spoken = BUILTIN.protocols[protocol]
    async with SpecEyes(small=small, large=large, protocol=spoken, policy="agent_only") as eyes:
        async for item, outcome in outcomes(eyes, drawn):
            _mark(right, item, None if outcome.answer is None else outcome.answer.text)
            calls += [event for event in outcome.trace if isinstance(event, ToolFinished)]
    await small.aclose()
    await large.aclose()
    return {
        "protocol": protocol,
        "right": _shares(right),
        "calls": len(calls),
        "calls_in_error": sum(call.observation.error is not None for call in calls),
    }


async def evaluate_small(
    role: str, folder: Path, looks: int, drawn: Mapping[str, Item]
) -> dict[str, Any]:
    """Let a small model in a folder answer every item, and look closer whatever it answered."""
    right: list[dict[str, list[bool]]] = [defaultdict(list) for _ in range(looks + 1)]
    hits: dict[str, list[bool]] = defaultdict(list)
    engines = {"small": LocalEngine.load(folder, name=str(folder)), "large": load("large")}
    eyes = SpecEyes(
        small=f"builtin:{role}",
        policy="small_only",
        gate=NEVER,
        settings=Settings(depth=looks),
        opener=partial(opened, engines),
    )
    async with eyes:
        async for item, outcome in outcomes(eyes, drawn):
            said = [event for event in outcome.trace if isinstance(event, Speculated)]
            for marks, event in zip(right, said, strict=False):  # it may not say where to look
                _mark(marks, item, event.generation.text)
            for event in outcome.trace:
                if isinstance(event, Looked) and item.targets_px:
                    on_one = any(_holds(event.box_px, target) for target in item.targets_px)
                    hits["hard" if item.is_hard else "easy"].append(on_one)
    for engine in engines.values():
        await engine.aclose()
    return {"right_after_looks": [_shares(marks) for marks in right], "boxes_on": _shares(hits)}


async def opened(engines: Mapping[str, Engine], role: str, _: object) -> Engine:
    """Open nothing: the engines are there, and stay."""
    return engines[role]


def _mark(right: dict[str, list[bool]], item: Item, text: str | None) -> None:
    is_right = grade(text, item.answer, item.query.options).is_right
    for name in ("all", "hard" if item.is_hard else "easy", item.kind):
        right[name].append(is_right)


def _holds(box: Box | None, target: Box) -> bool:
    if box is None:
        return False
    x_px = (target.left_px + target.right_px) / 2
    y_px = (target.top_px + target.bottom_px) / 2
    return box.left_px <= x_px <= box.right_px and box.top_px <= y_px <= box.bottom_px


def _shares(marks: Mapping[str, list[bool]]) -> dict[str, str]:
    return {name: f"{sum(each)}/{len(each)}" for name, each in sorted(marks.items())}


def main() -> None:
    """Evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("small", "closer", "large"))
    parser.add_argument("--folder", type=Path, help="of the model; else the one that ships")
    parser.add_argument(
        "--protocols", nargs="+", choices=tuple(BUILTIN.protocols), default=list(BUILTIN.protocols)
    )
    parser.add_argument("--looks", type=int, default=0)
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--seed", type=int, default=777)
    a = parser.parse_args()
    folder = a.folder or MODELS / a.role
    drawn = {i.query.query_id: i for i in draw_items(a.items, seed=a.seed, stream="calibration")}
    if a.role != "large":
        found = [anyio.run(evaluate_small, a.role, folder, a.looks, drawn)]
    else:
        found = [anyio.run(evaluate_large, folder, name, drawn) for name in a.protocols]
    print(json.dumps({"role": a.role, "items": a.items, "seed": a.seed, "found": found}))


if __name__ == "__main__":
    main()
