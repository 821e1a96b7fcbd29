"""What a route's shadow work has shown is folded here: does its risk hold, do its scores?

It refuses to know engines, clocks and how shadow work is run. A broken bound changes the gate in
force, if the settings say so; it never lowers a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import msgspec

from speceyes.calibration import audit as audits
from speceyes.calibration import drift as drifts
from speceyes.calibration.audit import Audit, AuditSpec, Seen, anytime_estimate
from speceyes.calibration.drift import Drift
from speceyes.calibration.thresholds import closed
from speceyes.gate import SQUASH_SLOPE, GateSpec
from speceyes.gateway.settings import ShadowMode, ShadowSettings

ShadowState: TypeAlias = Literal["watching", "broken", "tightened", "off"]
"""`broken`: the bound is, and the route goes on as it was. `off`: nothing is accepted any more."""

_STEPS: Final = 12
_RAW_STEP: Final = math.log(2.0) / SQUASH_SLOPE  # of a raw score: what halves 1 - squash(score)
_LEAST_WINDOW: Final = 2000
_WINDOWS: Final = 6.0  # so many hits, were the risk just what may be, that tightening looks back on


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A route's shadow in one worker; its size is fixed.

    `gate` is the one in force. `first`: the scores so far, until there are enough for a reference.
    """

    settings: ShadowSettings
    gate: GateSpec
    audit: Audit
    workers: int = 1
    drift: Drift | None = None
    first: tuple[float, ...] = ()
    state: ShadowState = "watching"


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has to show of a route's shadow, since its gate last changed.

    `wealth` raises the alarm at `limit`. `psi` says how far the last window's scores lie from the
    first ones; `has_drifted`: farther than chance explains.
    """

    mode: ShadowMode
    state: ShadowState
    threshold: float
    max_loss: float
    confidence: float
    queries: int = 0
    accepted: int = 0
    checked: int = 0
    differing: int = 0
    wealth: float = 0.0
    limit: float = 0.0
    psi: float | None = None
    has_drifted: bool = False


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
    psi: float | None
    drifted: int


def begin(settings: ShadowSettings, gate: GateSpec, *, workers: int = 1) -> Watch:
    """Begin to watch. Workers watch for themselves, and share the false alarms that may be."""
    share = settings.share if settings.mode == "audit" else 1.0
    spec = AuditSpec(
        max_loss=settings.max_loss,
        share=share,
        false_alarm=settings.false_alarm / workers,
        edges=edges_above(gate),
        window=max(_LEAST_WINDOW, math.ceil(_WINDOWS / (settings.max_loss * share))),
    )
    return Watch(settings=settings, gate=gate, audit=Audit(spec), workers=workers)


def edges_above(gate: GateSpec) -> tuple[float, ...]:
    """Lay out the thresholds that a gate may be tightened to, its own first.

    Each halves what is left to certainty: 1 - t for a share, 1 - sigmoid(0.6 t) for a raw score.

    >>> edges_above(GateSpec(threshold=0.5, k=16, scale="squashed"))[:4]
    (0.5, 0.75, 0.875, 0.9375)
    """
    least = gate.threshold
    if gate.scale == "squashed" or gate.aggregation == "log":
        steps = (1.0 - (1.0 - least) / 2.0**step for step in range(_STEPS))
    else:
        steps = (least + _RAW_STEP * step for step in range(_STEPS))
    return tuple(sorted(set(steps)))


def checked(watch: Watch, seen: Seen) -> Watch:
    """Fold one query into the audit, and answer a bound that breaks as the settings say.

    A query accepted under a gate that has since been tightened counts as what it would be now.
    """
    if seen.score is not None and not passes(seen.score, watch.gate):
        seen = Seen()
    was_alarmed = watch.audit.is_alarmed
    watch = replace(watch, audit=audits.observe(watch.audit, seen))
    return watch if was_alarmed or not watch.audit.is_alarmed else _answered(watch)


def scored(watch: Watch, score: float) -> Watch:
    """Fold one score, accepted or not, into the test for drift."""
    if watch.drift is not None:
        return replace(watch, drift=drifts.observe(watch.drift, score))
    first = (*watch.first, score)
    wanted = watch.settings.drift_after
    if len(first) < wanted:
        return replace(watch, first=first)
    allowed = watch.settings.false_alarm / watch.workers
    reference = drifts.reference_of(first, window=wanted, false_alarm=allowed)
    return replace(watch, first=(), drift=Drift(reference))


def passes(score: float, gate: GateSpec) -> bool:
    """Say if a gate lets a score pass."""
    return score > gate.threshold if gate.strict else score >= gate.threshold


def watched(watch: Watch) -> Watched:
    """Put a watch in short."""
    audit, drift = watch.audit, watch.drift
    return Watched(
        mode=watch.settings.mode,
        state=watch.state,
        threshold=watch.gate.threshold,
        max_loss=watch.settings.max_loss,
        confidence=1.0 - watch.settings.false_alarm,
        queries=audit.queries,
        accepted=audit.counts.accepted,
        checked=audit.checked,
        differing=audit.differing,
        wealth=audit.wealth,
        limit=1.0 / audit.spec.false_alarm,
        psi=None if drift is None else drift.psi,
        has_drifted=drift is not None and drift.is_alarmed,
    )


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
        psi=max((part.psi for part in parts if part.psi is not None), default=None),
        drifted=sum(part.has_drifted for part in parts),
    )


def _answered(watch: Watch) -> Watch:
    settings = watch.settings
    if settings.mode != "audit" or settings.on_breach == "tell":
        return replace(watch, state="broken")
    gate = closed(watch.gate) if settings.on_breach == "off" else _tightened(watch)
    if gate.threshold >= closed(gate).threshold:
        return replace(watch, gate=gate, state="off")
    audit = audits.renewed(watch.audit)
    audit = replace(audit, spec=replace(audit.spec, edges=edges_above(gate)))
    return replace(watch, gate=gate, audit=audit, state="tightened")


def _tightened(watch: Watch) -> GateSpec:
    # Checks that found no room were not made: the share that was is what may be counted on.
    audit = watch.audit
    found = audit.before + audit.recent
    share = min(audit.spec.share, sum(found.checks) / max(1, found.accepted))
    if share <= 0.0:
        return closed(watch.gate)
    gate = audits.tightened(replace(audit, spec=replace(audit.spec, share=share)), watch.gate)
    # The bound was just found broken at this very threshold, whatever a longer look back says.
    edges = [edge for edge in audit.spec.edges if edge > watch.gate.threshold]
    if gate.threshold > watch.gate.threshold:
        return gate
    return replace(gate, threshold=edges[0]) if edges else closed(watch.gate)
