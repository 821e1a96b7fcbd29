"""How a run goes, and what runs came to, are shown on a terminal here.

It refuses to know how figures are made. Where nobody watches, lines take the place of a live table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from speceyes.bench.comparison import NAMES, Comparison
from speceyes.bench.grids import Point
from speceyes.bench.insight import Insight
from speceyes.bench.records import Method, Record
from speceyes.bench.stats import Interval, Share
from speceyes.bench.summary import Figures, Gain, Summary, was_screened

_REFRESH_S: Final = 0.5  # drawing takes the models' time: seldom, and for all methods alike
_LINE_EVERY: Final = 40  # records, where nobody watches
_WIDE: Final = 118  # columns of text from which on the table is whole
_MISSING: Final = "–"
_SETTINGS: Final = ("definition", "aggregation", "k", "threshold")


class Tally:
    """Count what one method has so far: memory does not grow with the run."""

    def __init__(self) -> None:
        self.answered = self.right = self.failed = self.screened = self.accepted = 0
        self.seconds = 0.0
        self.zooms = 0

    def add(self, record: Record) -> None:
        """Count one record in."""
        self.answered += 1
        self.right += record.is_right
        self.failed += record.text is None
        self.seconds += record.elapsed_s
        self.zooms += record.depth
        self.screened += was_screened(record)
        self.accepted += record.speculation is not None and record.speculation.accepted

    def row(self, method: Method) -> tuple[str, ...]:
        """Give what the live table shows of it."""
        has_funnel = method == "speceyes"
        return (
            NAMES[method],
            str(self.answered),
            _percent(Share(self.right, self.answered).value),
            str(self.failed),
            _number(self.seconds / self.answered if self.answered else None, 2),
            _number(self.zooms / self.answered if self.answered else None, 2),
            _number(Share(self.screened, self.answered).value if has_funnel else None, 2),
            _number(Share(self.accepted, self.screened).value if has_funnel else None, 2),
        )


class LiveProgress:
    """Show how far a run is and what it has so far. A `run.Watcher`; use it within `with`."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._drawn_s = 0.0
        self._seen: dict[Method, Tally] = {}
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task: TaskID | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begins(self, stage: str, items: int, *, done: int = 0) -> None:
        """Begin a stage with so many items, some of them done before."""
        if self._task is not None:
            self._progress.update(self._task, visible=False)
        self._task = self._progress.add_task(stage, total=items or None, completed=done)
        if not self._console.is_terminal:
            self._console.print(f"{stage} ({items})" + (f", {done} done before" if done else ""))
        self._draw(at_once=True)

    def advances(self) -> None:
        """Count one item that leaves no record."""
        if self._task is not None:
            self._progress.advance(self._task)
        self._draw()

    def saw(self, record: Record) -> None:
        """Count a record in."""
        self._seen.setdefault(record.method, Tally()).add(record)
        count = sum(tally.answered for tally in self._seen.values())
        if not self._console.is_terminal and count % _LINE_EVERY == 0:
            self._console.print(f"  {count} answered")
        self.advances()

    def _draw(self, *, at_once: bool = False) -> None:
        now_s = self._clock()
        if self._console.is_terminal and (at_once or now_s - self._drawn_s >= _REFRESH_S):
            self._drawn_s = now_s
            self._live.update(Group(self._table(), self._progress), refresh=True)

    def _table(self) -> Table:
        columns = ("answered", "right", "failed", "seconds", "zooms", "beta", "alpha")
        table = _plain_table("", *columns)
        for method in NAMES:
            if method in self._seen:
                table.add_row(*self._seen[method].row(method))
        return table


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Show all that was run on one suite: the table, then what it has no room for."""
    suite, summary = comparison.suite, comparison.summary
    asked = f"{suite.source}: {summary.compared} of {suite.total} items, by all methods"
    console.print(asked, style="bold", highlight=False)
    for split, (found, released) in suite.deviations.items():
        console.print(f"{split} has {found} items here, {released} in the release", style="yellow")
    if comparison.missing:
        told = f"{comparison.missing} answers are still to come: these figures are partial"
        console.print(told, style="yellow")
    console.print(summary_table(summary, width=console.width))
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, text in _facts(summary, comparison.insight):
        facts.add_row(name, text)
    console.print(facts)


def summary_table(summary: Summary, *, width: int) -> Table:
    """Put all entrants below one another, split by split; narrow terminals get no intervals."""
    is_wide = width >= _WIDE
    columns = _COLUMNS if is_wide else _COLUMNS[:-_LEFT_OUT]
    table = _plain_table("", "", *(name for name, _ in columns))
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    rows = summary.splits if len(summary.splits) > 1 else ()
    for row in (*rows, summary.overall):
        whole = row is summary.overall
        for index, (label, figures) in enumerate(row.figures.items()):
            gain = row.gains.get(label)
            cells = [_lines(*cell(figures, gain), is_wide=is_wide) for _, cell in columns]
            name = "" if index else row.name
            last = index == len(row.figures) - 1
            table.add_row(name, label, *cells, style="bold" if whole else "", end_section=last)
    return table


def show_points(console: Console, points: Sequence[Point], *, agent_accuracy: float) -> None:
    """Show what gates would have given: the settings that differ, then all items, then splits."""
    settings = {name: {getattr(p.spec, name) for p in points} for name in _SETTINGS}
    moved = [name for name in _SETTINGS if len(settings[name]) > 1] or ["threshold"]
    splits = list(dict.fromkeys(name for point in points for name in point.splits))
    shown = splits if len(splits) > 1 and console.width >= _WIDE else []
    table = _plain_table(*moved, "accepted", "right", "speedup", *shown)
    for point in points:
        whole = point.whole
        table.add_row(
            *(_setting(getattr(point.spec, name)) for name in moved),
            _percent(whole.accepted),
            _percent(whole.accuracy),
            _times(whole.speedup),
            *(
                f"{_percent(point.splits[n].accuracy)} {_times(point.splits[n].speedup)}"
                for n in shown
            ),
        )
    console.print(table)
    console.print(f"agent alone: {_percent(agent_accuracy)}, 1.00x", highlight=False)


def counts_table(rows: Mapping[str, Mapping[str, int]], columns: Sequence[str]) -> Table:
    """Show counts, a row for each name, a column for each kind."""
    table = _plain_table("", *columns)
    for name, counts in rows.items():
        table.add_row(name, *(str(counts.get(column, 0)) for column in columns))
    return table


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(summary: Summary, insight: Insight) -> Iterator[tuple[str, str]]:
    if len(summary.splits) > 1:
        yield "average", "; ".join(_averages(summary)) + " (splits count alike)"
    label = summary.label_of("speceyes")
    if label is not None:
        rejects = _counted(summary.reject_reasons[label])
        told = f"; rejected: {rejects}" if rejects else ""
        yield "routes", (_counted(summary.routes[label]) or "none") + told
    for name, mishaps in summary.mishaps.items():
        if mishaps:
            yield "failed", f"{name}: {_counted(mishaps)}"
    if summary.left_out:
        yield "left out", f"{summary.left_out} answers to items that not all methods ended"
    if insight.screened_right is not None:
        yield "screen", f"{_share(insight.screened_right)} sent the right way"
    yield from _parts(insight)


def _parts(insight: Insight) -> Iterator[tuple[str, str]]:
    small, agent, proposing = insight.small, insight.agent, insight.proposing
    accepted = insight.accepted
    if accepted is not None:
        of_kinds = f"easy {_share(accepted.easy)}, hard {_share(accepted.hard)}; "
        told = of_kinds if accepted.hard.count else ""
        yield "accepted", f"{told}right {_share(accepted.right)}"
        if set(accepted.by_looks) != {0}:
            yield "", _looked(accepted.by_looks)
    if small is not None:
        if small.hard.count:
            guessing = f"guessing gives {_percent(small.chance_hard)}"
            yield "small", f"easy {_share(small.easy)}, hard {_share(small.hard)}; {guessing}"
        yield "gate", f"AUROC of the small model's scores {_number(small.auroc, 3)}"
    if agent is not None and agent.hard.count:
        yield "agent", f"easy {_share(agent.easy)}, hard {_share(agent.hard)}"
        yield "", f"zooms on the target, hard items: {_share(agent.zooms_on_target)}"
    if proposing is not None:
        told = f"{_share(proposing.accepted)} of {proposing.accepted.count} proposals accepted"
        yield "SpecReason", f"{told}, {proposing.unscored} without a score"


def _looked(by_looks: Mapping[int, int]) -> str:
    named = {0: "at first sight", 1: "after a look"}
    return ", ".join(f"{n} {named.get(k, f'after {k} looks')}" for k, n in by_looks.items())


def _averages(summary: Summary) -> Iterator[str]:
    for label, average in summary.averages.items():
        speedup = "" if average.speedup is None else f", {_times(average.speedup)}"
        yield f"{label} {_percent(average.accuracy)}{speedup}"


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in ordered)


def _items(figures: Figures, _: Gain | None) -> tuple[str, str]:
    notes = [f"{figures.failed} failed"] if figures.failed else []
    notes += [f"{figures.undecided} undecided"] if figures.undecided else []
    return str(figures.accuracy.count), ", ".join(notes)


def _accuracy(figures: Figures, _: Gain | None) -> tuple[str, str]:
    return _percent(figures.accuracy.value), _percent_bounds(figures.accuracy.interval)


def _points_cell(_: Figures, gain: Gain | None) -> tuple[str, str]:
    if gain is None:
        return "", ""
    interval = gain.difference_interval
    bounds = "" if interval is None else f"{_points(interval.low)} to {_points(interval.high)}"
    return _points(gain.difference), bounds


def _speedup(_: Figures, gain: Gain | None) -> tuple[str, str]:
    if gain is None:
        return "", ""
    return _times(gain.speedup), _bounds(gain.speedup_interval, lambda v: f"{v:.2f}")


def _ratio(share: Share | None) -> tuple[str, str]:
    if share is None:
        return "", ""
    bounds = _bounds(share.interval, lambda v: f"{v:.2f}".removeprefix("0"))
    return _number(share.value, 2), bounds


def _limit(figures: Figures, gain: Gain | None) -> tuple[str, str]:
    if figures.beta is None:
        return "", ""
    share = None if gain is None else gain.share_of_limit
    return _times(figures.limit), "" if share is None else f"got {share:.2f}"


# What each column says of an entrant: a figure, and what is below it.
_COLUMNS: Final[tuple[tuple[str, Callable[[Figures, Gain | None], tuple[str, str]]], ...]] = (
    ("items", _items),
    ("right", _accuracy),
    ("points", _points_cell),
    ("speedup", _speedup),
    ("beta", lambda figures, _: _ratio(figures.beta)),
    ("alpha", lambda figures, _: _ratio(figures.alpha)),
    ("limit", _limit),
    ("seconds", lambda figures, _: _latency(figures)),
    ("zooms", lambda figures, _: (_number(figures.depth, 2), "")),
    ("tokens", lambda figures, _: (_number(figures.completion_tokens, 0), "")),
)
_LEFT_OUT: Final = 3  # of the columns, where there is little room


def _latency(figures: Figures) -> tuple[str, str]:
    if figures.latency is None:
        return _MISSING, ""
    return _number(figures.latency.mean_s, 2), f"p50 {figures.latency.p50_s:.2f}"


def _lines(value: str, below: str, *, is_wide: bool) -> str:
    return f"{value}\n[dim]{below}[/dim]" if below and is_wide else value


def _plain_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _share(share: Share) -> str:
    bounds = _percent_bounds(share.interval)
    return f"{_percent(share.value)} ({bounds})" if bounds else _percent(share.value)


def _percent_bounds(interval: Interval | None) -> str:
    return _bounds(interval, lambda v: f"{100 * v:.1f}".replace("100.0", "100"))


def _bounds(interval: Interval | None, write: Callable[[float], str]) -> str:
    return "" if interval is None else f"{write(interval.low)}–{write(interval.high)}"


def _number(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def _times(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:+.1f}"
