"""What a run recorded of each answer that a gate judged, in order: at first sight, and after looks.

It refuses to know thresholds, and what did not happen: where the run's gates accepted, nobody knows
what more looks would have shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from speceyes.bench.agreement import agree
from speceyes.bench.comparison import Comparison
from speceyes.bench.grade import grade
from speceyes.bench.manifest import Manifest
from speceyes.bench.records import Record, Span
from speceyes.bench.trials import Trial, fails, joined
from speceyes.calibration.certificate import Risk
from speceyes.calibration.thresholds import Observed
from speceyes.calibration.two_gates import Gates, Looked
from speceyes.errors import ConfigError
from speceyes.gate import GateReason, GateSpec, judge
from speceyes.types import Generation

WhichGate: TypeAlias = Literal["first", "closer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer of the small model that a gate judged, as the run has it.

    `accepted` says what came of it: where the screen said that a tool is needed, an answer at first
    sight is not, whatever its score. `agrees` None: the agent alone was not run.
    """

    gate: WhichGate
    said: Generation
    score: float | None
    reason: GateReason
    accepted: bool
    is_right: bool
    agrees: bool | None
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class LookTrial:
    """All that a run shows of one item: its answers in order, each as a trial of its own.

    `item` is screened where an answer at first sight could be accepted, and has none. `answers` is
    empty where the small model was never asked, or failed. `unseen`: the run accepted while looks
    were left.
    """

    item: Trial
    answers: tuple[Trial, ...]
    unseen: bool


def judged_of(record: Record, base: Record | None = None) -> tuple[Judged, ...]:
    """Read the answers that a gate judged off a record; `base` is the agent's own, alone.

    Raises: ConfigError if the run was made before they were kept.
    """
    said = record.speculation
    if said is None:
        return ()
    told = [look for look in said.looks if look.answered]
    before = [(look.generation, look.score, look.reason) for look in told]
    heard = [*before, (said.generation, said.score, said.reason)]
    spans = [said.span, *(look.span for look in told)]
    found: list[Judged] = []
    for place, ((generation, score, reason), span) in enumerate(zip(heard, spans, strict=True)):
        if generation is None or reason is None or span is None:
            raise ConfigError("run", "was made before closer looks were kept; run it again")
        text = generation.text.strip() or None
        agrees = None if base is None else agree(text, base.text, record.options) is True
        found.append(
            Judged(
                gate="closer" if place else "first",
                said=generation,
                score=score,
                reason=reason,
                accepted=place == len(told) and record.reason == "accepted",
                is_right=grade(text, record.truth, record.options).is_right,
                agrees=agrees,
                span=span,
            )
        )
    return tuple(found)


def look_trials_of(comparisons: Sequence[Comparison], *, depth: int) -> list[LookTrial]:
    """Join runs of any number of suites; an item that was asked more than once counts once.

    Raises: ConfigError if SpecEyes was not run, or if an agent that was first may have cut looks
    short.
    """
    found: dict[tuple[str, str], LookTrial] = {}
    for comparison in comparisons:
        check_whole_looks(run.manifest for run in comparison.runs)
        for ours, base, _ in joined(comparison):
            trial = _trial(comparison, ours, base, depth=depth)
            found.setdefault((comparison.suite.name, ours.item_id), trial)
    return list(found.values())


def check_whole_looks(manifests: Iterable[Manifest]) -> None:
    """See that no agent cut a look short. Raises: ConfigError."""
    for manifest in manifests:
        if manifest.settings.depth and manifest.policy not in {"serial", "overlap"}:
            raise ConfigError(
                "run",
                f"its policy is {manifest.policy}, under which the agent may be first and cut a "
                "look short, so that nobody knows what it would have shown; give a run made with "
                "--policy serial or overlap",
            )


def observe_looks(trials: Sequence[LookTrial], gates: Gates, risk: Risk, *, depth: int) -> Looked:
    """Score every answer by its own gate's K and definition, and say which would fail.

    Raises: ConfigError if the risk was not measured.
    """
    count = len(trials)
    scores = np.full((count, depth + 1), -np.inf)  # (N, 1 + D): at first sight, then after looks
    failed = np.zeros((count, depth + 1), dtype=np.bool_)
    for row, trial in enumerate(trials):
        for place, answer in enumerate(trial.answers):
            scores[row, place] = _score(answer, gates.closer if place else gates.first)
            failed[row, place] = fails(answer, risk)
    passed = np.array([trial.item.is_screened for trial in trials], dtype=np.bool_)
    unseen = np.array([trial.unseen for trial in trials], dtype=np.bool_)
    may_pass = passed & np.isfinite(scores[:, 0])
    first = Observed(scores[:, 0], may_pass, failed[:, 0])
    return Looked(first, scores[:, 1:], failed[:, 1:], unseen)


def passed_screen(record: Record) -> bool:
    """Say if a query's answer at first sight could be accepted."""
    return record.speculation is not None and record.needs_tool is not True


def _trial(comparison: Comparison, ours: Record, base: Record | None, *, depth: int) -> LookTrial:
    judged = judged_of(ours, base)
    item = Trial(
        suite=comparison.suite.source,
        checksum=comparison.suite.checksum,
        item_id=ours.item_id,
        split=ours.split,
        is_screened=passed_screen(ours),
        said=None,
        small_right=False,
        agent_maybe_right=None if base is None else base.grade.value != "wrong",
        agrees=None if base is None else False,
    )
    return LookTrial(
        item=item,
        answers=tuple(
            replace(item, said=one.said, small_right=one.is_right, agrees=one.agrees)
            for one in judged
        ),
        unseen=bool(judged) and judged[-1].accepted and len(judged) <= depth,
    )


def _score(answer: Trial, gate: GateSpec) -> float:
    if answer.said is None:
        return -np.inf
    found = judge(answer.said, replace(gate, threshold=-np.inf)).score
    return -np.inf if found is None else found
