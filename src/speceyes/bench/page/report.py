"""Runs become one page here: tables, figures and galleries, without a network or another file.

It refuses to know how the runs were made; it shows what is in their records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from speceyes.bench.comparison import NAMES, Comparison
from speceyes.bench.items import Suite
from speceyes.bench.page.gallery import SHOWN
from speceyes.bench.page.sections import lay_out
from speceyes.bench.stats import Interval, mean
from speceyes.bench.summary import Average, Figures, Gain
from speceyes.calibration.certificate import Certified
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import jinja2

_MISSING: Final = "–"
_MINUS: Final = "−"
TITLES: Final[Mapping[str, str]] = {
    "vstar": "V*",
    "hrbench": "HR-Bench",
    "pope": "POPE",
    "builtin": "the built-in suite",
    "jsonl": "your own questions",
}
_NO_SUITES: Final[Mapping[str, Suite]] = {}
_NO_REASONS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewRow:
    """One entrant over all splits of all suites; `cells` hold None where it did not take part."""

    label: str
    cells: tuple[tuple[Figures, Gain | None] | None, ...]
    average: Average


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everybody over everything, as the paper's Table 1: suites with their splits, then rows."""

    suites: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[OverviewRow, ...]


def render(
    comparisons: Sequence[Comparison],
    suites: Mapping[str, Suite] = _NO_SUITES,
    *,
    absent: Mapping[str, str] = _NO_REASONS,
    shown: int = SHOWN,
    gates: Sequence[Certified] = (),
) -> str:
    """Write comparisons as a page, a section for each, with so many items shown whole.

    `suites`, by their checksums, give the pictures; `absent` says of a suite that is not among
    them why not; `gates` are shown where they speak of a comparison's models.
    Raises: ConfigError if jinja2 is not installed.
    """
    page = environment().get_template("report.html.jinja")
    sections = [
        lay_out(
            comparison,
            suites.get(comparison.suite.checksum),
            absent=absent.get(comparison.suite.checksum, "the suite is not at hand"),
            shown=shown,
            gates=gates,
        )
        for comparison in comparisons
    ]
    return page.render(
        sections=sections,
        headline=headline(comparisons),
        overview=overview(comparisons) if len(comparisons) > 1 else None,
        started=min(run.manifest.started_at for c in comparisons for run in c.runs),
        titles=TITLES,
    )


def headline(comparisons: Sequence[Comparison]) -> str:
    """Say in one sentence what the runs came to."""
    if len(comparisons) > 1:
        return _headline_of_many(comparisons)
    summary = comparisons[0].summary
    whole, count = summary.overall, summary.compared
    ours, base = summary.label_of("speceyes"), summary.baseline
    if not count:
        return "The run ended before all methods had answered anything."
    if ours is not None and base is not None and whole.gains[ours].speedup is not None:
        return (
            f"{count} questions answered {whole.gains[ours].speedup:.2f} times as fast as by the "
            f"agent alone, {_percent(whole.figures[ours].accuracy.value)} of them right; alone it "
            f"had {_percent(whole.figures[base].accuracy.value)}."
        )
    told = [f"{_percent(f.accuracy.value)} by {label}" for label, f in whole.figures.items()]
    return f"{count} questions answered; right were {_listed(told)}."


def overview(comparisons: Sequence[Comparison]) -> Overview:
    """Put all entrants over all splits of all suites; each split counts alike in the average."""
    labels = dict.fromkeys(label for c in comparisons for label in c.summary.methods)
    return Overview(
        suites=tuple((c.suite.name, tuple(r.name for r in c.summary.splits)) for c in comparisons),
        rows=tuple(_overview_row(comparisons, label) for label in labels),
    )


def _overview_row(comparisons: Sequence[Comparison], label: str) -> OverviewRow:
    rows = [row for comparison in comparisons for row in comparison.summary.splits]
    cells = tuple(
        (row.figures[label], row.gains.get(label)) if label in row.figures else None for row in rows
    )
    accuracies = [None if cell is None else cell[0].accuracy.value for cell in cells]
    speedups = [cell[1].speedup if cell is not None and cell[1] else None for cell in cells]
    average = Average(accuracy=_mean_of_all(accuracies), speedup=_mean_of_all(speedups))
    return OverviewRow(label=label, cells=cells, average=average)


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    # An average that leaves out a split compares with no other.
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _headline_of_many(comparisons: Sequence[Comparison]) -> str:
    rows = {row.label: row.average for row in overview(comparisons).rows}
    ours, base = rows.get(NAMES["speceyes"]), rows.get(NAMES["baseline"])
    count = sum(comparison.summary.compared for comparison in comparisons)
    asked = f"{count} questions of {len(comparisons)} suites"
    if ours is None or base is None or ours.speedup is None:
        return f"{asked}, answered by {len(rows)} methods."
    return (
        f"{asked}: on average over the splits SpecEyes is {ours.speedup:.2f} times as fast as the "
        f"agent alone, with {_percent(ours.accuracy)} right; alone it has "
        f"{_percent(base.accuracy)}."
    )


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


@cache
def environment() -> jinja2.Environment:
    """Make what templates of pages are rendered by."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ConfigError("report", "needs jinja2: pip install 'speceyes[lab]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speceyes.bench.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "times": lambda value: _MISSING if value is None else f"{value:.2f}×",
        "points": _points,
        "points_fine": lambda value: f"{100 * value:+.2f}".replace("-", _MINUS),
        "plain": lambda name: str(name).replace("_", " "),
        "seconds": _seconds,
        "score": lambda value: _MISSING if value is None else f"{value:.3g}",
        "range": lambda interval, digits: _range(interval, lambda v: _number(v, digits)),
        "range_percent": lambda interval: _range(interval, lambda v: f"{100 * v:.1f}"),
        "range_points": lambda interval: _range(interval, _points),
        "clip": lambda value: round(min(max(float(value), 0.0), 100.0), 1),
    }
    return environment


def _number(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return _MISSING
    return "<0.001 s" if 0.0 < value < 0.0005 else f"{value:.{2 if value >= 1.0 else 3}f} s"


def _points(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:+.1f}".replace("-", _MINUS)


def _range(interval: Interval | None, write: Callable[[float], str]) -> str:
    return "" if interval is None else f"{write(interval.low)} to {write(interval.high)}"
