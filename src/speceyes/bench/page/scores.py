"""What each candidate score is worth is laid out here: two charts and a table of slices.

Numbers in, positions and paths on an SVG canvas out. It refuses to know colours, fonts and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.page.axes import Axis, line_through
from speceyes.bench.page.curves import ENDS, Chart, Line, Panel
from speceyes.bench.ranking import REFERENCE, Ranking
from speceyes.bench.selective import Curve

_HEIGHT: Final = (236.0, 26.0)  # foot and top
_LEAST_COVERAGE: Final = 0.02  # below it a handful of answers throws the risk about
_MOST_POINTS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCharts:
    """A ranking, whose tone each score has, and its curves drawn."""

    ranking: Ranking
    tones: Mapping[str, str]
    roc: Chart
    risk: Chart


def draw_scores(ranking: Ranking) -> ScoreCharts:
    """Lay out the curves of all scores, the paper's last, so that it lies on top."""
    names = [*(name for name in ranking.curves if name != REFERENCE), REFERENCE]
    others = [name for name in ranking.curves if name not in {REFERENCE, "combined"}]
    tones = {name: f"more-{place}" for place, name in enumerate(others)}
    tones |= {REFERENCE: "speceyes", "combined": "specreason"}
    curves = {name: ranking.curves[name] for name in names}
    overall = float(ranking.curves[REFERENCE].risk[-1])
    highest = max([overall, *(float(_seen(c)[1].max()) for c in curves.values())], default=1.0)
    return ScoreCharts(
        ranking=ranking,
        tones={name: tones[name] for name in ranking.curves},
        roc=_chart(
            {name: (c.let_through, c.kept) for name, c in curves.items()}, tones, highest=1.0
        ),
        risk=_chart(
            {name: _seen(c) for name, c in curves.items()},
            tones,
            highest=min(1.0, 1.1 * highest or 1.0),
            level=overall,
        ),
    )


def _seen(curve: Curve) -> tuple[np.typing.NDArray[np.float64], np.typing.NDArray[np.float64]]:
    shown = curve.coverage >= min(_LEAST_COVERAGE, float(curve.coverage[-1]))
    return curve.coverage[shown], curve.risk[shown]


def _chart(
    points: Mapping[str, tuple[np.typing.NDArray[np.float64], np.typing.NDArray[np.float64]]],
    tones: Mapping[str, str],
    *,
    highest: float,
    level: float | None = None,
) -> Chart:
    x, y = Axis(0.0, 1.0, *ENDS), Axis(0.0, highest, *_HEIGHT)
    lines = []
    for name, (across, along) in points.items():
        places = np.linspace(0, len(across) - 1, min(len(across), _MOST_POINTS)).round().astype(int)
        path = zip(across[places].tolist(), along[places].tolist(), strict=True)
        lines.append(Line(tones[name], line_through((x, y), path)))
    panel = Panel(
        name="accuracy",
        y=y,
        lines=tuple(lines),
        reference=None if level is None else y.at(level),
    )
    return Chart(x=x, panels=(panel,))
