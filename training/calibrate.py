"""Choose K and the thresholds of the built-in gates on calibration seeds, and write them down.

Every calibration item is screened, in each way of asking; the small model answers it at once, and
the closer one before and after a look, whatever it is sure of. K is the one whose scores tell right
from wrong answers best (area under the ROC curve, over all items). A threshold is then the lowest
at which accepted wrong answers make up at most `--max-loss` of all queries: of those that need no
tool at first sight, and for the gate after a look of all those that the first one would not accept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import anyio
import numpy as np

from speceyes import SpecEyes, prompts
from speceyes.bench.grade import grade
from speceyes.bench.items import Item
from speceyes.bench.stats import auroc
from speceyes.builtin.pair import CALIBRATION, Role, load, view_protocols
from speceyes.builtin.suite import draw_items
from speceyes.config import Settings
from speceyes.events import Speculated
from speceyes.gate import GateSpec, check_evidence, score
from speceyes.pictures import DecodedPictures
from speceyes.screen import ScreenSpec, needs_tool, p_needs_tool
from speceyes.types import Box, GenerateRequest, Generation, View
from training.evaluate import NEVER, opened

CANDIDATE_KS = (4, 8, 12, 16, 24, 32, 64)
SCREEN = ScreenSpec(prompt_id=prompts.SCREEN_ID, engine="builtin:large")
SHARED = replace(SCREEN, prompt="shared", prompt_id=prompts.SCREEN_WITHIN_ID)


@dataclass(frozen=True, slots=True)
class Observed:
    """What a small model said of one calibration item; None: it did not say where to look."""

    item: Item
    generation: Generation | None

    @property
    def is_right(self) -> bool:
        """Whether what it said is the answer."""
        text = None if self.generation is None else self.generation.text
        return grade(text, self.item.answer, self.item.query.options).is_right


async def speculate(role: Role, items: Sequence[Item], looks: int) -> list[list[Observed]]:
    """Let a small model answer every item, at first sight and after each look."""
    small, large = load(role), load("large")  # the large one only stands by
    drawn = {item.query.query_id: item for item in items}
    observed: list[list[Observed]] = [[] for _ in range(looks + 1)]
    async with SpecEyes(
        small=f"builtin:{role}",
        protocol=view_protocols()[0],
        policy="small_only",
        gate=NEVER,
        settings=Settings(depth=looks, evidence_k=max(CANDIDATE_KS)),
        opener=partial(opened, {"small": small, "large": large}),
    ) as eyes:
        async for outcome in eyes.answer_many((item.query for item in items), concurrency=4):
            item = drawn[outcome.query_id]
            said = [event.generation for event in outcome.trace if isinstance(event, Speculated)]
            for look, into in enumerate(observed):
                into.append(Observed(item, said[look] if look < len(said) else None))
    await small.aclose()
    await large.aclose()
    return observed


async def screen(items: Sequence[Item]) -> dict[str, dict[str, float | None]]:
    """Ask for each item whether it needs a tool: p(yes) by the way of asking and the item."""
    large, found = load("large"), {}
    for protocol in view_protocols():
        ways = {"paper": prompts.screen, f"shared {protocol.name}": None}
        for way, prompt in ways.items():
            if way in found:
                continue
            found[way] = {}
            for item in items:
                picture = item.query.pictures[0]
                whole, size = Box(0, 0, *picture.size), protocol.view_size(picture.size)
                views = (View(DecodedPictures((picture,)).cut(whole, size), whole),)
                if prompt is None:
                    asked = prompts.screen_within(protocol.opening(item.query, views))
                else:
                    asked = prompt(item.query, views)
                said = await large.generate(
                    GenerateRequest(asked, 1, top_logprobs=SCREEN.top_logprobs)
                )
                p_tool = p_needs_tool(said.evidence, min_mass=SCREEN.min_mass)
                found[way][item.query.query_id] = p_tool
    await large.aclose()
    return found


def scores(observed: Sequence[Observed], spec: GateSpec) -> np.ndarray:
    """Return (N,) scores; what the gate rejects as unsound scores -inf."""
    return np.array([_score(each.generation, spec) for each in observed])


def _score(said: Generation | None, spec: GateSpec) -> float:
    if said is None or said.evidence is None or check_evidence(said, spec) is not None:
        return -np.inf
    return score(said.evidence, spec)


def lowest_threshold(values: np.ndarray, wrong: np.ndarray, allowed: int) -> float:
    """Return the lowest threshold above which at most `allowed` answers are wrong."""
    at_fault = np.sort(values[wrong])[::-1]
    if len(at_fault) > allowed and np.isfinite(at_fault[allowed]):
        return float(at_fault[allowed])
    return float(values[np.isfinite(values)].min()) - 1e-3


def choose(
    observed: Sequence[Observed], asked: np.ndarray, *, allowed: int
) -> tuple[GateSpec, np.ndarray, dict[str, Any]]:
    """Choose K and threshold for a gate that is `asked`, (N,) bool, about some of the answers.

    Returns the gate, what it accepts, (N,) bool, and the figures it was chosen by.
    """
    right = np.array([each.is_right for each in observed])
    hard = np.array([each.item.is_hard for each in observed])
    by_k = {k: _auroc(scores(observed, GateSpec(threshold=0.0, k=k)), right) for k in CANDIDATE_KS}
    spec = GateSpec(threshold=0.0, k=max(by_k, key=lambda each: by_k[each]))
    values = scores(observed, spec)
    threshold = lowest_threshold(values[asked], ~right[asked], allowed)
    accepted = asked & (values > round(threshold, 4))
    figures = {
        "auroc_by_k": {str(key): round(value, 4) for key, value in by_k.items()},
        "asked": float(asked.mean()),
        "accepted_of_asked": float(accepted.sum() / max(asked.sum(), 1)),
        "accepted_of_hard": float((accepted & hard).sum() / hard.sum()),
        "accepted_wrong_share": float((accepted & ~right).mean()),
        "accuracy_easy": float(right[~hard].mean()),
        "accuracy_hard": float(right[hard].mean()),
    }
    return replace(spec, threshold=round(threshold, 4)), accepted, figures


def _auroc(values: np.ndarray, right: np.ndarray) -> float:
    return auroc(values[right].tolist(), values[~right].tolist()) or 0.0


def calibrate(items: Sequence[Item], max_loss: float) -> dict[str, Any]:
    """Observe all items and choose; returns what is written, tables and figures."""
    judged = anyio.run(screen, items)
    by_id = {item.query.query_id: item for item in items}
    accuracy = {
        way: float(np.mean([needs_tool(p, SCREEN) == by_id[i].is_hard for i, p in each.items()]))
        for way, each in judged.items()
    }
    allowed = int(max_loss * len(items))
    gates, figures = {}, {"screen_accuracy": accuracy}
    for role, looks in (("small", 0), ("closer", 1)):
        at_first, *after = anyio.run(speculate, role, items, looks)
        ids = [each.item.query.query_id for each in at_first]
        is_easy = np.array([not needs_tool(judged["paper"][each], SCREEN) for each in ids])
        name = "gate" if role == "small" else "first_gate"
        gates[name], accepted, figures[name] = choose(at_first, is_easy, allowed=allowed)
        if after:
            found = choose(after[0], ~accepted, allowed=allowed)
            gates["closer_gate"], _, figures["closer_gate"] = found
    return {
        **{
            name: asdict(
                replace(
                    gate,
                    small_model=f"builtin:{'small' if name == 'gate' else 'closer'}",
                    large_model="builtin:large",
                    prompt_id=prompts.SPECULATE_ID,
                    engine="local",
                )
            )
            for name, gate in gates.items()
        },
        "screen": asdict(SCREEN),
        "shared_screen": asdict(SHARED),
        "figures": figures,
    }


def main() -> None:
    """Calibrate and write `models/calibration.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-loss", type=float, default=0.005)
    a = parser.parse_args()
    items = list(draw_items(a.items, seed=a.seed, stream="calibration"))
    written = calibrate(items, a.max_loss)
    written["chosen_on"] = {
        "stream": "calibration", "seed": a.seed, "items": a.items, "max_loss": a.max_loss,
    }  # fmt: skip
    CALIBRATION.write_text(json.dumps(written, indent=2) + "\n")
    print(json.dumps(written))


if __name__ == "__main__":
    main()
