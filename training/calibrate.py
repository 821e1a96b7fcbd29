"""Choose K and the threshold of the built-in gate on calibration seeds, and write them down.

Every calibration item is screened and speculated on, and no more. K is the one whose scores tell
right from wrong answers best (area under the ROC curve, over all items); the threshold is then the
lowest at which accepted wrong answers make up at most `--max-loss` of all queries.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import partial

import anyio
import numpy as np

from speceyes import prompts
from speceyes.bench.grade import grade
from speceyes.bench.stats import auroc
from speceyes.builtin.pair import CALIBRATION, load, view_protocols
from speceyes.builtin.suite import draw_items
from speceyes.gate import GateSpec, check_evidence, score
from speceyes.pictures import DecodedPictures
from speceyes.screen import ScreenSpec, needs_tool, p_needs_tool
from speceyes.types import Box, Engine, GenerateRequest, Generation, View

CANDIDATE_KS = (4, 8, 12, 16, 24, 32, 64)
MAX_ANSWER_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Observed:
    """What both models said of one calibration item."""

    p_tool: float | None
    generation: Generation
    is_right: bool
    is_hard: bool


async def observe(count: int, seed: int, screen: ScreenSpec) -> list[Observed]:
    """Screen and speculate on every item, one after the other."""
    small, large, protocol = load("small"), load("large"), view_protocols()[0]
    observed = []
    for item in draw_items(count, seed=seed, stream="calibration"):
        picture = item.query.pictures[0]
        whole, size = Box(0, 0, *picture.size), protocol.view_size(picture.size)
        view = View(DecodedPictures((picture,)).cut(whole, size), whole)
        judged = await _say(large, prompts.screen(item.query, (view,)), 1, screen.top_logprobs)
        said = await _say(small, prompts.speculate(item.query, (view,)), MAX_ANSWER_TOKENS, 64)
        is_right = grade(said.text, item.answer, item.query.options).value == "right"
        p_tool = p_needs_tool(judged.evidence, min_mass=screen.min_mass)
        observed.append(Observed(p_tool, said, is_right, item.is_hard))
    await small.aclose()
    await large.aclose()
    return observed


async def _say(engine: Engine, conversation: object, max_tokens: int, k: int) -> Generation:
    request = GenerateRequest(conversation, max_tokens, top_logprobs=k)  # type: ignore[arg-type]
    return await engine.generate(request)


def scores(observed: list[Observed], spec: GateSpec) -> np.ndarray:
    """Return (N,) scores; what the gate rejects as unsound scores -inf."""
    return np.array(
        [
            score(o.generation.evidence, spec)
            if o.generation.evidence is not None and check_evidence(o.generation, spec) is None
            else -np.inf
            for o in observed
        ]
    )


def lowest_threshold(values: np.ndarray, wrong: np.ndarray, allowed: int) -> float:
    """Return the lowest threshold above which at most `allowed` answers are wrong."""
    at_fault = np.sort(values[wrong])[::-1]
    return float(at_fault[allowed]) if len(at_fault) > allowed else float(values.min()) - 1e-3


def _auroc(values: np.ndarray, right: np.ndarray) -> float:
    return auroc(values[right].tolist(), values[~right].tolist()) or 0.0


def choose(
    observed: list[Observed], screen: ScreenSpec, max_loss: float
) -> tuple[GateSpec, dict[str, object]]:
    """Choose K and threshold; also return the figures they were chosen by."""
    right = np.array([o.is_right for o in observed])
    screened = np.array([not needs_tool(o.p_tool, screen) for o in observed])
    hard = np.array([o.is_hard for o in observed])
    by_k = {k: _auroc(scores(observed, GateSpec(threshold=0.0, k=k)), right) for k in CANDIDATE_KS}
    k = max(by_k, key=lambda each: by_k[each])
    spec = GateSpec(threshold=0.0, k=k)
    values = scores(observed, spec)
    threshold = lowest_threshold(values[screened], ~right[screened], int(max_loss * len(observed)))
    accepted = screened & (values > threshold)
    figures = {
        "auroc_by_k": {str(key): round(value, 4) for key, value in by_k.items()},
        "screen_accuracy": float((screened != hard).mean()),
        "beta": float(screened.mean()),
        "alpha": float(accepted.sum() / max(screened.sum(), 1)),
        "accepted_wrong_share": float((accepted & ~right).mean()),
        "small_accuracy_easy": float(right[~hard].mean()),
        "small_accuracy_hard": float(right[hard].mean()),
    }
    return replace(spec, threshold=round(threshold, 4)), figures


def main() -> None:
    """Calibrate and write `models/calibration.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-loss", type=float, default=0.005)
    a = parser.parse_args()
    screen = ScreenSpec(prompt_id=prompts.SCREEN_ID, engine="builtin:large")
    observed = anyio.run(partial(observe, a.items, a.seed, screen))
    gate, figures = choose(observed, screen, a.max_loss)
    gate = replace(
        gate, small_model="builtin:small", large_model="builtin:large",
        prompt_id=prompts.SPECULATE_ID, engine="local",
    )  # fmt: skip
    written = {
        "gate": asdict(gate),
        "screen": asdict(screen),
        "chosen_on": {
            "stream": "calibration",
            "seed": a.seed,
            "items": a.items,
            "max_loss": a.max_loss,
        },
        "figures": figures,
    }
    CALIBRATION.write_text(json.dumps(written, indent=2) + "\n")
    print(json.dumps(written))


if __name__ == "__main__":
    main()
