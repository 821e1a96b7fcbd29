"""How well does a score tell when to trust an answer? ROC and risk-coverage curves, with intervals.

It refuses to know what was answered, and by whom. Scores that are alike are taken in any order:
what is given is the mean over all of them. Randomness is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from speceyes.bench.stats import Floats, Interval

DRAWS: Final = 500
_MOST_DRAWN: Final = 4_000_000  # draws times answers: what a bootstrap may hold

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quality:
    """What a score is worth: `auroc` (1 is best, .5 chance), `aurc` (0 is best).

    `gain`: the reference score's aurc less this one's, so above 0 where this one is better.
    Intervals are by bootstrap over answers, the same draws for all scores. None where no answer
    is wrong, or none right.
    """

    auroc: float | None
    auroc_interval: Interval | None
    aurc: float
    aurc_interval: Interval
    gain: float
    gain_interval: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Both curves of one score, from the strictest threshold to none. Shapes: all (G + 1,).

    `coverage`: share accepted; `risk`: share of those that is wrong; `kept`: share of the right
    ones accepted; `let_through`: share of the wrong ones.
    """

    coverage: Floats
    risk: Floats
    kept: Floats
    let_through: Floats


def compare_scores(
    scores: Mapping[str, Floats],
    wrong: Flags,
    *,
    reference: str,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> dict[str, Quality]:
    """Measure scores of the same answers side by side; {} if there is no answer.

    AURC = mean over k = 1..N of the share that is wrong of the k best scored.
    Shapes: scores each (N,), wrong (N,).
    Source: Geifman, Uziel and El-Yaniv 2019, ICLR (AURC); Efron 1979 (bootstrap).
    """
    count = len(wrong)
    if count == 0:
        return {}
    draws = max(1, min(draws, _MOST_DRAWN // count))
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=draws)  # (D, N)
    weights = np.concatenate([np.ones((1, count), dtype=np.int64), drawn])  # the first: as it is
    measured = {name: _measure(values, wrong, weights) for name, values in scores.items()}
    base = measured[reference][1]
    return {
        name: Quality(
            auroc=None if np.isnan(areas[0]) else float(areas[0]),
            auroc_interval=_interval(areas[1:]),
            aurc=float(risks[0]),
            aurc_interval=_interval(risks[1:]) or Interval(0.0, 1.0),
            gain=float(base[0] - risks[0]),
            gain_interval=_interval((base - risks)[1:]) or Interval(-1.0, 1.0),
        )
        for name, (areas, risks) in measured.items()
    }


def curve_of(scores: Floats, wrong: Flags) -> Curve:
    """Give a score's curves. Shapes: both (N,), N >= 1."""
    _, accepted, failed = _grouped(scores, wrong, np.ones((1, len(wrong)), dtype=np.int64))
    took = np.concatenate([[0], accepted[0].cumsum()]).astype(np.float64)
    bad = np.concatenate([[0], failed[0].cumsum()]).astype(np.float64)
    good = took - bad
    return Curve(
        coverage=took / len(wrong),
        risk=bad / np.maximum(took, 1.0),
        kept=good / max(good[-1], 1.0),
        let_through=bad / max(bad[-1], 1.0),
    )


def _measure(scores: Floats, wrong: Flags, weights: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    # AUROC and AURC of each row of weights: (D,), (D,)
    _, took, bad = _grouped(scores, wrong, weights)  # (D, G) each
    good = took - bad
    all_took, all_bad, all_good = (part.cumsum(axis=1) for part in (took, bad, good))
    wins = (bad * (all_good - good / 2.0)).sum(axis=1)
    pairs = all_good[:, -1] * all_bad[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = np.where(pairs > 0, wins / pairs, np.nan)
        share = np.where(took > 0, bad / took, 0.0)  # wrong among those alike
    # Within a group the k-th from its start has risk (before + k * share) / (start + k).
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, weights[0].size + 1))])
    start, before = all_took - took, all_bad - bad
    steps = harmonic[all_took] - harmonic[start]
    risks = (took * share + (before - share * start) * steps).sum(axis=1) / weights[0].size
    return areas, risks


def _grouped(
    scores: Floats, wrong: Flags, weights: npt.NDArray[np.int64]
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    # Distinct scores, the best first (G,); how many have each, and how many of those are wrong.
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    drawn = weights[:, order]
    took = np.add.reduceat(drawn, starts, axis=1)
    bad = np.add.reduceat(drawn * wrong[order], starts, axis=1)
    return ranked[starts], took, bad


def _interval(values: Floats) -> Interval | None:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return None
    low, high = np.quantile(known, (0.025, 0.975))
    return Interval(float(low), float(high))
