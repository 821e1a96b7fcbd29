"""All workers' shadows of a route are put together here, as one.

It refuses to know engines, clocks and how shadow work is run.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from speceyes.calibration.audit import anytime_estimate
from speceyes.shadow.settings import ShadowMode
from speceyes.shadow.watch import DriftFrom, ShadowState, Watched


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A share, None before there is one, and where it lies at all times, with a confidence."""

    value: float | None
    low: float
    high: float


class Shadowed(msgspec.Struct, frozen=True, kw_only=True):
    """All workers' shadows of a route. `disagreement` is of what was accepted, `risk` of all.

    `threshold`, `wealth` and `psi` are the greatest of any worker; `states` and `drifted` count
    workers.
    """

    mode: ShadowMode
    states: dict[ShadowState, int]
    threshold: float
    max_loss: float
    confidence: float
    queries: int
    accepted: int
    checked: int
    differing: int
    disagreement: Range
    risk: float | None
    wealth: float
    limit: float
    drift_from: DriftFrom
    psi: float | None
    drifted: int


def put_together(parts: Sequence[Watched]) -> Shadowed:
    """Make one of all workers' watches of a route, of which there is at least one."""
    first = parts[0]
    states: dict[ShadowState, int] = {}
    for part in parts:
        states[part.state] = states.get(part.state, 0) + 1
    queries, accepted, compared, differing = (
        sum(getattr(part, name) for part in parts)
        for name in ("queries", "accepted", "checked", "differing")
    )
    found = anytime_estimate(differing, compared, confidence=first.confidence)
    share = differing / compared if compared else None
    return Shadowed(
        mode=first.mode,
        states=states,
        threshold=max(part.threshold for part in parts),
        max_loss=first.max_loss,
        confidence=first.confidence,
        queries=queries,
        accepted=accepted,
        checked=compared,
        differing=differing,
        disagreement=Range(value=share, low=found.low, high=found.high),
        risk=None if share is None or not queries else share * accepted / queries,
        wealth=max(part.wealth for part in parts),
        limit=max(part.limit for part in parts),
        drift_from=first.drift_from,
        psi=max((part.psi for part in parts if part.psi is not None), default=None),
        drifted=sum(part.has_drifted for part in parts),
    )
