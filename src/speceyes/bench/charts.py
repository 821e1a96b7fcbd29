"""Figures are laid out here: numbers in, positions and paths on an SVG canvas out.

It refuses to know colours, fonts and words: the page that shows a chart has those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.rescore import Sweep
from speceyes.bench.stats import Floats, density, quantile
from speceyes.bench.summary import PHASES, MethodFigures

WIDTH: Final = 520.0  # canvas units; the page scales them
LEFT: Final = 46.0
RIGHT: Final = WIDTH - 14.0
_GRID_POINTS: Final = 160


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Map values to canvas positions, linearly."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Give the position of a value; values beyond the ends stay at them."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[Tick]:
        """Give about `count` marks at round values."""
        step = _round_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            Tick(self.at(index * step), f"{index * step:.{digits}f}")
            for index in range(first, last + 1)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Densities:
    """How the scores of right and of wrong answers are spread, with the threshold between."""

    x: Axis
    right: str
    wrong: str
    right_rug: list[float]
    wrong_rug: list[float]
    right_count: int
    wrong_count: int
    threshold: float | None
    top: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One curve over thresholds: its vertical axis, its path, and a line to compare with."""

    y: Axis
    path: str
    reference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Accuracy and speedup over the threshold, one above the other."""

    x: Axis
    accuracy: Panel
    speedup: Panel
    threshold: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a bar: its kind, where it begins, how long it is, and its value."""

    kind: str
    start: float
    length: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars of several parts, one per method, on one axis."""

    axis: Axis
    rows: Mapping[str, list[Bar]]


def draw_densities(
    right: Sequence[float], wrong: Sequence[float], threshold: float | None
) -> Densities | None:
    """Lay out the densities of two groups of scores; None if there is no score at all."""
    if not right and not wrong:
        return None
    x = _score_axis([*right, *wrong], threshold)
    grid = np.linspace(x.low, x.high, _GRID_POINTS)
    curves = [density(values, grid) for values in (right, wrong)]
    top, bottom = 16.0, 236.0
    y = Axis(0.0, float(max(curve.max() for curve in curves)) * 1.05, bottom, top)
    return Densities(
        x=x,
        right=_area((x, y), grid, curves[0]) if right else "",
        wrong=_area((x, y), grid, curves[1]) if wrong else "",
        right_rug=[x.at(value) for value in right],
        wrong_rug=[x.at(value) for value in wrong],
        right_count=len(right),
        wrong_count=len(wrong),
        threshold=None if threshold is None else x.at(threshold),
        top=top,
        bottom=bottom,
    )


def draw_curves(sweep: Sweep, threshold: float) -> Curves:
    """Lay out what re-scoring gave, threshold by threshold."""
    x = _score_axis(sweep.thresholds[1:].tolist() or [0.0, 1.0], threshold)
    worst = float(min(sweep.accuracy.min(), sweep.agent_accuracy))
    floor = max(0.0, math.floor((worst - 0.02) * 20) / 20)
    fastest = float(sweep.speedup.max())
    slowest = min(float(sweep.speedup.min()), 1.0)
    accuracy = Axis(floor, 1.0, 136.0, 16.0)
    speedup = Axis(math.floor(slowest * 2) / 2, math.ceil(fastest * 4) / 4, 286.0, 166.0)
    return Curves(
        x=x,
        accuracy=Panel(
            y=accuracy,
            path=_steps((x, accuracy), sweep.thresholds, sweep.accuracy),
            reference=accuracy.at(sweep.agent_accuracy),
        ),
        speedup=Panel(
            y=speedup,
            path=_steps((x, speedup), sweep.thresholds, sweep.speedup),
            reference=speedup.at(1.0),
        ),
        threshold=x.at(threshold),
    )


def draw_phases(methods: Mapping[str, MethodFigures]) -> Bars | None:
    """Lay out the mean seconds per query that each phase took; None if nothing was timed.

    What lies between the phases (first views, waiting) is the part called `other`.
    """
    longest = max((figures.latency_mean_s or 0.0 for figures in methods.values()), default=0.0)
    if longest == 0.0:
        return None
    axis = Axis(0.0, longest * 1.12, 0.0, WIDTH - 24.0)
    rows = {}
    for name, figures in methods.items():
        parts: dict[str, float] = {p: figures.phase_mean_s.get(p, 0.0) for p in PHASES}
        other = max(0.0, (figures.latency_mean_s or 0.0) - sum(parts.values()))
        rows[name] = _stacked(axis, {**parts, "other": other})
    return Bars(axis=axis, rows=rows)


def draw_depths(methods: Mapping[str, MethodFigures]) -> Bars:
    """Lay out, per method, the share of queries by number of tool calls."""
    axis = Axis(0.0, 1.0, 0.0, 120.0)
    deepest = max((d for figures in methods.values() for d in figures.depths), default=0)
    rows = {}
    for name, figures in methods.items():
        count = sum(figures.depths.values()) or 1
        shares = [figures.depths.get(depth, 0) / count for depth in range(deepest + 1)]
        rows[name] = [Bar(str(d), 0.0, axis.at(share), share) for d, share in enumerate(shares)]
    return Bars(axis=axis, rows=rows)


def _score_axis(scores: Sequence[float], threshold: float | None) -> Axis:
    # A few extreme scores must not press all others together; they stay at the edge.
    low, high = quantile(scores, 0.005) or 0.0, quantile(scores, 0.995) or 1.0
    if threshold is not None and math.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.06 * (high - low) or 0.5
    return Axis(low - margin, high + margin, LEFT, RIGHT)


def _area(axes: tuple[Axis, Axis], grid: Floats, curve: Floats) -> str:
    x, y = axes
    line = " ".join(f"L{x.at(g)} {y.at(v)}" for g, v in zip(grid, curve, strict=True))
    return f"M{x.at(grid[0])} {y.start} {line} L{x.at(grid[-1])} {y.start} Z"


def _steps(axes: tuple[Axis, Axis], thresholds: Floats, values: Floats) -> str:
    x, y = axes
    parts = [f"M{x.start} {y.at(values[0])}"]
    parts += [f"H{x.at(t)} V{y.at(v)}" for t, v in zip(thresholds[1:], values[1:], strict=True)]
    return " ".join([*parts, f"H{x.end}"])


def _stacked(axis: Axis, parts: Mapping[str, float]) -> list[Bar]:
    bars, total = [], 0.0
    for kind, value in parts.items():
        start = axis.at(total)
        total += value
        bars.append(Bar(kind, start, round(axis.at(total) - start, 2), value))
    return bars


def _round_step(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
