"""Are the scores still those that the threshold was calibrated on? Tested window by window.

It refuses to know what the scores are of. Scores are counted between quantiles of the calibration's
own; however long it watches, its alarm is false with at most the stated probability. The state has
a fixed size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from speceyes.calibration.bounds import check_share
from speceyes.errors import ConfigError

BINS: Final = 10
_ZETA_2: Final = math.pi**2 / 6.0
_SMOOTH: Final = 0.5  # added to each count, so that an empty bin has a ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """How the calibration's scores fell: counts between edges, which rise.

    Raises: ConfigError naming the field.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    window: int = 500
    false_alarm: float = 0.05

    def __post_init__(self) -> None:
        check_share("drift.false_alarm", self.false_alarm)
        if len(self.counts) != len(self.edges) + 1:
            raise ConfigError("drift.counts", "are not one more than the edges; calibrate again")
        if list(self.edges) != sorted(set(self.edges)):
            raise ConfigError("drift.edges", "do not rise; give scores in order")
        if self.window < 1:
            raise ConfigError("drift.window", f"{self.window} is below 1")


@dataclass(frozen=True, slots=True)
class Drift:
    """The state of a drift test: the counts of the window under way, and what was found before.

    `psi`: of the last whole window, how far it lies from the reference; None before the first.
    """

    reference: Reference
    windows: int = 0
    counts: tuple[int, ...] = ()
    log_evidence: float = 0.0
    psi: float | None = None
    alarmed_in: int | None = None

    @property
    def is_alarmed(self) -> bool:
        """Whether the scores were found to fall otherwise than the reference's."""
        return self.alarmed_in is not None


def reference_of(
    scores: Sequence[float], *, bins: int = BINS, window: int = 500, false_alarm: float = 0.05
) -> Reference:
    """Count a calibration's scores between its own quantiles; alike ones share a bin."""
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        return Reference(edges=(), counts=(0,), window=window, false_alarm=false_alarm)
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Reference(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        window=window,
        false_alarm=false_alarm,
    )


def observe(drift: Drift, score: float) -> Drift:
    """Fold one score into the test.

    Evidence of a window, at any time within it:
    the probability of reference and window, each by a mixture of its own (Krichevsky and Trofimov),
    over the greatest that any one distribution gives to both together. If they are from one, it
    reaches 1 / d with probability at most d; window w is given d = false_alarm * 6 / (pi w)^2, so
    that all windows together stay within false_alarm.
    Source: Wasserman, Ramdas and Balakrishnan 2020, PNAS 117 (universal inference).
    """
    reference = drift.reference
    place = sum(score > edge for edge in reference.edges)
    counts = list(drift.counts or (0,) * len(reference.counts))
    counts[place] += 1
    evidence = _log_evidence(reference.counts, counts)
    window = drift.windows + 1
    limit = math.log(_ZETA_2 * window**2 / reference.false_alarm)
    alarmed = drift.alarmed_in
    if alarmed is None and evidence >= limit:
        alarmed = window
    if sum(counts) < reference.window:
        return replace(drift, counts=tuple(counts), log_evidence=evidence, alarmed_in=alarmed)
    return Drift(
        reference=reference,
        windows=window,
        counts=(),
        log_evidence=evidence,
        psi=stability_index(reference.counts, counts),
        alarmed_in=alarmed,
    )


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """Measure how far two counts over the same bins lie apart: the population stability index.

    PSI = sum of (p - q) * ln(p / q). Below .1 is taken for stable, above .25 for another
    distribution; it says how far, not whether by chance.

    >>> round(stability_index((50, 50), (50, 50)), 3), round(stability_index((50, 50), (90, 10)), 2)
    (0.0, 0.85)
    """
    p, q = _shares(expected), _shares(found)
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    whole = sum(counts) + _SMOOTH * len(counts)
    return [(count + _SMOOTH) / whole for count in counts]


def _log_evidence(reference: Sequence[int], window: Sequence[int]) -> float:
    pooled = [a + b for a, b in zip(reference, window, strict=True)]
    whole = sum(pooled)
    greatest = math.fsum(n * math.log(n / whole) for n in pooled if n)
    return _log_mixture(reference) + _log_mixture(window) - greatest


def _log_mixture(counts: Sequence[int]) -> float:
    # The probability of these counts, in one order, under a Dirichlet(1/2, ..., 1/2) prior.
    half = len(counts) / 2.0
    each = math.fsum(math.lgamma(count + 0.5) - math.lgamma(0.5) for count in counts)
    return math.lgamma(half) - math.lgamma(half + sum(counts)) + each
