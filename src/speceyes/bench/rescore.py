"""What another threshold would have given is worked out here from a run's records: nothing is run.

For each threshold the accepted set changes; answers and times stay as they were recorded. Times are
those of single queries, so that the speedup is that of one query after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speceyes.bench.records import Record
from speceyes.bench.stats import Floats
from speceyes.bench.summary import by_method


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of one item, whatever the threshold.

    `score` None: the gate rejects it always. `between_s` is what SpecEyes spent between the
    phases, such as making first views; `agent_s` is the agent's loop alone, `alone_s` all that the
    agent alone took.
    """

    is_screened: bool
    score: float | None
    small_right: bool
    agent_right: bool
    between_s: float
    screen_s: float
    speculate_s: float
    agent_s: float
    alone_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Accuracy, speedup and accepted share over thresholds, ascending.

    Shapes: all (S,). Between two thresholds everything stays as at the lower one.
    """

    thresholds: Floats
    accuracy: Floats
    speedup: Floats
    accepted: Floats  # share of all items
    agent_accuracy: float
    items: int


def cases_of(records: Sequence[Record]) -> list[Case]:
    """Join what the three methods recorded of each item; items that one of them lacks are left out.

    The small model's answer and score come from its run alone, over all items; times and the
    screen from SpecEyes; the agent's answer and time from the baseline.
    """
    by = by_method(records)
    return [
        Case(
            is_screened=ours.needs_tool is False,
            score=None if small.speculation is None else small.speculation.score,
            small_right=small.is_right,
            agent_right=base.is_right,
            between_s=max(0.0, ours.elapsed_s - sum(ours.phase_s.values())),
            screen_s=ours.phase_s.get("screen", 0.0),
            speculate_s=ours.phase_s.get("speculate", 0.0) + ours.phase_s.get("gate", 0.0),
            agent_s=base.phase_s.get("fall_back", 0.0),
            alone_s=base.elapsed_s,
        )
        for item, base in by["baseline"].items()
        if (ours := by["speceyes"].get(item)) and (small := by["small"].get(item))
    ]


def sweep(cases: Sequence[Case], *, strict: bool = True) -> Sweep | None:
    """Re-score a run at every threshold where something changes.

    time(t) = sum of c_0 + c_J + [screened] * c_S + [not accepted at t] * L_agent
    where c_0 is what lies between the phases.
    The first threshold accepts all that is screened and scored, the last one nothing.
    None if there are no cases.
    """
    if not cases:
        return None
    score = np.array([-np.inf if c.score is None else c.score for c in cases])  # (N,)
    may_pass = np.array([c.is_screened and c.score is not None for c in cases])  # (N,)
    small = np.array([c.small_right for c in cases], dtype=np.float64)
    agent = np.array([c.agent_right for c in cases], dtype=np.float64)
    agent_s = np.array([c.agent_s for c in cases])
    always_s = sum(
        c.between_s + c.screen_s + (c.speculate_s if c.is_screened else 0.0) for c in cases
    )
    thresholds = _steps(score[may_pass], strict=strict)  # (S,)
    above = score > thresholds[:, None] if strict else score >= thresholds[:, None]  # (S, N)
    accepted = above & may_pass
    spent_s = always_s + (~accepted * agent_s).sum(axis=1)
    return Sweep(
        thresholds=thresholds,
        accuracy=np.where(accepted, small, agent).mean(axis=1),
        speedup=sum(c.alone_s for c in cases) / np.maximum(spent_s, 1e-9),
        accepted=accepted.mean(axis=1),
        agent_accuracy=float(agent.mean()),
        items=len(cases),
    )


def at(sweep: Sweep, threshold: float) -> int:
    """Give the index of the step that a threshold falls on."""
    return max(0, int(np.searchsorted(sweep.thresholds, threshold, side="right")) - 1)


def _steps(scores: Floats, *, strict: bool) -> Floats:
    # With > the accepted set changes at each score; with >= just above it.
    distinct = np.unique(scores)
    edges = distinct if strict else np.nextafter(distinct, np.inf)
    first = np.floor(distinct[0]) - 1.0 if distinct.size else 0.0
    return np.concatenate([[first], edges])
