"""A plan becomes one page here: latency over throughput, the table, and what was assumed.

It refuses to know how it was simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from speceyes.bench.page.axes import Axis, line_through
from speceyes.bench.page.curves import ENDS, Chart, Dot, Line, Panel
from speceyes.bench.page.report import environment
from speceyes.errors import ConfigError
from speceyes.plan.terminal import Planned, Row, knees_of, load_of, told_size

_UPPER: Final = (146.0, 26.0)
_LOWER: Final = (300.0, 180.0)
_TONES: Final[Mapping[str, str]] = {"agent_only": "baseline", "serial": "speceyes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPage:
    """What the page shows: the plan, a tone for each line, and the chart if there is one."""

    planned: Planned
    tones: Mapping[str, str]
    chart: Chart | None
    knees: Sequence[str]
    sizes: Sequence[str]


def write_plan(planned: Planned, path: Path) -> None:
    """Write the page. Raises: ConfigError if it cannot be written."""
    template = environment().get_template("plan.html.jinja")
    page = template.render(page=lay_out_plan(planned), load_of=load_of, name_of=name_of)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError("html", f"{path} cannot be written: {error.strerror}") from error


def lay_out_plan(planned: Planned) -> PlanPage:
    """Lay out a plan: a line for each policy and threshold, over the loads that can be served."""
    lines: dict[str, list[Row]] = {}
    for row in planned.rows:
        if not row.forecast.is_overloaded and row.forecast.mean_s:
            lines.setdefault(name_of(row), []).append(row)
    tones: dict[str, str] = {}
    others = 0
    for name, rows in lines.items():
        policy = rows[0].forecast.scenario.policy
        if policy in _TONES and _TONES[policy] not in tones.values():
            tones[name] = _TONES[policy]
        else:
            tones[name] = f"more-{others % 6}"
            others += 1
    return PlanPage(
        planned=planned,
        tones=tones,
        chart=_draw(lines, tones),
        knees=[
            f"{policy}{'' if at is None else f' at {at:.4g}'}: {load_of(found.scenario.arrivals)}"
            for (policy, at), found in knees_of(planned).items()
        ],
        sizes=[f"{policy}: {told_size(sizing)}" for _, policy, sizing in planned.sizings],
    )


def name_of(row: Row) -> str:
    """Name the line that a forecast is on."""
    policy = row.forecast.scenario.policy.replace("_", " ")
    return policy if row.threshold is None else f"{policy} at {row.threshold:.4g}"


def _draw(lines: Mapping[str, Sequence[Row]], tones: Mapping[str, str]) -> Chart | None:
    points = {
        name: sorted(
            (found.throughput, found.mean_s or 0.0, found.p95_s or 0.0)
            for found in (row.forecast for row in rows)
        )
        for name, rows in lines.items()
    }
    every = [point for line in points.values() for point in line]
    if not every:
        return None
    x = Axis(0.0, 1.08 * max(point[0] for point in every), *ENDS)
    panels = []
    for place, (name, ends) in enumerate((("mean seconds", _UPPER), ("p95 seconds", _LOWER)), 1):
        y = Axis(0.0, 1.1 * max(point[place] for point in every), *ends)
        panels.append(
            Panel(
                name=name,
                y=y,
                lines=tuple(
                    Line(tones[line], line_through((x, y), [(p[0], p[place]) for p in found]))
                    for line, found in points.items()
                ),
                dots=tuple(
                    Dot(tone=tones[line], letter="", x=x.at(p[0]), y=y.at(p[place]))
                    for line, found in points.items()
                    for p in found
                ),
            )
        )
    return Chart(x=x, panels=tuple(panels))
