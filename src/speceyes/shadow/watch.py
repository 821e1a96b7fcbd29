"""What shadow work has shown is folded here: does the gate's risk hold, do its scores?

It refuses to know engines, clocks and how shadow work is run. A broken bound changes the gate in
force, if the settings say so; it never lowers a threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from speceyes.calibration import audit as audits
from speceyes.calibration import drift as drifts
from speceyes.calibration.audit import Audit, AuditSpec, Seen, anytime_estimate
from speceyes.calibration.bounds import Estimate
from speceyes.calibration.drift import Drift, Reference
from speceyes.calibration.thresholds import closed
from speceyes.gate import SQUASH_SLOPE, GateSpec
from speceyes.shadow.settings import ShadowMode, ShadowSettings

ShadowState: TypeAlias = Literal["watching", "broken", "tightened", "off"]
"""`broken`: the bound is, and all goes on as it was. `off`: nothing is accepted any more."""
DriftFrom: TypeAlias = Literal["calibration", "first"]

_STEPS: Final = 12
_RAW_STEP: Final = math.log(2.0) / SQUASH_SLOPE  # of a raw score: what halves 1 - squash(score)
_LEAST_WINDOW: Final = 2000
_WINDOWS: Final = 6.0  # so many hits, were the risk just what may be, that tightening looks back on


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A shadow in one process; its size is fixed.

    `gate` is the one in force. `first`: the scores so far, until there are enough for a reference.
    """

    settings: ShadowSettings
    gate: GateSpec
    audit: Audit
    workers: int = 1
    drift: Drift | None = None
    drift_from: DriftFrom = "first"
    first: tuple[float, ...] = ()
    state: ShadowState = "watching"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What one process has to show of a shadow, since its gate last changed.

    `wealth` raises the alarm at `limit`. `psi` says how far the last window's scores lie from the
    calibration's or the first ones (`drift_from`); `has_drifted`: farther than chance explains.
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
    drift_from: DriftFrom = "first"
    psi: float | None = None
    has_drifted: bool = False

    @property
    def disagreement(self) -> Estimate:
        """The share of what was accepted and checked that differs; its range holds at all times."""
        return anytime_estimate(self.differing, self.checked, confidence=self.confidence)

    @property
    def risk(self) -> float | None:
        """The share of all queries that are accepted and differ, as estimated; None: not yet."""
        if not self.checked or not self.queries:
            return None
        return self.differing / self.checked * self.accepted / self.queries


def begin(
    settings: ShadowSettings,
    gate: GateSpec,
    *,
    workers: int = 1,
    reference: Reference | None = None,
) -> Watch:
    """Begin to watch, with the calibration's own scores for a reference, if they are known.

    Workers watch for themselves, and share the false alarms that may be.
    """
    share = settings.share if settings.mode == "audit" else 1.0
    spec = AuditSpec(
        max_loss=settings.max_loss,
        share=share,
        false_alarm=settings.false_alarm / workers,
        edges=edges_above(gate),
        window=max(_LEAST_WINDOW, math.ceil(_WINDOWS / (settings.max_loss * share))),
    )
    watch = Watch(settings=settings, gate=gate, audit=Audit(spec), workers=workers)
    return watch if reference is None else held_against(watch, reference, "calibration")


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
    if seen.score is not None and not watch.gate.passes(seen.score):
        seen = Seen()
    was_alarmed = watch.audit.is_alarmed
    watch = replace(watch, audit=audits.observe(watch.audit, seen))
    return watch if was_alarmed or not watch.audit.is_alarmed else answered(watch)


def scored(watch: Watch, score: float) -> Watch:
    """Fold one score, accepted or not, into the test for drift."""
    if watch.drift is not None:
        return replace(watch, drift=drifts.observe(watch.drift, score))
    first = (*watch.first, score)
    if len(first) < watch.settings.drift_after:
        return replace(watch, first=first)
    return held_against(watch, drifts.reference_of(first), "first")


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
        drift_from=watch.drift_from,
        psi=None if drift is None else drift.psi,
        has_drifted=drift is not None and drift.is_alarmed,
    )


def held_against(watch: Watch, reference: Reference, drift_from: DriftFrom) -> Watch:
    """Hold scores against these from now on, window by window as the settings say."""
    own = replace(
        reference,
        window=watch.settings.drift_after,
        false_alarm=watch.settings.false_alarm / watch.workers,
    )
    return replace(watch, first=(), drift=Drift(own), drift_from=drift_from)


def answered(watch: Watch) -> Watch:
    """Do with a bound that is broken as the settings say."""
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
