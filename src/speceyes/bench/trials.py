"""What runs recorded of each item is joined here: who said what, and who was right.

It refuses to know thresholds. Doubt counts against the small model: an answer that cannot be read
is not right, does not agree, and an agent's that is undecided may have been right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from speceyes.bench.agreement import agree
from speceyes.bench.comparison import Comparison
from speceyes.bench.grade import grade
from speceyes.bench.records import Record
from speceyes.bench.summary import in_common, was_screened
from speceyes.calibration.certificate import Risk
from speceyes.calibration.thresholds import Observed
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec, judge
from speceyes.types import Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """All that is known of one item, whatever the gate.

    `said` None: the small model was never asked, or failed. `agent_maybe_right` and `agrees` None:
    the agent alone was not run. `small_right` None: nobody knows, as there are no labels.
    """

    suite: str
    checksum: str
    item_id: str
    split: str
    is_screened: bool
    said: Generation | None
    small_right: bool | None
    agent_maybe_right: bool | None
    agrees: bool | None

    @property
    def identity(self) -> tuple[str, str]:
        """What it is told apart by; without labels an item's name is a digest of all of it."""
        return ("" if self.small_right is None else self.checksum, self.item_id)


def trials_of(comparisons: Sequence[Comparison]) -> list[Trial]:
    """Join runs of any number of suites; an item that was asked more than once counts once.

    Raises: ConfigError if SpecEyes was not run.
    """
    found: dict[tuple[str, str], Trial] = {}
    for comparison in comparisons:
        for trial in _joined(comparison):
            found.setdefault((comparison.suite.name, trial.item_id), trial)
    return list(found.values())


def observe(trials: Sequence[Trial], spec: GateSpec, risk: Risk) -> Observed:
    """Score every item by a gate's K, definition and aggregation, and say which would fail.

    Raises: ConfigError if the risk was not measured.
    """
    whole = replace(spec, threshold=-np.inf)
    judged = [None if t.said is None else judge(t.said, whole).score for t in trials]
    scores = np.array([-np.inf if score is None else score for score in judged], dtype=np.float64)
    screened = np.array([trial.is_screened for trial in trials], dtype=np.bool_)
    failed = np.array([fails(trial, risk) for trial in trials], dtype=np.bool_)
    return Observed(scores, screened & np.isfinite(scores), failed)


def fails(trial: Trial, risk: Risk) -> bool:
    """Say if accepting the small model's answer would be a failure. Raises: ConfigError."""
    _check_measured(trial, risk)
    match risk:
        case "lost":
            return not trial.small_right and bool(trial.agent_maybe_right)
        case "wrong":
            return not trial.small_right
        case "differs":
            return not trial.agrees
        case _:
            assert_never(risk)


def _check_measured(trial: Trial, risk: Risk) -> None:
    if risk != "differs" and trial.small_right is None:
        told = f"{trial.suite} has no labels; calibrate with --by agreement"
        raise ConfigError("by", told)
    is_compared = trial.agrees if risk == "differs" else trial.agent_maybe_right
    if risk != "wrong" and is_compared is None:
        raise ConfigError(
            "run",
            f"{trial.suite} lacks the agent's own answers; give `speceyes bench` the method "
            "baseline too, or calibrate with --by label",
        )


def _joined(comparison: Comparison) -> list[Trial]:
    return [_trial(comparison, ours, base=b, alone=a) for ours, b, a in joined(comparison)]


def joined(comparison: Comparison) -> list[tuple[Record, Record | None, Record | None]]:
    """Set each item's records side by side: SpecEyes', the agent's own, the small model's own.

    Raises: ConfigError if SpecEyes was not run.
    """
    entrants = [e for e in comparison.entrants if e.method in {"baseline", "speceyes", "small"}]
    by = {e.method: e for e in reversed(entrants)}
    if "speceyes" not in by:
        raise ConfigError(
            "run",
            f"{comparison.suite.source} has no answers by SpecEyes; give `speceyes bench` the "
            "method speceyes",
        )
    shared = in_common(list(by.values()))
    columns = {method: shared[entrant.label] for method, entrant in by.items()}
    count = len(columns["speceyes"])
    nobody: list[Record | None] = [None] * count
    rows = zip(
        columns["speceyes"],
        columns.get("baseline", nobody),
        columns.get("small", nobody),
        strict=True,
    )
    # A row that could not be asked has no question, and served nobody.
    return [row for row in rows if row[0].question]


def _trial(
    comparison: Comparison, ours: Record, *, base: Record | None, alone: Record | None
) -> Trial:
    heard = ours.speculation or (None if alone is None else alone.speculation)
    said = None if heard is None else heard.generation
    text = None if said is None else said.text.strip() or None
    return Trial(
        suite=comparison.suite.source,
        checksum=comparison.suite.checksum,
        item_id=ours.item_id,
        split=ours.split,
        is_screened=was_screened(ours),
        said=said,
        small_right=text is not None and grade(text, ours.truth, ours.options).is_right,
        agent_maybe_right=None if base is None else base.grade.value != "wrong",
        agrees=None if base is None else agree(text, base.text, ours.options) is True,
    )
