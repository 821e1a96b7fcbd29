"""What else could be the score of an answer? Eight candidates, read off the same evidence.

It refuses to know thresholds. Each is higher where the model is surer; those of single tokens take
the answer's worst one, as the gate's `min` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

import numpy as np

from speceyes.bench.stats import Floats
from speceyes.gate import GateSpec, scores_all
from speceyes.types import Generation

ScoreName: TypeAlias = Literal[
    "min", "mean", "bottom", "log", "p_top", "margin", "entropy", "combined"
]

CANDIDATES: Final[Mapping[ScoreName, str]] = {
    "min": "separability of the worst token: the paper's",
    "mean": "separability, mean of the tokens",
    "bottom": "separability, mean of the worst few tokens",
    "log": "exp of the mean log-probability",
    "p_top": "probability of the worst token",
    "margin": "log-probability over the next rival's, worst token",
    "entropy": "minus the entropy of the worst token's candidates",
    "combined": "logistic regression of all of these, fitted on other answers",
}
FOLDS: Final = 5
_RIDGE: Final = 1.0
_STEPS: Final = 30


def read_candidates(generation: Generation, spec: GateSpec) -> dict[ScoreName, float] | None:
    """Score one answer in every way but the combined; None if it cannot be scored soundly.

    `margin` in nats; `entropy` in nats, over the K candidates and, as one more, all the others.
    """
    found = scores_all(
        generation, k=spec.k, definition=spec.definition, bottom_share=spec.bottom_share
    )
    if found is None or generation.evidence is None:
        return None
    rows = generation.evidence.logp_topk[:, : spec.k].astype(np.float64)  # (T, K)
    chosen = generation.evidence.logp_chosen.astype(np.float64)  # (T,)
    p = np.exp(rows)
    others = np.clip(1.0 - p.sum(axis=1), 0.0, 1.0)  # (T,)
    entropy = -(p * rows).sum(axis=1) - others * np.log(np.maximum(others, 1e-300))
    return {
        "min": found["min"],
        "mean": found["mean"],
        "bottom": found["bottom"],
        "log": found["log"],
        "p_top": float(np.exp(chosen.min())),
        "margin": float((rows[:, 0] - rows[:, 1]).min()),
        "entropy": -float(entropy.max()),
    }


def candidate_columns(
    answers: Sequence[Mapping[ScoreName, float]], wrong: Sequence[bool]
) -> dict[ScoreName, Floats]:
    """Put the scores of answers into columns, with the combined one. Shapes: each (N,)."""
    names: list[ScoreName] = [name for name in CANDIDATES if name != "combined"]
    columns = {name: np.array([answer[name] for answer in answers]) for name in names}
    table = np.stack([columns[name] for name in names], axis=1) if answers else np.zeros((0, 0))
    return {**columns, "combined": combine(table, np.array(wrong, dtype=np.bool_))}


def combine(table: Floats, wrong: np.typing.NDArray[np.bool_]) -> Floats:
    """Combine scores into log-odds of being right, each fold's by what was fitted on the others.

    Logistic regression with a ridge of 1 on standardised columns; answer i is of fold i mod 5.
    Shapes: table (N, F), wrong (N,); returns (N,). All alike where there is nothing to learn.
    """
    count = len(wrong)
    fold = np.arange(count) % FOLDS
    made = np.zeros(count)
    for one in range(FOLDS):
        others, ours = fold != one, fold == one
        if not ours.any() or len(np.unique(wrong[others])) < 2:
            continue
        centre, spread = table[others].mean(axis=0), table[others].std(axis=0)
        scaled = (table - centre) / np.where(spread > 0, spread, 1.0)
        design = np.concatenate([np.ones((count, 1)), scaled], axis=1)  # (N, F + 1)
        made[ours] = design[ours] @ _logistic(design[others], ~wrong[others])
    return made


def _logistic(design: Floats, right: np.typing.NDArray[np.bool_]) -> Floats:
    # Newton's method; the ridge spares the constant, and keeps it from running off.
    weights = np.zeros(design.shape[1])
    ridge = np.full(design.shape[1], _RIDGE)
    ridge[0] = 1e-6
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30.0, 30.0)))
        slope = design.T @ (right - p) - ridge * weights
        bend = (design * (p * (1.0 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(bend, slope)
        weights = weights + np.clip(step, -5.0, 5.0)
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(weights, dtype=np.float64)
