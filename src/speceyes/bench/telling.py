"""One query's way through the phases is shown on a terminal here, step by step.

It refuses to know how an answer comes about: it shows events.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from speceyes.bench.page.gallery import Passage, passages
from speceyes.events import (
    Answer,
    Event,
    FellBack,
    Gated,
    Looked,
    PhaseEnded,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
)
from speceyes.types import Observation


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
            yield "I screen", f"{found}: {'a tool is needed' if needs else 'no tool needed'}"
        case Speculated(generation=generation):
            yield "II speculate", f"the small model says [bold]{_escaped(generation.text)}[/bold]"
        case Looked(generation=generation):
            yield "  closer", f"it looks closer at {_escaped(generation.text)}"
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
