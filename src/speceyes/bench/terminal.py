"""How a demo goes, what it came to, and one query's way are shown on a terminal here.

It refuses to know how figures are made. Where nobody watches, lines take the place of a live table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
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

from speceyes.bench.gallery import Passage, passages
from speceyes.bench.records import Method, Record
from speceyes.bench.stats import Interval, Share, mean
from speceyes.bench.summary import ALL, Comparison, Summary
from speceyes.events import (
    Answer,
    Event,
    FellBack,
    Gated,
    PhaseEnded,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
)
from speceyes.types import Observation

NAMES: Final[dict[Method, str]] = {
    "baseline": "agent alone",
    "speceyes": "SpecEyes",
    "small": "small alone",
}
_REFRESH_S: Final = 0.5  # drawing takes the models' time: seldom, and for both methods alike
_LINE_EVERY: Final = 40  # records, where nobody watches
_WIDE: Final = 112  # columns of text from which on the table is whole
_MISSING: Final = "–"


class LiveProgress:
    """Show how far a demo is and what it has so far. A `Watcher`; use it within `with`."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._drawn_s = 0.0
        self._seen: dict[Method, list[Record]] = {"baseline": [], "speceyes": [], "small": []}
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

    def begins(self, stage: str, items: int) -> None:
        """Begin a stage with so many items to come."""
        if self._task is not None:
            self._progress.update(self._task, visible=False)
        self._task = self._progress.add_task(stage, total=items or None)
        if not self._console.is_terminal:
            self._console.print(f"{stage} ({items})")
        self._draw(at_once=True)

    def advances(self) -> None:
        """Count one item that leaves no record."""
        if self._task is not None:
            self._progress.advance(self._task)
        self._draw()

    def saw(self, record: Record) -> None:
        """Count a record in."""
        self._seen[record.method].append(record)
        count = sum(map(len, self._seen.values()))
        if not self._console.is_terminal and count % _LINE_EVERY == 0:
            self._console.print(f"  {count} answered")
        self.advances()

    def _draw(self, *, at_once: bool = False) -> None:
        now_s = self._clock()
        if self._console.is_terminal and (at_once or now_s - self._drawn_s >= _REFRESH_S):
            self._drawn_s = now_s
            self._live.update(Group(self._table(), self._progress), refresh=True)

    def _table(self) -> Table:
        table = _plain_table("", "answered", "right", "seconds each", "zooms each")
        for method, records in self._seen.items():
            table.add_row(
                NAMES[method],
                str(len(records)),
                _percent(Share.of([record.is_right for record in records]).value),
                _number(mean([record.elapsed_s for record in records]), 2),
                _number(mean([record.depth for record in records]), 2),
            )
        return table


def summary_table(summary: Summary, *, width: int) -> Table:
    """Put both methods side by side, split by split, with intervals; narrow terminals get less."""
    columns = _COLUMNS if width >= _WIDE else _COLUMNS[:-_LEFT_OUT]
    table = _plain_table("", *(name for name, _ in columns))
    for row in summary.rows:
        whole = row.name == ALL
        cells = [
            f"{value}\n[dim]{below}[/dim]" for value, below in (cell(row) for _, cell in columns)
        ]
        table.add_row(row.name, *cells, style="bold" if whole else "")
    return table


def summary_facts(summary: Summary) -> Table:
    """Say what the table has no room for."""
    whole, small, agent = summary.overall, summary.small, summary.agent
    routes = ", ".join(f"{route} {count}" for route, count in sorted(summary.routes.items()))
    rejects = ", ".join(f"{why} {count}" for why, count in sorted(summary.reject_reasons.items()))
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_row("routes", (routes or "none") + (f"; rejected: {rejects}" if rejects else ""))
    facts.add_row("screen", f"{_share(summary.screened_right)} sent the right way")
    guessing = f"guessing gives {_percent(small.chance_hard)}"
    facts.add_row("small", f"easy {_share(small.easy)}, hard {_share(small.hard)}; {guessing}")
    facts.add_row("", f"AUROC of its scores {_number(small.auroc, 3)}")
    facts.add_row("agent", f"easy {_share(agent.easy)}, hard {_share(agent.hard)}")
    facts.add_row("", f"zooms on the target, hard items: {_share(agent.zooms_on_target)}")
    first, then = (_number(m.latency_p50_s, 2) for m in (whole.baseline, whole.speceyes))
    facts.add_row("latency", f"median {first} s > {then} s")
    return facts


def show_event(console: Console, event: Event) -> None:
    """Show one step of a query's way; most events need no line."""
    for label, text in _describe(event):
        _show(console, label, text)


def show_answer(console: Console, answer: Answer) -> None:
    """Show where a query's way ended, and what it took."""
    zooms = f"{answer.depth} zoom{'' if answer.depth == 1 else 's'}"
    spent = f"{answer.elapsed_s:.2f} s, {zooms}, {answer.usage.completion_tokens} tokens said"
    _show(console, "answer", f"[bold]{_escaped(answer.text)}[/bold]  ({answer.route}; {spent})")


