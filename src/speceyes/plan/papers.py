"""Are the paper's speedups those of its own formula? Its tables are fitted, and the rest foretold.

It refuses to know files: tables come in, residuals go out. Alpha and beta are not published; what
can be inferred from speedups alone are the shares and costs that the formula is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Foretold:
    """One published speedup beside the formula's; `is_fitted`: it took part in the fit."""

    at: str
    published: float
    foretold: float
    is_fitted: bool

    @property
    def residual(self) -> float:
        """How far the formula is off, as a share of what was published."""
        return self.foretold / self.published - 1.0


@dataclass(frozen=True, slots=True)
class BatchFit:
    """1 / speedup(b) = rest + front / b.

    `rest`: 1 - beta * alpha, with what of the front cannot be batched; `front`: c_J + beta * c_S of
    one query alone. Both in units of the agent's loop.
    """

    name: str
    rest: float
    front: float
    points: tuple[Foretold, ...]


@dataclass(frozen=True, slots=True)
class PairFit:
    """1 / speedup under one agent as a line in that under another, threshold by threshold.

    Both screen different shares, and pay different fronts, but the same small model's scores pass
    the same thresholds: front_1 + 1 - beta_1 * alpha(t) against front_2 + 1 - beta_2 * alpha(t).
    If the formula holds, one is a line in the other, with slope beta_1 / beta_2.
    """

    name: str
    slope: float
    start: float
    points: tuple[Foretold, ...]


def fit_batches(
    name: str, batches: Sequence[int], speedups: Sequence[float], *, fitted: Sequence[int] = ()
) -> BatchFit:
    """Fit rest and front to some batch sizes (all, if none is named), and foretell the others.

    Batch 0 is the baseline and takes no part. Least squares of 1 / speedup in 1 / b.
    """
    known = [(b, s) for b, s in zip(batches, speedups, strict=True) if b > 0]
    chosen = [(b, s) for b, s in known if b in fitted] or known
    front, rest = _line([1.0 / b for b, _ in chosen], [1.0 / s for _, s in chosen])
    points = tuple(
        Foretold(f"batch {b}", s, 1.0 / (rest + front / b), is_fitted=(b, s) in chosen)
        for b, s in known
    )
    return BatchFit(name, rest, front, points)


def fit_pair(name: str, thresholds: Sequence[float], speedups: Pair) -> PairFit:
    """Fit the second agent's slowness to the first's, leaving out each threshold in turn.

    What is foretold for a threshold is by the line through the others.
    """
    across, along = ([1.0 / s for s in side] for side in speedups)
    slope, start = _line(across, along)
    points = []
    for place, threshold in enumerate(thresholds):
        tilt, foot = _line(_without(across, place), _without(along, place))
        foretold = 1.0 / (foot + tilt * across[place])
        published = speedups[1][place]
        points.append(Foretold(f"threshold {threshold:g}", published, foretold, is_fitted=False))
    return PairFit(name, slope, start, tuple(points))


def fit_published(tables: Mapping[str, Any]) -> tuple[list[BatchFit], list[PairFit]]:
    """Fit the paper's batch ablation, from its smallest and largest batch, and both agents."""
    batches, pairs = [], []
    for suite, table in tables["batch_ablation"]["deepeyes"].items():
        sizes = table["batch"]
        ends = (min(b for b in sizes if b > 0), max(sizes))
        batches += [
            fit_batches(f"{suite}/{split}", sizes, table[split], fitted=ends)
            for split in table
            if split != "batch"
        ]
    first, second = (tables["threshold_ablation"][agent] for agent in ("deepeyes", "thyme"))
    for suite in first:
        steps = [step for step in first[suite]["thresholds"] if step != "baseline"]
        for split in (name for name in first[suite] if name != "thresholds"):
            speeds = [side[suite][split]["speedup"][-len(steps) :] for side in (first, second)]
            pairs.append(fit_pair(f"{suite}/{split}", steps, (speeds[0], speeds[1])))
    return batches, pairs


def mean_residual(points: Sequence[Foretold]) -> float | None:
    """Average how far off what was foretold, and not fitted, is; None if all was fitted."""
    off = [abs(point.residual) for point in points if not point.is_fitted]
    return sum(off) / len(off) if off else None


def _line(across: Sequence[float], along: Sequence[float]) -> tuple[float, float]:
    x, y = np.asarray(across), np.asarray(along)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread else 0.0
    return slope, float(y.mean()) - slope * float(x.mean())


def _without(values: Sequence[float], place: int) -> list[float]:
    return [value for index, value in enumerate(values) if index != place]
