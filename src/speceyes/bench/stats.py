"""Figures come with intervals here: shares, paired differences, ratios, ranks and densities.

It refuses to know what was measured. Randomness is an argument; what cannot be said is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Z_95: Final = 1.959963984540054
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The range that holds the true figure with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many."""

    successes: int
    count: int

    @classmethod
    def of(cls, successes: Sequence[bool]) -> Share:
        """Count what came out true."""
        return cls(sum(successes), len(successes))

    @property
    def value(self) -> float | None:
        """The share, or None if nothing was counted."""
        return self.successes / self.count if self.count else None

    @property
    def interval(self) -> Interval | None:
        """Its 95 % interval, after Wilson."""
        return wilson(self.successes, self.count)


def wilson(successes: int, count: int, *, z: float = Z_95) -> Interval | None:
    """Bound a share that was `successes` of `count`: Wilson's score interval.

    Range: within 0..1, never of zero width. None if nothing was counted.
    Source: Wilson 1927.

    >>> interval = wilson(9, 10)
    >>> None if interval is None else (round(interval.low, 3), round(interval.high, 3))
    (0.596, 0.982)
    """
    if count == 0:
        return None
    share, shrink = successes / count, z * z / count
    centre = (share + shrink / 2) / (1 + shrink)
    reach = z / (1 + shrink) * math.sqrt(share * (1 - share) / count + shrink / (4 * count))
    # At the ends the bounds are exact, where rounding would miss them by an ulp.
    low = 0.0 if successes == 0 else centre - reach
    return Interval(low, 1.0 if successes == count else centre + reach)


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Interval | None:
    """Bound share(first) - share(second), both measured on the same items.

    Range: within -1..1, never of zero width. None if nothing was counted.
    Source: Newcombe 1998, Statistics in Medicine 17, method 10 (hybrid score, with correction).
    """
    both = sum(a and b for a, b in zip(first, second, strict=True))
    count, left, right = len(first), sum(first), sum(second)
    one, two = wilson(left, count), wilson(right, count)
    if one is None or two is None:
        return None
    phi = _agreement(both, (left, right), count)
    p, q = left / count, right / count
    below = _joined(p - one.low, two.high - q, phi)
    above = _joined(one.high - p, q - two.low, phi)
    return Interval(max(-1.0, p - q - below), min(1.0, p - q + above))


def ratio_of_sums(
    above: Sequence[float], below: Sequence[float], *, rng: np.random.Generator, draws: int = 4000
) -> Interval | None:
    """Bound sum(above) / sum(below) by resampling the units, each with its pair of values.

    Shapes: both (N,). None if there are fewer than two units, or a sum of zero.
    """
    pairs = np.array([above, below], dtype=np.float64)  # (2, N)
    count = pairs.shape[1]
    if count < 2 or not pairs[1].any():
        return None
    drawn = rng.integers(count, size=(draws, count))
    sums = pairs[:, drawn].sum(axis=2)  # (2, draws)
    ratios = sums[0][sums[1] > 0] / sums[1][sums[1] > 0]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(float(low), float(high))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Measure how well scores tell two groups apart: P(positive > negative), ties count half.

    Range: 0..1; .5 is chance. None if a group is empty.

    >>> auroc([3.0, 2.0], [2.0, 1.0])
    0.875
    """
    if not positive or not negative:
        return None
    ordered = np.sort(np.asarray(negative, dtype=np.float64))
    ours = np.asarray(positive, dtype=np.float64)
    below = np.searchsorted(ordered, ours, side="left")
    not_above = np.searchsorted(ordered, ours, side="right")
    return float((below + not_above).sum() / (2 * len(positive) * len(negative)))


def density(values: Sequence[float], grid: Floats, *, bandwidth: float | None = None) -> Floats:
    """Smooth values into a density over a grid: Gaussian kernels, Silverman's bandwidth.

    Shapes: grid (G,) ascending; returns (G,), zeros if there is no value. Values that are all
    alike get a bandwidth of one hundredth of the grid, so that they stay visible.
    """
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0:
        return np.zeros_like(grid)
    width = bandwidth or _silverman(points) or float(grid[-1] - grid[0]) / 100 or 1.0
    distance = (grid[:, None] - points[None, :]) / width  # (G, N)
    kernels: Floats = np.exp(-0.5 * distance**2).sum(axis=1)
    return kernels / (points.size * width * math.sqrt(2 * math.pi))


def quantile(values: Sequence[float], share: float) -> float | None:
    """Give the value below which a share of the values lies; None if there are none."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share)) if values else None


def mean(values: Sequence[float]) -> float | None:
    """Average the values; None if there are none."""
    return float(np.mean(np.asarray(values, dtype=np.float64))) if values else None


def _silverman(points: Floats) -> float:
    quartiles = np.quantile(points, (0.25, 0.75))
    spreads = [s for s in (float(points.std()), float(quartiles[1] - quartiles[0]) / 1.34) if s > 0]
    return 0.9 * min(spreads) * points.size**-0.2 if spreads else 0.0


def _agreement(both: int, counts: tuple[int, int], count: int) -> float:
    # The phi coefficient of the 2x2 table; positive agreement is corrected towards zero.
    left, right = counts
    neither = count - left - right + both
    product = left * (count - left) * right * (count - right)
    if product == 0:
        return 0.0
    cross = float(both * neither - (left - both) * (right - both))
    if cross > 0:
        cross = max(0.0, cross - count / 2)
    return cross / math.sqrt(product)


def _joined(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))
