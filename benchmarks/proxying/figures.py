"""Measurements become medians, ratios within one round, and a table to read.

It refuses to know how anything was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_MEASURES: Final = ("rps", "p50_ms", "p99_ms", "cpu_ms")
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the issue asks of the bypass: so many times LiteLLM's requests/s, so little added."""

    workload: str
    times_litellm: float
    added_p50_ms: float
    beside: str  # the target that the added time is beyond


GOALS: Final = (
    Goal(workload="text", times_litellm=10.0, added_p50_ms=2.0, beside="direct"),
    Goal(workload="image 1 MB", times_litellm=5.0, added_p50_ms=5.0, beside="wire"),
)


def sum_up(rounds: Sequence[Json]) -> Json:
    """Sum up one target's rounds of one cell: medians, and all requests and errors."""
    told: Json = {"requests": sum(one["requests"] for one in rounds)}
    errors: dict[str, int] = {}
    for one in rounds:
        for kind, count in one["errors"].items():
            errors[kind] = errors.get(kind, 0) + count
    for measure in _MEASURES:
        told[measure] = median(one[measure] for one in rounds)
    return told | {"errors": errors}


def beside(ours: Sequence[Json], theirs: Sequence[Json], measure: str) -> float | None:
    """Give the median of our figure over theirs, round by round."""
    pairs = zip(ours, theirs, strict=True)
    return median(
        a[measure] / b[measure] if a[measure] is not None and b[measure] else None for a, b in pairs
    )


def beyond(ours: Sequence[Json], theirs: Sequence[Json], measure: str) -> float | None:
    """Give the median of our figure less theirs, round by round."""
    pairs = zip(ours, theirs, strict=True)
    return median(
        a[measure] - b[measure] if a[measure] is not None and b[measure] is not None else None
        for a, b in pairs
    )


def median(values: Iterable[float | None]) -> float | None:
    """Give the median of what was measured; None where nothing was."""
    found = [value for value in values if value is not None]
    return None if not found else float(f"{statistics.median(found):.{_DIGITS}g}")


def cell_of(workload: str, connections: int, rounds: Mapping[str, Sequence[Json]]) -> Json:
    """Lay out one cell: each target's figures, and the bypass beside the others."""
    cell: Json = {
        "workload": workload,
        "connections": connections,
        "targets": {name: sum_up(found) for name, found in rounds.items()},
    }
    for name in ("bypass", "funnel"):
        if name in rounds:
            ours = rounds[name]
            cell[f"{name}_beside"] = {
                other: {
                    "times_rps": beside(ours, theirs, "rps"),
                    "added_p50_ms": beyond(ours, theirs, "p50_ms"),
                    "added_p99_ms": beyond(ours, theirs, "p99_ms"),
                    "share_of_cpu": beside(ours, theirs, "cpu_ms"),
                }
                for other, theirs in rounds.items()
                if other not in {"bypass", "funnel"}
            }
    return cell


def judge(cells: Sequence[Json]) -> list[Json]:
    """Say of each goal how far it is met: requests/s at each concurrency, added time at one."""
    found = []
    for goal in GOALS:
        for cell in cells:
            told = cell.get("bypass_beside", {})
            if cell["workload"] != goal.workload or not told:
                continue
            line: Json = {"workload": goal.workload, "connections": cell["connections"]}
            if "litellm" in told:
                times = told["litellm"]["times_rps"]
                line |= {"times_litellm": times, "wanted": goal.times_litellm}
                line["is_met"] = times is not None and times >= goal.times_litellm
            if cell["connections"] == 1 and goal.beside in told:
                added = told[goal.beside]["added_p50_ms"]
                line |= {"added_p50_ms": added, "beyond": goal.beside}
                line |= {"wanted_ms": goal.added_p50_ms, "is_fast": added <= goal.added_p50_ms}
            found.append(line)
    return found


def table(cells: Sequence[Json]) -> str:
    """Lay the cells out to be read, as a table of Markdown."""
    head = ("asked", "connections", "target", "requests/s", "p50, ms", "p99, ms", "CPU, ms")
    lines = [_row(head), _row(["---"] * len(head))]
    for cell in cells:
        for name, told in cell["targets"].items():
            figures = [_shown(told[measure]) for measure in _MEASURES]
            if told["errors"]:
                figures[0] += f" ({sum(told['errors'].values())} errors)"
            lines.append(_row([cell["workload"], str(cell["connections"]), name, *figures]))
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