def _describe(event: Event) -> Iterator[tuple[str, str]]:
    match event:
        case Screened(p_tool=p_tool, needs_tool=needs):
            found = "cannot tell" if p_tool is None else f"p(needs a tool) = {p_tool:.3f}"
            yield "I screen", f"{found}: {'ask the agent' if needs else 'no tool needed'}"
        case Speculated(generation=generation):
            yield "II speculate", f"the small model says [bold]{_escaped(generation.text)}[/bold]"
        case Gated(verdict=verdict):
            reason = verdict.reason.replace("_", " ")
            scored = "not scored"
            if verdict.score is not None:
                scored = f"score {verdict.score:.2f}, threshold {verdict.threshold:.2f}"
            yield "III gate", f"{scored}: [bold]{reason}[/bold]"
        case FellBack(reason=reason):
            yield "IV fall back", f"the agent answers ({reason.replace('_', ' ')})"
        case TurnFinished(turn=turn, generation=generation):
            for index, passage in enumerate(passages(generation.text)):
                yield "" if index else f"  turn {turn}", _said(passage)
        case ToolFinished(observation=observation):
            yield from _observed(observation)
        case PhaseEnded(error=error) if error is not None:
            yield "", f"[red]{_escaped(str(error))}[/red]"
        case _:
            return


def _observed(observation: Observation) -> Iterator[tuple[str, str]]:
    for repair in observation.repairs:
        yield "", f"mended in the code: {_escaped(repair)}"
    if observation.error is not None:
        yield "", f"[red]told: {_escaped(observation.error)}[/red]"
    for box in observation.boxes_px:
        if box is None:
            yield "", "sees a picture that its code made"
        else:
            corners = f"{box.left_px}, {box.top_px} to {box.right_px}, {box.bottom_px}"
            yield "", f"sees {corners} (pixels of the original)"


def _show(console: Console, label: str, text: str) -> None:
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(width=13, style="cyan", no_wrap=True)
    line.add_column()
    line.add_row(label, text)
    console.print(line)


def _said(passage: Passage) -> str:
    match passage.tag:
        case "think":
            return f"[dim]{_escaped(passage.text)}[/dim]"
        case "answer":
            return f"answers [bold]{_escaped(passage.text)}[/bold]"
        case _:
            return _escaped(passage.text)


def _escaped(text: str) -> str:
    return escape(text.strip())


def _items(row: Comparison) -> tuple[str, str]:
    base, ours = row.baseline, row.speceyes
    failed = f"{base.failed}, {ours.failed} failed" if base.failed or ours.failed else ""
    return str(ours.accuracy.count), failed


def _accuracy(share: Share) -> tuple[str, str]:
    return _percent(share.value), _bounds(
        share.interval, lambda v: f"{100 * v:.1f}".replace("100.0", "100")
    )


def _ratio(share: Share) -> tuple[str, str]:
    bounds = _bounds(share.interval, lambda v: f"{v:.2f}".removeprefix("0"))
    return _number(share.value, 2), bounds


# What each column says of a row: a figure, and what is below it.
_COLUMNS: Final[tuple[tuple[str, Callable[[Comparison], tuple[str, str]]], ...]] = (
    ("items", _items),
    ("agent", lambda row: _accuracy(row.baseline.accuracy)),
    ("SpecEyes", lambda row: _accuracy(row.speceyes.accuracy)),
    ("speedup", lambda r: (_times(r.speedup), _bounds(r.speedup_interval, _two))),
    ("beta", lambda row: _ratio(row.beta)),
    ("alpha", lambda row: _ratio(row.alpha)),
    ("limit\nshare", lambda r: (_times(r.limit), _number(r.share_of_limit, 2))),
    ("points", lambda row: (_points(row.difference), _point_bounds(row.difference_interval))),
    (
        "zooms",
        lambda row: (f"{_number(row.baseline.depth, 2)}", f"> {_number(row.speceyes.depth, 2)}"),
    ),
    (
        "tokens",
        lambda row: (
            f"{_number(row.baseline.completion_tokens, 0)}",
            f"> {_number(row.speceyes.completion_tokens, 0)}",
        ),
    ),
)
_LEFT_OUT: Final = 3  # of the columns, where there is little room


def _plain_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _share(share: Share) -> str:
    value, bounds = _accuracy(share)
    return f"{value} ({bounds})" if bounds else value


def _bounds(interval: Interval | None, write: Callable[[float], str]) -> str:
    return "" if interval is None else f"{write(interval.low)}–{write(interval.high)}"


def _point_bounds(interval: Interval | None) -> str:
    return "" if interval is None else f"{_points(interval.low)} to {_points(interval.high)}"


def _number(value: float | None, digits: int) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def _times(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.2f}x"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return _MISSING if value is None else f"{100 * value:+.1f}"
