"""Values become positions on an SVG canvas here: axes with round marks, and paths along them.

It refuses to know what is drawn, and colours, fonts and words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from speceyes.bench.stats import Floats, quantile

_LOG_MARKS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # within each power of ten
_FEW_LOG_MARKS: Final = (1.0, 2.0, 5.0)
_WIDE_RATIO: Final = 8.0  # from here on a logarithmic axis has room for few marks only


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Map values to canvas positions, linearly, or by their logarithms (values above 0)."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Give the position of a value; values beyond the ends stay at them."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        if self.is_log and value <= 0.0:
            return self.start
        share = (self._scaled(value) - low) / ((high - low) or 1.0)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[Tick]:
        """Give about `count` marks at round values; a logarithmic axis has its own count."""
        if self.is_log:
            return self._log_ticks()
        step = _round_step((self.high - self.low) / max(count, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        if first > last:  # no round value of so few is inside
            return self.ticks(2 * count)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            Tick(self.at(index * step), f"{index * step:.{digits}f}")
            for index in range(first, last + 1)
        ]

    def _log_ticks(self) -> list[Tick]:
        marks = _FEW_LOG_MARKS if self.high / self.low > _WIDE_RATIO else _LOG_MARKS
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [mark * 10.0**power for power in powers for mark in marks]
        return [Tick(self.at(v), f"{v:g}") for v in values if self.low <= v <= self.high]

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.is_log else value


Axes = tuple[Axis, Axis]  # x, y


def score_axis(
    scores: Sequence[float], ends: tuple[float, float], *, keep: float | None, is_share: bool
) -> Axis:
    """Make an axis for scores, between two ends of the canvas, that has the value `keep` on it.

    A few extreme scores must not press all others together: they stay at the edge. A share goes
    from 0 to 1 at most.
    """
    low, high = quantile(scores, 0.005), quantile(scores, 0.995)
    low, high = (0.0 if low is None else low), (1.0 if high is None else high)
    if keep is not None and math.isfinite(keep):
        low, high = min(low, keep), max(high, keep)
    margin = 0.06 * (high - low) or 0.5
    low, high = low - margin, high + margin
    if is_share:
        low, high = max(0.0, low), min(1.0, high)
    return Axis(low, high, *ends)


def line_through(axes: Axes, points: Iterable[tuple[float, float]]) -> str:
    """Draw a path from point to point."""
    x, y = axes
    moves = [f"{x.at(one)} {y.at(other)}" for one, other in points]
    return "M" + " L".join(moves) if moves else ""


def area_under(axes: Axes, grid: Floats, curve: Floats) -> str:
    """Draw a curve, closed along the foot of the vertical axis. Shapes: both (G,)."""
    x, y = axes
    line = " ".join(f"L{x.at(g)} {y.at(v)}" for g, v in zip(grid, curve, strict=True))
    return f"M{x.at(grid[0])} {y.start} {line} L{x.at(grid[-1])} {y.start} Z"


def steps_along(axes: Axes, thresholds: Floats, values: Floats) -> str:
    """Draw values that stay the same from one threshold to the next. Shapes: both (S,)."""
    x, y = axes
    parts = [f"M{x.start} {y.at(values[0])}"]
    parts += [f"H{x.at(t)} V{y.at(v)}" for t, v in zip(thresholds[1:], values[1:], strict=True)]
    return " ".join([*parts, f"H{x.end}"])


def _round_step(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
