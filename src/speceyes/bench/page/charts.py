"""Distributions are laid out here: densities of scores, bars of phases, histograms by entrant.

Numbers in, positions and paths on an SVG canvas out. It refuses to know colours, fonts and words:
the page that shows a chart has those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.page.axes import Axis, area_under, score_axis
from speceyes.bench.stats import density
from speceyes.bench.summary import PHASES, Figures

WIDTH: Final = 520.0  # canvas units; the page scales them
SMALL_WIDTH: Final = 260.0  # of charts that stand four in a row
BAR_HEIGHT: Final = 44.0
_GRID_POINTS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Scores of one kind of answers: their curve, a stroke for each, and where the curve peaks."""

    area: str
    rug: str
    count: int
    peak: float | None  # a score; None with fewer than two answers
    peak_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Densities:
    """How the scores of right and of wrong answers are spread, with the threshold, if it has one.

    `distance`: how far the peak of the right ones lies above that of the wrong ones.
    """

    x: Axis
    right: Group
    wrong: Group
    distance: float | None
    threshold: float | None
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a bar: its kind, where it begins, how long it is, and its value."""

    kind: str
    start: float
    length: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of several parts, one row for each who is compared, on one axis."""

    axis: Axis
    rows: Mapping[str, list[Bar]]


def draw_densities(
    right: Sequence[float], wrong: Sequence[float], *, threshold: float | None, is_share: bool
) -> Densities | None:
    """Lay out the densities of two groups of scores; None if there is no score at all."""
    if not right and not wrong:
        return None
    ends = (18.0, SMALL_WIDTH - 18.0)  # room for half a mark's label
    x = score_axis([*right, *wrong], ends, keep=threshold, is_share=is_share)
    grid = np.linspace(x.low, x.high, _GRID_POINTS)
    curves = [density(values, grid) for values in (right, wrong)]
    top, bottom = 18.0, 128.0
    y = Axis(0.0, float(max(curve.max() for curve in curves)) * 1.05, bottom, top)
    one, other = (
        _group((x, y), values, curve) for values, curve in zip((right, wrong), curves, strict=True)
    )
    apart = None if one.peak is None or other.peak is None else one.peak - other.peak
    return Densities(
        x=x,
        right=one,
        wrong=other,
        distance=apart,
        threshold=None if threshold is None else x.at(threshold),
        top=top,
        bottom=bottom,
    )


def draw_phases(entrants: Mapping[str, Figures]) -> Bars | None:
    """Lay out the mean seconds per query that each phase took; None if nothing was timed.

    What lies between the phases (first views, waiting) is the part called `other`.
    """
    means = {name: f.latency.mean_s for name, f in entrants.items() if f.latency is not None}
    longest = max(means.values(), default=0.0)
    if longest == 0.0:
        return None
    axis = Axis(0.0, longest * 1.14, 0.0, WIDTH - 4.0)
    rows = {}
    for name, mean_s in means.items():
        phases = entrants[name].phases
        parts: dict[str, float] = {p: phases[p].mean_s for p in PHASES if p in phases}
        rows[name] = _stacked(axis, {**parts, "other": max(0.0, mean_s - sum(parts.values()))})
    return Bars(axis=axis, rows=rows)


def draw_counts(counts: Mapping[str, Mapping[int, int]], values: Sequence[int]) -> Bars:
    """Lay out, row by row, which share of all has each of these values, such as tool calls made."""
    axis = Axis(0.0, 1.0, 0.0, BAR_HEIGHT)
    rows = {}
    for name, found in counts.items():
        whole = sum(found.values()) or 1
        shares = {value: found.get(value, 0) / whole for value in values}
        rows[name] = [Bar(str(value), 0.0, axis.at(s), s) for value, s in shares.items()]
    return Bars(axis=axis, rows=rows)


def _group(axes: tuple[Axis, Axis], values: Sequence[float], curve: np.ndarray) -> Group:
    x, _ = axes
    grid = np.linspace(x.low, x.high, curve.size)
    peak = float(grid[int(curve.argmax())]) if len(values) > 1 else None
    strokes = sorted({round(x.at(value), 1) for value in values})  # many answers, few places
    return Group(
        area=area_under(axes, grid, curve) if values else "",
        rug="".join(f"M{at} 0v6" for at in strokes),
        count=len(values),
        peak=peak,
        peak_at=None if peak is None else x.at(peak),
    )


def _stacked(axis: Axis, parts: Mapping[str, float]) -> list[Bar]:
    bars, total = [], 0.0
    for kind, value in parts.items():
        start = axis.at(total)
        total += value
        bars.append(Bar(kind, start, round(axis.at(total) - start, 2), value))
    return bars
