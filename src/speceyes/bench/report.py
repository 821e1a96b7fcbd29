"""A run becomes one page here: table, figures and a gallery, without a network or another file.

It refuses to know how the run was made; it shows what is in its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from speceyes.bench import charts
from speceyes.bench.document import Run
from speceyes.bench.gallery import Card, cards
from speceyes.bench.items import Item
from speceyes.bench.rescore import Sweep, cases_of, sweep
from speceyes.bench.stats import Interval, quantile
from speceyes.bench.summary import Summary
from speceyes.errors import ConfigError

if TYPE_CHECKING:
    import jinja2

_LABELS: Final = {"baseline": "agent alone", "speceyes": "SpecEyes"}
_MISSING: Final = "–"


def render(run: Run, summary: Summary, items: Sequence[Item]) -> str:
    """Write a run as a page; `items` give the gallery's pictures.

    Raises: ConfigError if jinja2 is not installed.
    """
    spec, whole = run.setup.gate, summary.overall
    methods = {"baseline": whole.baseline, "speceyes": whole.speceyes}
    alone = [record for record in run.records if record.method == "small"]
    scored = [(r.speculation.score, r.is_right) for r in alone if r.speculation]
    scores = [(score, is_right) for score, is_right in scored if score is not None]
    rescored = sweep(cases_of(run.records), strict=spec.strict)
    shown = cards(items, run.records)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            run=run,
            summary=summary,
            headline=headline(summary),
            labels=_LABELS,
            phases=charts.draw_phases(methods),
            depths=charts.draw_depths(methods),
            densities=charts.draw_densities(
                [score for score, is_right in scores if is_right],
                [score for score, is_right in scores if not is_right],
                spec.threshold,
            ),
            curves=None if rescored is None else charts.draw_curves(rescored, spec.threshold),
            steps=None if rescored is None else _plain(rescored),
            cards=shown,
            routes=sorted({card.route for card in shown}),
            reach=_reach(shown),
        )
    )


def headline(summary: Summary) -> str:
    """Say in one sentence what a run came to."""
    whole = summary.overall
    count, ours = whole.speceyes.accuracy.count, whole.speceyes.accuracy.value
    if not count:
        return "The run ended before both ways had answered anything."
    if whole.speedup is None:
        return f"{count} questions answered both ways; none of their blocks was finished."
    return (
        f"{count} questions answered {whole.speedup:.2f} times as fast as by the agent alone, "
        f"{_percent(ours)} of them right; alone it had {_percent(whole.baseline.accuracy.value)}."
    )


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ConfigError("report", "needs jinja2: pip install 'speceyes[lab]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speceyes.bench"),
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


def _points(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _range(interval: Interval | None, write: Any) -> str:
    return "" if interval is None else f"{write(interval.low)} to {write(interval.high)}"


def _reach(shown: Sequence[Card]) -> float:
    # The end of the gallery's score meters: what nearly all scores are below.
    scores = [
        card.ours.speculation.score
        for card in shown
        if card.ours.speculation and card.ours.speculation.score is not None
    ]
    return (quantile(scores, 0.95) or 1.0) * 1.1


def _plain(rescored: Sweep) -> dict[str, list[float]]:
    return {
        "thresholds": [round(value, 4) for value in rescored.thresholds.tolist()],
        "accuracy": [round(value, 5) for value in rescored.accuracy.tolist()],
        "speedup": [round(value, 4) for value in rescored.speedup.tolist()],
        "accepted": [round(value, 4) for value in rescored.accepted.tolist()],
    }
