"""A run's records become fates here: each item's screen, speculation and turns, as they took.

It refuses to know how they are simulated. Times are of calls that had their engine to themselves,
so the run is to be one of concurrency 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from speceyes.bench.comparison import Comparison
from speceyes.bench.looks import Judged, judged_of, passed_screen
from speceyes.bench.records import Record
from speceyes.bench.rescore import Case
from speceyes.bench.summary import Entrant, in_common
from speceyes.calibration.two_gates import Gates
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec, judge
from speceyes.plan.fates import Fate, LookFate

_METHODS: Final = frozenset({"baseline", "speceyes", "small"})


def fates_of(comparison: Comparison, spec: GateSpec) -> list[Fate]:
    """Give the fate of each item under a gate; what was not measured is the others' mean.

    A tool's time is in the turn after it. Turns are those that SpecEyes' agent took where it was
    asked, and else those of the agent alone, times how much longer the same items took it under
    SpecEyes; those of the agent alone are kept beside them.
    Raises: ConfigError without both methods' records.
    """
    cases = comparison.cases
    if not cases:
        raise ConfigError(
            "run", f"{comparison.suite.source} needs the methods baseline and speceyes"
        )
    entrants = _entrants(comparison)
    shared = in_common(entrants)
    bases = shared[_first(entrants, "baseline").label]
    ours = shared[_first(entrants, "speceyes").label]
    ratio = _ratio(bases, ours)
    smalls = next((shared[e.label] for e in entrants if e.method == "small"), None)
    known = [case.speculate_s for case in cases if case.is_screened and case.speculate_s > 0.0]
    typical_s = sum(known) / len(known) if known else 0.0
    return [
        _fate(
            case,
            base,
            spec,
            speculate_s=_speculate_s(case, alone, typical_s),
            turns_s=_turns_s(base, mine, ratio),
        )
        for case, base, mine, alone in zip(
            cases, bases, ours, smalls if smalls is not None else [None] * len(bases), strict=True
        )
    ]


def fates_with_looks(comparison: Comparison, gates: Gates) -> list[Fate]:
    """Give the fate of each item whose small model may look closer, under gates no stricter.

    A query takes the looks that the run has of it, up to the first that is accepted. Turns are
    those of `fates_of`.
    Raises: ConfigError without both methods' records, or if looks were not kept.
    """
    fates = fates_of(comparison, gates.first)
    entrants = _entrants(comparison)
    ours = in_common(entrants)[_first(entrants, "speceyes").label]
    return [_with_looks(fate, mine, gates) for fate, mine in zip(fates, ours, strict=True)]


def check_known(gate: GateSpec, own: GateSpec) -> None:
    """See that a run shows what a gate would lead to. Raises: ConfigError naming the threshold."""
    if gate.threshold > own.threshold:
        raise ConfigError(
            "threshold",
            f"{gate.threshold:g} is stricter than the run's own, {own.threshold:g}, so that more "
            "closer looks would be taken than it has; give lower ones, or a run with a stricter "
            "gate",
        )


def _with_looks(fate: Fate, mine: Record, gates: Gates) -> Fate:
    judged, needs_tool = judged_of(mine), not passed_screen(mine)
    if not judged:
        return replace(
            fate,
            speculate_s=mine.phase_s.get("speculate", 0.0),
            needs_tool=needs_tool,
            accepted=False,
        )
    accepted = not needs_tool and judge(judged[0].said, gates.first).accepted
    looks = () if accepted else _looks(mine, judged, gates.closer)
    decisive = judged[len([look for look in looks if look.ends != "nowhere"])]
    return replace(
        fate,
        speculate_s=judged[0].span.took_s,
        needs_tool=needs_tool,
        accepted=accepted,
        looks=looks,
        small_is_right=decisive.is_right,
    )


def _looks(mine: Record, judged: Sequence[Judged], gate: GateSpec) -> tuple[LookFate, ...]:
    found: list[LookFate] = []
    told = () if mine.speculation is None else mine.speculation.looks
    for place, look in enumerate(told, 1):
        where_s = took_s = 0.0
        if look.span is not None:
            where_s, took_s = look.span.where_s, look.span.took_s
        if not look.answered:
            found.append(LookFate(took_s, 0.0, "nowhere"))
            break
        if judge(judged[place].said, gate).accepted:
            found.append(LookFate(where_s, took_s - where_s, "accepted"))
            break
        found.append(LookFate(where_s, took_s - where_s, "doubted"))
    return tuple(found)


def gate_at(own: GateSpec, threshold: float | None) -> GateSpec:
    """Give the run's gate, with another threshold if one is asked for."""
    return own if threshold is None else replace(own, threshold=threshold)


def turn_seconds(base: Record) -> tuple[float, ...]:
    """Read how long each of the agent's turns took, tools included, off the times it spoke at."""
    whole_s = base.phase_s.get("fall_back", 0.0)
    if not base.turns:
        return (whole_s,)
    ends_s = [turn.at_s for turn in base.turns]
    began_s = max(0.0, ends_s[-1] - whole_s)
    starts_s = [began_s, *ends_s[:-1]]
    return tuple(max(0.0, end - start) for start, end in zip(starts_s, ends_s, strict=True))


def _ratio(bases: Sequence[Record], ours: Sequence[Record]) -> float:
    # How much longer the agent took under SpecEyes, for the items that it answered both ways.
    both = [
        (sum(turn_seconds(base)), sum(turn_seconds(mine)))
        for base, mine in zip(bases, ours, strict=True)
        if _asked_agent(mine)
    ]
    alone_s, under_s = (sum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
    return under_s / alone_s if alone_s and under_s else 1.0


def _asked_agent(mine: Record) -> bool:
    return mine.route == "agentic" and bool(mine.turns)


def _turns_s(base: Record, mine: Record, ratio: float) -> tuple[float, ...]:
    if _asked_agent(mine):
        return turn_seconds(mine)
    return tuple(ratio * seconds for seconds in turn_seconds(base))


def _fate(
    case: Case,
    base: Record,
    spec: GateSpec,
    *,
    speculate_s: float,
    turns_s: tuple[float, ...],
) -> Fate:
    lone_turns_s = turn_seconds(base)
    said = sum(turn.usage.completion_tokens for turn in base.turns)
    return Fate(
        item_id=base.item_id,
        between_s=case.between_s,
        screen_s=case.screen_s,
        speculate_s=speculate_s,
        needs_tool=not case.is_screened,
        accepted=case.is_screened and case.said is not None and judge(case.said, spec).accepted,
        turns_s=turns_s,
        lone_turns_s=lone_turns_s,
        small_is_right=case.small_right,
        agent_is_right=case.agent_right,
        turn_tokens=math.ceil(said / len(lone_turns_s)),
    )


def _speculate_s(case: Case, alone: Record | None, typical_s: float) -> float:
    if case.is_screened and case.speculate_s > 0.0:
        return case.speculate_s
    if alone is None:
        return typical_s
    return alone.phase_s.get("speculate", 0.0) + alone.phase_s.get("gate", 0.0) or typical_s


def _entrants(comparison: Comparison) -> list[Entrant]:
    return [e for e in comparison.entrants if e.method in _METHODS]


def _first(entrants: Sequence[Entrant], method: str) -> Entrant:
    return next(entrant for entrant in entrants if entrant.method == method)
