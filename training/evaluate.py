"""How many items does a large model get right alone, in each protocol, by kind and difficulty?

The real agent with its real tools, on calibration items that no training scene is drawn from. The
last line is one JSON document.

    python -m training.evaluate --items 150 --seed 777 --protocols deepeyes thyme
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import anyio

from speceyes import SpecEyes
from speceyes.bench.grade import grade
from speceyes.builtin.pair import MODELS, load, view_protocols
from speceyes.builtin.suite import draw_items
from speceyes.engines.local import LocalEngine
from speceyes.events import Answer, ToolFinished
from speceyes.funnel import Outcome

PROTOCOLS = {protocol.name: protocol for protocol in view_protocols()}


async def evaluate(folder: Path, protocol: str, items: int, seed: int) -> dict[str, object]:
    """Let the model in a folder answer every item by itself."""
    drawn = {i.query.query_id: i for i in draw_items(items, seed=seed, stream="calibration")}
    right: dict[str, list[bool]] = defaultdict(list)
    outcomes: list[Outcome] = []
    small, large = load("small"), LocalEngine.load(folder, name=str(folder))
    eyes = SpecEyes(small=small, large=large, protocol=PROTOCOLS[protocol], policy="agent_only")
    async with eyes:
        async for outcome in eyes.answer_many([i.query for i in drawn.values()], concurrency=4):
            item, answer = drawn[outcome.query_id], outcome.answer
            said = "" if answer is None else answer.text
            is_right = grade(said, item.answer, item.query.options).value == "right"
            for name in ("all", "hard" if item.is_hard else "easy", item.kind):
                right[name].append(is_right)
            outcomes.append(outcome)
            print(f"{protocol} {len(outcomes)}/{items}: {sum(right['all'])} right", flush=True)
    await small.aclose()
    await large.aclose()
    answers = [outcome.answer for outcome in outcomes if outcome.answer]
    return {
        "protocol": protocol,
        "right": {name: f"{sum(marks)}/{len(marks)}" for name, marks in sorted(right.items())},
        "accuracy": sum(right["all"]) / items,
        "without_answer": items - len(answers),
        "calls": sum(answer.depth for answer in answers),
        "calls_in_error": sum(map(_errors, answers)),
    }


def _errors(answer: Answer) -> int:
    return sum(
        isinstance(event, ToolFinished) and event.observation.error is not None
        for event in answer.trace
    )


def main() -> None:
    """Evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=MODELS / "large")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--items", type=int, default=150)
    parser.add_argument("--seed", type=int, default=777)
    a = parser.parse_args()
    found = [anyio.run(evaluate, a.folder, name, a.items, a.seed) for name in a.protocols]
    print(json.dumps({"items": a.items, "seed": a.seed, "protocols": found}))


if __name__ == "__main__":
    main()
