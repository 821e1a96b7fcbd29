"""Two thresholds with one risk: for what is answered at first sight, and after a closer look.

It refuses to know models, items and what counts as a failure. A run shows only what came before its
gates accepted: what stricter ones would have led to is not known, and counts as a failure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from speceyes.calibration.bounds import (
    Estimate,
    check_share,
    estimate,
    most_failures,
    upper_bound,
)
from speceyes.calibration.thresholds import (
    FOLDS,
    Flags,
    Floats,
    Observed,
    closed,
    lowest,
    midway,
    needed_count,
)
from speceyes.gate import GateSpec

METHOD_OF_TWO: Final = (
    "Learn then Test, fixed sequence: the first gate from the strictest threshold to the run's, "
    "then the closer one's; Clopper-Pearson"
)


@dataclass(frozen=True, slots=True)
class Gates:
    """The gate of what is answered at first sight, and that of what is after a closer look."""

    first: GateSpec
    closer: GateSpec

    @property
    def closer_is_shut(self) -> bool:
        """Whether nothing is accepted after a look."""
        return self.closer.threshold >= closed(self.closer).threshold


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a run shows of each query whose small model may look closer.

    `first` is of the answers at first sight; `scores` and `failed` are of those after a look, in
    order: -inf where there is none, or none that could be scored. `unseen`: the run accepted before
    all looks were taken, so nobody knows what the others would have shown.
    Shapes: first (N,), scores and failed (N, D), unseen (N,); D is the depth.
    """

    first: Observed
    scores: Floats
    failed: Flags
    unseen: Flags

    def __len__(self) -> int:
        return len(self.first)

    def take(self, chosen: Flags) -> Looked:
        """Keep some of the queries. Shapes: chosen (N,)."""
        kept = self.scores[chosen], self.failed[chosen], self.unseen[chosen]
        return Looked(self.first.take(chosen), *kept)

    def outcome(self, gates: Gates) -> Outcome:
        """Say what two gates would have made of each query, as far as the run tells."""
        at_first = self.first.accepted(gates.first)
        over = gates.closer.passes(self.scores)  # (N, D)
        closer = ~at_first & over.any(axis=1)
        unknown = np.zeros_like(at_first)
        if not gates.closer_is_shut:
            unknown = ~at_first & ~closer & self.unseen
        which = over.argmax(axis=1)[:, None] if over.shape[1] else np.zeros((len(self), 0), int)
        after = np.take_along_axis(self.failed, which, axis=1).any(axis=1)
        failed = (at_first & self.first.failed) | (closer & after) | unknown
        return Outcome(at_first, closer, unknown, failed)

    def risk(self, gates: Gates, *, confidence: float = 0.95) -> Estimate:
        """Count accepted failures, as a share of all queries, under gates not chosen on them."""
        failures = int(self.outcome(gates).failed.sum())
        return estimate(failures, len(self), confidence=confidence)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Which queries were accepted where, and which count as failures. Shapes: all (N,).

    `unknown`: more looks would have been taken than the run has; each counts as a failure.
    """

    at_first: Flags
    closer: Flags
    unknown: Flags
    failed: Flags


@dataclass(frozen=True, slots=True)
class ChoiceOfTwo:
    """Two gates that were chosen together, and what is certain of both; as `thresholds.Choice`."""

    gates: Gates
    failures: int
    at_first: int
    closer: int
    count: int
    bound: float
    needed: int | None

    @property
    def accepted(self) -> int:
        """How many queries were accepted, wherever."""
        return self.at_first + self.closer


def choose_two(looked: Looked, own: Gates, *, max_loss: float, confidence: float) -> ChoiceOfTwo:
    """Choose the loosest gates on a line whose risk is below `max_loss`, with this confidence.

    risk(s, t) = P(a query is accepted, at first sight at s or after a look at t, and fails).
    The line begins where nothing is accepted. It lowers the first threshold to the run's own with
    the closer gate shut, and then, with the first one kept, the closer gate's; that one begins at
    the run's own where the depth is above 1, for what is known above it is not enough. Each point
    is tested by the exact binomial test of "the risk is at least max_loss", and the last one before
    the first that is not rejected is taken. The line is fixed without a look at what failed, so
    P(risk > max_loss) <= 1 - confidence, whether or not the risk grows all along it.
    Source: Angelopoulos et al. 2021, arXiv 2110.01052 (fixed sequence testing).
    Raises: ConfigError naming the share that is none.
    """
    check_share("max_loss", max_loss)
    check_share("confidence", confidence)
    count = len(looked)
    allowed = most_failures(count, max_share=max_loss, confidence=confidence)
    gates = shut(own) if allowed is None else farthest(looked, own, allowed=allowed)
    found = looked.outcome(gates)
    failures = int(found.failed.sum())
    return ChoiceOfTwo(
        gates=gates,
        failures=failures,
        at_first=int(found.at_first.sum()),
        closer=int(found.closer.sum()),
        count=count,
        bound=upper_bound(failures, count, confidence=confidence) if count else 1.0,
        needed=None if allowed is not None else needed_count(max_loss, confidence),
    )


def shut(own: Gates) -> Gates:
    """Give gates that accept nothing."""
    return Gates(closed(own.first), closed(own.closer))


def farthest(looked: Looked, own: Gates, *, allowed: int) -> Gates:
    """Give the last gates on the line before the first that accept more failures than these."""
    first = looked.first
    passed = first.accepted(own.first)
    taken = int((passed & first.failed).sum())
    if taken > allowed:
        seen = Observed(first.scores, passed, first.failed)
        return Gates(lowest(seen, own.first, allowed=allowed), closed(own.closer))
    left = looked.take(~passed)
    return Gates(own.first, _lowest_closer(left, own.closer, allowed=allowed - taken))


def cross_fitted_two(
    looked: Looked, own: Gates, *, max_loss: float, confidence: float
) -> Estimate | None:
    """Estimate the risk of both on data that had no part in choosing, as `cross_fitted` does."""
    count = len(looked)
    allowed = most_failures(count, max_share=max_loss, confidence=confidence)
    if count < FOLDS or allowed is None:
        return None
    fold = np.arange(count) % FOLDS
    failures = 0
    for one in range(FOLDS):
        others = looked.take(fold != one)
        made = farthest(others, own, allowed=int(allowed * len(others) / count))
        failures += looked.take(fold == one).risk(made).count
    return estimate(failures, count, confidence=confidence)


def _lowest_closer(left: Looked, own: GateSpec, *, allowed: int) -> GateSpec:
    # As the threshold falls, an answer is accepted once its own score is reached, and gives way
    # once that of an earlier one is, which was below it.
    scores, failed = left.scores, left.failed  # (N, D)
    known = np.isfinite(scores)
    distinct = np.unique(scores[known])  # (S,) ascending
    if distinct.size == 0:
        return closed(own)
    before = np.full_like(scores, -np.inf)
    before[:, 1:] = np.maximum.accumulate(scores, axis=1)[:, :-1]
    counted = known & failed & (scores > before)
    gives_way = counted & np.isfinite(before)
    changes = np.zeros(distinct.size + 1, dtype=np.int64)  # (S + 1,): the last, before any
    np.add.at(changes, np.searchsorted(distinct, scores[counted]), 1)
    np.subtract.at(changes, np.searchsorted(distinct, before[gives_way]), 1)
    failures = changes[::-1].cumsum()[::-1]  # (S + 1,) where all from there on are accepted
    start = distinct.size
    if scores.shape[1] > 1:
        start = int((~own.passes(distinct)).sum())
    fits = failures[start::-1] <= allowed  # along the line
    passed = int(fits.argmin()) if not fits.all() else fits.size
    if passed == 0:
        return closed(own)
    last = start - passed + 1
    if last == start:
        return own if scores.shape[1] > 1 else closed(own)
    return replace(own, threshold=midway(distinct, last))
