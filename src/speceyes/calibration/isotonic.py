"""How probable is it that an answer with this score is wrong? Read off a curve that only falls.

It refuses to know what the scores are of. The curve is the isotonic regression of what was seen:
steps, as few as the data asks for.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from speceyes.calibration.thresholds import Flags, Floats
from speceyes.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Reading:
    """A falling step function: from `scores[i]` on, `p_wrong[i]` of the answers were wrong.

    Invariants: scores rise, p_wrong falls, both equally long; below the first score its value
    counts. Raises: ConfigError if not.
    """

    scores: tuple[float, ...]
    p_wrong: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.p_wrong) == len(self.counts):
            raise ConfigError("reading", "its columns differ in length; calibrate again")
        if list(self.scores) != sorted(set(self.scores)):
            raise ConfigError("reading.scores", "do not rise; calibrate again")
        if list(self.p_wrong) != sorted(self.p_wrong, reverse=True):
            raise ConfigError("reading.p_wrong", "rises somewhere; calibrate again")

    def at(self, score: float) -> float | None:
        """Read a score; None if nothing was seen to read it by."""
        if not self.scores:
            return None
        return self.p_wrong[max(0, bisect_right(self.scores, score) - 1)]


def fit(scores: Floats, wrong: Flags) -> Reading:
    """Fit p(wrong | score), falling: pool adjacent violators. Shapes: both (N,), scores finite.

    Invariants: the mean of what is read equals the share that was wrong.
    Source: Ayer et al. 1955, Annals of Mathematical Statistics 26.

    >>> fit(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])).p_wrong
    (1.0, 0.5, 0.0)
    """
    distinct, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(distinct))
    failures = np.bincount(place, weights=wrong, minlength=len(distinct))
    pools: list[tuple[float, float, int]] = []  # (first score, failures, count)
    for score, failed, count in zip(
        distinct.tolist(), failures.tolist(), counts.tolist(), strict=True
    ):
        pool = (score, failed, count)
        while pools and pools[-1][1] * pool[2] <= pool[1] * pools[-1][2]:
            first, failed_before, count_before = pools.pop()
            pool = (first, failed_before + pool[1], count_before + pool[2])
        pools.append(pool)
    return Reading(
        scores=tuple(score for score, _, _ in pools),
        p_wrong=tuple(failed / count for _, failed, count in pools),
        counts=tuple(count for _, _, count in pools),
    )
