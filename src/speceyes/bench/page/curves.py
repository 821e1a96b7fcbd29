"""Accuracy and speedup are laid out here over what decides them: threshold, K, rank, concurrency.

Numbers in, positions and paths on an SVG canvas out. It refuses to know colours, fonts and words:
the page that shows a chart has those. Who a line or a dot belongs to is told by its `tone`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.page.axes import Axis, line_through, score_axis, steps_along
from speceyes.bench.page.charts import WIDTH
from speceyes.bench.rescore import Outlook, Sweep
from speceyes.bench.stats import Interval

ENDS: Final = (52.0, WIDTH - 20.0)  # of horizontal axes
_UPPER: Final = (146.0, 26.0)  # foot and top of a panel
_LOWER: Final = (300.0, 180.0)
_SINGLE: Final = (236.0, 26.0)
_WINDOW_SHARE: Final = 10  # a rolling window is one in so many of all
_LEAST_WINDOW: Final = 5
_MOST_POINTS: Final = 400
_WIDE_RATIO: Final = 4.0  # speedups that differ more are drawn by their logarithms
_LETTER_SHIFTS: Final = ((10.0, -9.0), (10.0, 9.0), (-10.0, -9.0), (-10.0, 9.0))

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A path, and whose it is."""

    tone: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A measured point, whose it is, its intervals along both axes, and where its letter goes."""

    tone: str
    letter: str
    x: float
    y: float
    across: Point | None = None  # of x
    along: Point | None = None  # of y
    letter_at: Point = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One vertical axis with what is drawn on it; `reference` is a level to compare with."""

    name: str
    y: Axis
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    reference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Panels below one another over one horizontal axis; `rule` is an upright line across them."""

    x: Axis
    panels: tuple[Panel, ...]
    rule: float | None = None

    @property
    def foot(self) -> float:
        """Where the lowest panel ends."""
        return max(panel.y.start for panel in self.panels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One who is drawn as a dot: accuracy and speedup, as measured."""

    tone: str
    letter: str
    accuracy: float
    accuracy_interval: Interval | None
    speedup: float
    speedup_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Accuracy over speedup, and the letters of those whom nobody beats in both."""

    chart: Chart
    unbeaten: frozenset[str]


def over_thresholds(sweep: Sweep, threshold: float) -> Chart:
    """Lay out what re-scoring gave, threshold by threshold."""
    scores = sweep.thresholds[1:].tolist() or [0.0, 1.0]
    is_share = sweep.spec.scale == "squashed" or sweep.spec.aggregation == "log"
    x = score_axis(scores, ENDS, keep=threshold, is_share=is_share)
    panels = _panels(
        [*sweep.accuracy.tolist(), sweep.agent_accuracy], [*sweep.speedup.tolist(), 1.0]
    )
    values = (sweep.accuracy, sweep.speedup)
    levels = (sweep.agent_accuracy, 1.0)
    return Chart(
        x=x,
        panels=tuple(
            Panel(
                name=name,
                y=y,
                lines=(Line("speceyes", steps_along((x, y), sweep.thresholds, found)),),
                reference=y.at(level),
            )
            for (name, y), found, level in zip(panels.items(), values, levels, strict=True)
        ),
        rule=x.at(threshold),
    )


def over_k(outlooks: Sequence[Outlook], *, agent_accuracy: float, k: int) -> Chart | None:
    """Lay out what re-scoring gave for each K; None if there are fewer than two."""
    if len(outlooks) < 2:
        return None
    ks = [float(outlook.spec.k) for outlook in outlooks]
    margin = 0.03 * (max(ks) - min(ks))
    x = Axis(min(ks) - margin, max(ks) + margin, *ENDS)
    values = ([o.accuracy for o in outlooks], [o.speedup for o in outlooks])
    levels = (agent_accuracy, 1.0)
    panels = _panels([*values[0], agent_accuracy], [*values[1], 1.0])
    return Chart(
        x=x,
        panels=tuple(
            Panel(
                name=name,
                y=y,
                lines=(Line("speceyes", line_through((x, y), zip(ks, found, strict=True))),),
                dots=tuple(
                    Dot(tone="speceyes", letter="", x=x.at(at), y=y.at(value))
                    for at, value in zip(ks, found, strict=True)
                ),
                reference=y.at(level),
            )
            for (name, y), found, level in zip(panels.items(), values, levels, strict=True)
        ),
        rule=x.at(float(k)),
    )


def over_concurrency(families: Sequence[Sequence[tuple[int, Contender]]]) -> Chart | None:
    """Lay out families of contenders by their concurrency; None if none has two of them."""
    lined = [family for family in families if len({count for count, _ in family}) > 1]
    everyone = [contender for family in lined for _, contender in family]
    if not everyone:
        return None
    counts = [float(count) for family in lined for count, _ in family]
    x = Axis(min(counts) / 1.2, max(counts) * 1.2, *ENDS, is_log=True)
    panels = _panels(
        [v for c in everyone for v in _reach(c.accuracy, c.accuracy_interval)],
        [1.0, *(v for c in everyone for v in _reach(c.speedup, c.speedup_interval))],
    )
    upper, lower = panels["accuracy"], panels["speedup"]
    made: list[tuple[list[Line], list[Dot]]] = [([], []), ([], [])]
    for family in lined:
        ordered = sorted(family, key=lambda entry: entry[0])
        for place, y in enumerate((upper, lower)):
            points = [(float(n), (c.accuracy, c.speedup)[place]) for n, c in ordered]
            made[place][0].append(Line(ordered[0][1].tone, line_through((x, y), points)))
            made[place][1].extend(
                Dot(
                    tone=c.tone,
                    letter="",
                    x=x.at(n),
                    y=y.at((c.accuracy, c.speedup)[place]),
                    along=_ends(y, (c.accuracy_interval, c.speedup_interval)[place]),
                )
                for n, c in ordered
            )
    return Chart(
        x=x,
        panels=(
            Panel(name="accuracy", y=upper, lines=tuple(made[0][0]), dots=tuple(made[0][1])),
            Panel(
                name="speedup",
                y=lower,
                lines=tuple(made[1][0]),
                dots=tuple(made[1][1]),
                reference=lower.at(1.0),
            ),
        ),
    )


def rolling_window(count: int) -> int:
    """Say over how many answers in a row a rolling accuracy is taken."""
    return max(_LEAST_WINDOW, round(count / _WINDOW_SHARE))


def over_ranks(scored: Sequence[tuple[float, bool]], threshold: float) -> Chart | None:
    """Lay out the rolling accuracy of answers, the best scored first; None if there are too few.

    The upright line is where the threshold parts them.
    """
    window = rolling_window(len(scored))
    if len(scored) < 2 * window:
        return None
    ordered = sorted(scored, key=lambda entry: -entry[0])
    right = np.cumsum([0, *(is_right for _, is_right in ordered)])  # (N + 1,)
    rolling = (right[window:] - right[:-window]) / window  # (N - window + 1,)
    places = _thinned(len(rolling))
    x = Axis(0.0, float(len(ordered)), *ENDS)
    y = Axis(0.0, 1.0, *_SINGLE)
    points = [(place + window / 2, float(rolling[place])) for place in places]
    above = sum(score > threshold for score, _ in ordered)
    return Chart(
        x=x,
        panels=(
            Panel(
                name="accuracy",
                y=y,
                lines=(Line("speceyes", line_through((x, y), points)),),
                reference=y.at(float(right[-1]) / len(ordered)),
            ),
        ),
        rule=x.at(float(above)),
    )


def draw_front(contenders: Sequence[Contender], sweep: Sweep | None) -> Front | None:
    """Lay out accuracy over speedup: dots as measured, and the curve over all thresholds.

    The front is what nothing beats in both, of dots and curve alike. None with fewer than two dots.
    """
    if len(contenders) < 2:
        return None
    curve: list[Point] = []
    if sweep is not None:
        pairs = zip(sweep.speedup.tolist(), sweep.accuracy.tolist(), strict=True)
        curve = list(dict.fromkeys(pairs))
    across = [v for c in contenders for v in _reach(c.speedup, c.speedup_interval)]
    along = [v for c in contenders for v in _reach(c.accuracy, c.accuracy_interval)]
    x = _speedup_axis([*across, *(point[0] for point in curve)], ENDS)
    y = _share_axis([*along, *(point[1] for point in curve)], _SINGLE)
    places = _letter_places([(x.at(c.speedup), y.at(c.accuracy)) for c in contenders])
    dots = tuple(
        Dot(
            tone=c.tone,
            letter=c.letter,
            x=x.at(c.speedup),
            y=y.at(c.accuracy),
            across=_ends(x, c.speedup_interval),
            along=_ends(y, c.accuracy_interval),
            letter_at=place,
        )
        for c, place in zip(contenders, places, strict=True)
    )
    best = _unbeaten([*curve, *((c.speedup, c.accuracy) for c in contenders)])
    lines = [Line("front", _staircase((x, y), best))]
    if curve:
        lines.insert(0, Line("curve", line_through((x, y), _every(curve))))
    return Front(
        chart=Chart(x=x, panels=(Panel(name="accuracy", y=y, lines=tuple(lines), dots=dots),)),
        unbeaten=frozenset(c.letter for c in contenders if (c.speedup, c.accuracy) in best),
    )


def _letter_places(points: Sequence[Point]) -> list[Point]:
    # Beside its dot, where no other dot and no earlier letter is; else where it is roomiest.
    taken = list(points)
    for x, y in points:
        around = [(x + right, y + down) for right, down in _LETTER_SHIFTS]
        roomy = max(around, key=lambda at: (min(12.0, _nearest(at, taken)), -around.index(at)))
        taken.append(roomy)
    return taken[len(points) :]


def _nearest(place: Point, others: Sequence[Point]) -> float:
    return min(math.dist(place, other) for other in others)


def _unbeaten(points: Sequence[Point]) -> list[Point]:
    # Fastest first; each of the next must be more accurate than all before it.
    best: list[Point] = []
    for point in sorted(set(points), reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]  # the slowest, which is the most accurate, first


def _staircase(axes: tuple[Axis, Axis], best: Sequence[Point]) -> str:
    x, y = axes
    steps = [f"M{x.start} {y.at(best[0][1])}"]
    for place, (speedup, accuracy) in enumerate(best):
        steps.append(f"{f'V{y.at(accuracy)} ' if place else ''}H{x.at(speedup)}")
    return " ".join(steps)


def _panels(accuracies: Sequence[float], speedups: Sequence[float]) -> Mapping[str, Axis]:
    return {
        "accuracy": _share_axis(accuracies, _UPPER),
        "speedup": _speedup_axis(speedups, _LOWER),
    }


def _share_axis(values: Sequence[float], ends: Point) -> Axis:
    low = max(0.0, math.floor((min(values) - 0.02) * 20) / 20)
    high = min(1.0, math.ceil((max(values) + 0.005) * 20) / 20)
    return Axis(low, max(high, low + 0.05), *ends)


def _speedup_axis(values: Sequence[float], ends: Point) -> Axis:
    low, high = min(values), max(values)
    if low > 0.0 and high / low > _WIDE_RATIO:
        return Axis(low / 1.1, high * 1.1, *ends, is_log=True)
    return Axis(max(0.0, math.floor(low * 4 - 0.2) / 4), math.ceil(high * 4 + 0.2) / 4, *ends)


def _reach(value: float, interval: Interval | None) -> tuple[float, ...]:
    return (value,) if interval is None else (value, interval.low, interval.high)


def _ends(axis: Axis, interval: Interval | None) -> Point | None:
    return None if interval is None else (axis.at(interval.low), axis.at(interval.high))


def _thinned(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int)))


def _every(points: Sequence[Point]) -> list[Point]:
    return [points[place] for place in _thinned(len(points))]
