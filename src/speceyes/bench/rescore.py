"""What another gate would have given is worked out here from a run's records: nothing is run.

For each gate the accepted set changes; answers and times stay as they were recorded. Times are
those of single queries, so that the speedup is that of one query after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from speceyes.bench.grade import grade
from speceyes.bench.records import Record
from speceyes.bench.stats import Floats
from speceyes.bench.summary import Entrant, in_common, was_screened
from speceyes.gate import GateSpec, judge
from speceyes.types import Generation


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of one item, whatever the gate.

    `said` None: the small model was never asked, or failed. `between_s` is what SpecEyes spent
    between the phases, such as making first views; `agent_s` is the agent's loop alone, `alone_s`
    all that the agent alone took.
    """

    split: str
    is_screened: bool
    said: Generation | None
    small_right: bool
    agent_right: bool
    between_s: float
    screen_s: float
    speculate_s: float
    agent_s: float
    alone_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Accuracy, speedup and accepted share over thresholds, ascending, of one kind of gate.

    Shapes: all (S,). Between two thresholds everything stays as at the lower one. `spec` has the
    gate's other settings; `scored` counts the screened items whose evidence reaches its K.
    """

    spec: GateSpec
    thresholds: Floats
    accuracy: Floats
    speedup: Floats
    accepted: Floats  # share of all items
    agent_accuracy: float
    items: int
    scored: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one gate would have given: shares of all items, and the speedup over the agent alone."""

    spec: GateSpec
    accuracy: float
    speedup: float
    accepted: float


def cases_of(entrants: Sequence[Entrant]) -> list[Case]:
    """Join what the agent alone and SpecEyes recorded of each item, on one suite.

    The agent's answer and time are the baseline's; the screen, the small model's evidence and
    times SpecEyes' own. Evidence for items that were screened away comes from the small model's
    run alone, if there is one. Empty without both a baseline and SpecEyes.
    """
    shared = in_common([e for e in entrants if e.method in {"baseline", "speceyes", "small"}])
    by = {entrant.method: shared.get(entrant.label, []) for entrant in reversed(entrants)}
    base, ours = by.get("baseline", []), by.get("speceyes", [])
    alone: Sequence[Record | None] = by.get("small") or [None] * len(ours)
    if not base or not ours:
        return []
    return [_case(one, two, three) for one, two, three in zip(base, ours, alone, strict=True)]


def sweep(cases: Sequence[Case], spec: GateSpec) -> Sweep | None:
    """Re-score a run at every threshold where something changes, all else as in the spec.

    time(t) = sum of c_0 + c_J + [screened] * c_S + [not accepted at t] * L_agent
    where c_0 is what lies between the phases.
    The first threshold accepts all that is screened and scored, the last one nothing.
    None if there are no cases.
    """
    if not cases:
        return None
    scores, may_pass = _scores(cases, spec)  # (N,), (N,)
    thresholds = _steps(scores[may_pass], strict=spec.strict)  # (S,)
    above = scores > thresholds[:, None] if spec.strict else scores >= thresholds[:, None]
    accuracy, speedup, accepted = _outcome(cases, above & may_pass)
    return Sweep(
        spec=spec,
        thresholds=thresholds,
        accuracy=accuracy,
        speedup=speedup,
        accepted=accepted,
        agent_accuracy=float(np.mean([case.agent_right for case in cases])),
        items=len(cases),
        scored=int(may_pass.sum()),
    )


def outlook(cases: Sequence[Case], spec: GateSpec) -> Outlook | None:
    """Re-score a run with one gate, threshold included. None if there are no cases."""
    if not cases:
        return None
    scores, may_pass = _scores(cases, spec)
    passed = spec.passes(scores) & may_pass
    accuracy, speedup, accepted = _outcome(cases, passed[None])
    return Outlook(spec, float(accuracy[0]), float(speedup[0]), float(accepted[0]))


def at(sweep: Sweep, threshold: float) -> int:
    """Give the index of the step that a threshold falls on."""
    return max(0, int(np.searchsorted(sweep.thresholds, threshold, side="right")) - 1)


def _case(base: Record, ours: Record, alone: Record | None) -> Case:
    said = ours.speculation or (None if alone is None else alone.speculation)
    small_right = False
    if alone is not None:
        small_right = alone.is_right
    elif said is not None and said.generation is not None:
        text = said.generation.text.strip() or None
        small_right = grade(text, ours.truth, ours.options).is_right
    return Case(
        split=ours.split,
        is_screened=was_screened(ours),
        said=None if said is None else said.generation,
        small_right=small_right,
        agent_right=base.is_right,
        between_s=max(0.0, ours.elapsed_s - sum(ours.phase_s.values())),
        screen_s=ours.phase_s.get("screen", 0.0),
        speculate_s=ours.phase_s.get("speculate", 0.0) + ours.phase_s.get("gate", 0.0),
        agent_s=base.phase_s.get("fall_back", 0.0),
        alone_s=base.elapsed_s,
    )


def _scores(
    cases: Sequence[Case], spec: GateSpec
) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    open_gate = replace(spec, threshold=-np.inf)
    verdicts = [None if c.said is None else judge(c.said, open_gate) for c in cases]
    scores = [None if verdict is None else verdict.score for verdict in verdicts]
    values = np.array([-np.inf if score is None else score for score in scores])  # (N,)
    may_pass = np.array([c.is_screened for c in cases]) & np.isfinite(values)  # (N,)
    return values, may_pass


def _outcome(
    cases: Sequence[Case], accepted: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> tuple[Floats, Floats, Floats]:
    # accepted (S, N) -> accuracy, speedup, accepted share, each (S,)
    small = np.array([c.small_right for c in cases], dtype=np.float64)  # (N,)
    agent = np.array([c.agent_right for c in cases], dtype=np.float64)
    agent_s = np.array([c.agent_s for c in cases])
    always_s = sum(
        c.between_s + c.screen_s + (c.speculate_s if c.is_screened else 0.0) for c in cases
    )
    spent_s = always_s + (~accepted * agent_s).sum(axis=1)
    alone_s = sum(c.alone_s for c in cases)
    return (
        np.where(accepted, small, agent).mean(axis=1),
        alone_s / np.maximum(spent_s, 1e-9),
        accepted.mean(axis=1),
    )


def _steps(scores: Floats, *, strict: bool) -> Floats:
    # With > the accepted set changes at each score; with >= just above it.
    distinct = np.unique(scores)
    edges = distinct if strict else np.nextafter(distinct, np.inf)
    first = np.floor(distinct[0]) - 1.0 if distinct.size else 0.0
    return np.concatenate([[first], edges])
