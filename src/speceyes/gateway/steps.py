"""A request's story is put in short here: the steps that it took, each with its times and figures.

It refuses to know prompts, answers, pictures and clocks: a step holds numbers and names only, so it
may be kept, shown and logged.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from speceyes.events import (
    Event,
    FellBack,
    Gated,
    Looked,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
)
from speceyes.types import Box, FinalAnswer, Generation, ToolCall

StepKind: TypeAlias = Phase | Literal["turn", "tool"]
StepOutcome: TypeAlias = Literal["finished", "cancelled", "failed"]
Corners: TypeAlias = tuple[int, int, int, int, int]  # left, top, right, bottom (px), picture


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One phase, turn of the agent or tool call. Times count from the query's start.

    None: does not apply, or was not measured. `boxes` are where a tool looked, or a small model
    that looked closer. `said` is what the agent's turn was read as; `note` is a verdict's or a
    fallback's reason, a malformed call's, or the name of an error.
    """

    kind: StepKind
    began_s: float
    ended_s: float
    outcome: StepOutcome = "finished"
    engine: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None
    p_tool: float | None = None
    score: float | None = None
    threshold: float | None = None
    turn: int | None = None
    said: Literal["answer", "call", "malformed"] | None = None
    tool: str | None = None
    boxes: tuple[Corners, ...] = ()
    note: str | None = None


def steps_of(trace: tuple[Event, ...]) -> tuple[Step, ...]:
    """Tell a story's steps in the order of their beginnings; also of a story that was cut short.

    A phase that nobody ended was cancelled, with the last thing that was heard of it.
    """
    last_s = trace[-1].at_s if trace else 0.0
    open_since_s: dict[Phase, float] = {}
    found: dict[Phase, dict[str, object]] = {}
    steps: list[Step] = []
    free_s = 0.0  # since when the agent's loop has been at what it is at
    for event in trace:
        match event:
            case PhaseStarted(at_s=at_s, phase=phase):
                open_since_s[phase] = at_s
                free_s = at_s if phase == "fall_back" else free_s
            case PhaseEnded(at_s=at_s, phase=phase, outcome=outcome, error=error):
                if error is not None:
                    found.setdefault(phase, {})["note"] = type(error).__name__
                began_s = open_since_s.pop(phase, at_s)
                steps.append(_phase(phase, (began_s, at_s), found.pop(phase, {}), outcome=outcome))
            case TurnFinished(at_s=at_s):
                steps.append(_turn(event, began_s=free_s))
                free_s = at_s
            case ToolFinished(at_s=at_s):
                if isinstance(event.call, ToolCall):
                    steps.append(_tool(event, began_s=free_s))
                free_s = at_s
            case _:
                _note(event, found)
    steps += [
        _phase(phase, (began_s, last_s), found.get(phase, {}), outcome="cancelled")
        for phase, began_s in open_since_s.items()
    ]
    return tuple(sorted(steps, key=lambda step: (step.began_s, -step.ended_s)))


def to_us(seconds: float) -> float:
    """Round to whole microseconds, which is all that is worth writing down."""
    return round(seconds, 6)


def _note(event: Event, found: dict[Phase, dict[str, object]]) -> None:
    # What is said within a phase, or just before it, becomes part of its step.
    match event:
        case Screened(p_tool=p_tool, generation=generation):
            found["screen"] = {**_cost(generation), "p_tool": p_tool}
        case Looked(generation=generation, box_px=box_px):
            boxes = () if box_px is None else (_corners(box_px),)
            found["speculate"] = {**_cost(generation), "boxes": boxes}
        case Speculated(generation=generation):
            found["speculate"] = _further(found.get("speculate", {}), _cost(generation))
        case Gated(verdict=verdict):
            found["gate"] = {
                "score": verdict.score,
                "threshold": verdict.threshold,
                "note": verdict.reason,
            }
        case FellBack(reason=reason):
            found["fall_back"] = {"note": reason}
        case _:
            pass


def _phase(
    phase: Phase, span_s: tuple[float, float], facts: dict[str, object], *, outcome: StepOutcome
) -> Step:
    began_s, ended_s = map(to_us, span_s)
    return Step(kind=phase, began_s=began_s, ended_s=ended_s, outcome=outcome, **facts)  # type: ignore[arg-type]


def _turn(event: TurnFinished, *, began_s: float) -> Step:
    reply = event.reply
    said: Literal["answer", "call", "malformed"]
    note: str | None = "forced" if event.forced else None
    if isinstance(reply, FinalAnswer):
        said = "answer"
    elif isinstance(reply, ToolCall):
        said = "call"
    else:
        said, note = "malformed", reply.reason
    return Step(
        kind="turn",
        began_s=to_us(began_s),
        ended_s=to_us(event.at_s),
        turn=event.turn,
        said=said,
        note=note,
        **_cost(event.generation),  # type: ignore[arg-type]
    )


def _tool(event: ToolFinished, *, began_s: float) -> Step:
    observation, call = event.observation, event.call
    return Step(
        kind="tool",
        began_s=to_us(began_s),
        ended_s=to_us(event.at_s),
        outcome="finished" if observation.error is None else "failed",
        turn=event.turn,
        tool=call.tool if isinstance(call, ToolCall) else None,
        boxes=tuple(_corners(box) for box in observation.boxes_px if box is not None),
    )


def _corners(box: Box) -> Corners:
    return (box.left_px, box.top_px, box.right_px, box.bottom_px, box.picture_index)


def _further(before: dict[str, object], cost: dict[str, object]) -> dict[str, object]:
    # A model that says where to look, and then what it sees, costs both in one phase.
    summed = {
        name: before[name] + value  # type: ignore[operator]
        for name, value in cost.items()
        if isinstance(value, int) and isinstance(before.get(name), int)
    }
    return {**before, **cost, **summed}


def _cost(generation: Generation) -> dict[str, object]:
    return {
        "engine": generation.engine,
        "prompt_tokens": generation.usage.prompt_tokens,
        "cached_tokens": generation.usage.cached_tokens,
        "completion_tokens": generation.usage.completion_tokens,
        "finish": generation.finish,
    }
