"""The lowest threshold whose risk is below a limit, with a stated confidence, is found here.

It refuses to know models, items and what counts as a failure: scores and failures in, a threshold
out. With too little data nothing is accepted, and it says how much would do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from speceyes.calibration.bounds import (
    Estimate,
    check_share,
    estimate,
    least_count,
    most_failures,
    upper_bound,
)
from speceyes.gate import GateSpec

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

METHOD: Final = "Learn then Test, fixed sequence from the strictest threshold, Clopper-Pearson"
# Above what any sound evidence scores: rivals fall at most 9000 nats (beyond that they are masked)
# and the divisor is at least eps, 1e-6; the other scales are probabilities.
_OUT_OF_REACH: Final = 1e10
_LIKELY_SHARE: Final = 0.5  # of the limit: what fails is guessed at, to say how much data would do
FOLDS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What is known of each query, whatever the threshold.

    Shapes: all (N,). `scores`: -inf where there is none; `may_pass`: it was screened and could be
    scored; `failed`: its small answer, were it accepted, would be a failure.
    """

    scores: Floats
    may_pass: Flags
    failed: Flags

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Flags) -> Observed:
        """Keep some of the queries. Shapes: chosen (N,)."""
        return Observed(self.scores[chosen], self.may_pass[chosen], self.failed[chosen])

    def accepted(self, spec: GateSpec) -> Flags:
        """Say which queries a gate would accept. Shapes: returns (N,)."""
        passed: Flags = self.may_pass & spec.passes(self.scores)
        return passed

    def risk(self, spec: GateSpec, *, confidence: float = 0.95) -> Estimate:
        """Count accepted failures, as a share of all queries, at a threshold not chosen on them."""
        count = int((self.accepted(spec) & self.failed).sum())
        return estimate(count, len(self), confidence=confidence)


@dataclass(frozen=True, slots=True)
class Choice:
    """A gate that was chosen, and what is certain of it.

    `failures` of `count` queries were accepted and failed; `bound` is above the true share of them
    with the confidence asked for. `needed`: how many queries would do if about half as many failed
    as may; None where the data did.
    """

    spec: GateSpec
    failures: int
    accepted: int
    count: int
    bound: float
    needed: int | None

    @property
    def accepts_nothing(self) -> bool:
        """Whether the gate is closed, for want of data or of a score that tells."""
        return self.spec.threshold >= closed(self.spec).threshold


def choose(observed: Observed, spec: GateSpec, *, max_loss: float, confidence: float) -> Choice:
    """Choose the lowest threshold at which the risk is below `max_loss`, with this confidence.

    risk(t) = P(a query is accepted at t, and fails), over all queries.
    From the strictest threshold on, each is tested by the exact binomial test of "the risk is at
    least max_loss"; the last one before the first that is not rejected is taken. As risk only
    grows on the way down, the order is fixed beforehand, and P(risk > max_loss) <= 1 - confidence.
    Source: Angelopoulos et al. 2021, arXiv 2110.01052 (fixed sequence testing); Bates et al. 2021,
    arXiv 2101.02703 (for all thresholds at once, where risk is monotone).
    Raises: ConfigError naming the share that is none.
    """
    check_share("max_loss", max_loss)
    check_share("confidence", confidence)
    count = len(observed)
    allowed = most_failures(count, max_share=max_loss, confidence=confidence)
    needed = None if allowed is not None else needed_count(max_loss, confidence)
    chosen = closed(spec) if allowed is None else lowest(observed, spec, allowed=allowed)
    accepted = observed.accepted(chosen)
    failures = int((accepted & observed.failed).sum())
    return Choice(
        spec=chosen,
        failures=failures,
        accepted=int(accepted.sum()),
        count=count,
        bound=upper_bound(failures, count, confidence=confidence) if count else 1.0,
        needed=needed,
    )


def lowest(observed: Observed, spec: GateSpec, *, allowed: int) -> GateSpec:
    """Give the gate the lowest threshold that accepts at most so many failures.

    Midway between the scores on both sides of it, so that rounding moves nothing across; and never
    below all that was ever seen.
    """
    scores = observed.scores[observed.may_pass]
    if scores.size == 0:
        return closed(spec)
    distinct, place = np.unique(scores, return_inverse=True)  # (S,) ascending
    failures = np.bincount(place, weights=observed.failed[observed.may_pass])  # (S,)
    accepted_failures = failures[::-1].cumsum()[::-1]  # (S,) of all scored at least so much
    fitting = np.flatnonzero(accepted_failures <= allowed)
    if fitting.size == 0:
        return closed(spec)
    return replace(spec, threshold=midway(distinct, int(fitting[0])))


def midway(distinct: Floats, least: int) -> float:
    """Give a threshold between a score and the one below it; below all, hardly less than the least.

    Shapes: distinct (S,), ascending.
    """
    below = distinct[least - 1] if least else np.nextafter(distinct[0], -np.inf)
    middle = float(below + (distinct[least] - below) / 2.0)
    return middle if below < middle < distinct[least] else float(below)


def closed(spec: GateSpec) -> GateSpec:
    """Give the gate a threshold that no sound evidence reaches: it accepts nothing."""
    is_share = spec.scale == "squashed" or spec.aggregation == "log"
    limit = 1.0 if is_share else _OUT_OF_REACH
    return replace(spec, threshold=limit if spec.strict else float(np.nextafter(limit, np.inf)))


def cross_fitted(
    observed: Observed, spec: GateSpec, *, max_loss: float, confidence: float
) -> Estimate | None:
    """Estimate the risk on data that had no part in choosing: each fifth by the other four.

    Query i is of fold i mod 5. The limit on failures is the whole's, in proportion, so that each
    threshold is about the one that is given out. None if there are fewer than five queries.
    """
    count = len(observed)
    allowed = most_failures(count, max_share=max_loss, confidence=confidence)
    if count < FOLDS or allowed is None:
        return None
    fold = np.arange(count) % FOLDS
    failures = 0
    for one in range(FOLDS):
        others = observed.take(fold != one)
        part = int(allowed * len(others) / count)
        made = lowest(others, spec, allowed=part)
        failures += observed.take(fold == one).risk(made).count
    return estimate(failures, count, confidence=confidence)


def needed_count(max_loss: float, confidence: float) -> int | None:
    """Say how many queries would do if half as many failed as may; None: no number would."""
    return least_count(max_loss, confidence=confidence, share=_LIKELY_SHARE * max_loss)
