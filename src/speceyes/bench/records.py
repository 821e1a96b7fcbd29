"""A record is what one method made of one item: a fold of the item's story.

It refuses to know who ran the item, and how records are written and summed up. Pictures are left
out: boxes say where to cut them from the item's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal, TypeAlias, assert_never

from speceyes.bench.grade import GRADER_VERSION, Grade, grade
from speceyes.bench.items import Item, Spoiled
from speceyes.events import (
    Answered,
    Failed,
    Gated,
    Looked,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Proposed,
    Reason,
    Route,
    Screened,
    Speculated,
    ToolFinished,
    Trace,
    TurnFinished,
    cost_of_proposing,
    ending,
    phase_seconds,
    tool_calls,
    usage_by_phase,
)
from speceyes.gate import Aggregation, Definition, GateReason, GateSpec, scores_all
from speceyes.types import (
    Box,
    FinalAnswer,
    Generation,
    Malformed,
    Reply,
    ToolCall,
    Usage,
)

RECORD_VERSION: Final = 2
PAPER_K: Final = 64  # scored beside the spec's own K

Method: TypeAlias = Literal["baseline", "speceyes", "specreason", "small"]
Scores: TypeAlias = Mapping[int, Mapping[Aggregation, float]]  # by K, raw


@dataclass(frozen=True, slots=True)
class Proposal:
    """What SpecReason's small model proposed for a turn, and how the large one scored it.

    `text` None: its engine failed. `usage` is what this cost beside the turn itself.
    """

    text: str | None
    score: int | None
    accepted: bool
    usage: Usage


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the agent: its words, how they were read, and the boxes it was then shown.

    `at_s`: when it had spoken, in seconds since the query started; `engine` is who spoke;
    `repairs` are what was mended in the code that it wrote.
    """

    turn: int
    text: str
    reply: Literal["answer", "call", "malformed"]
    detail: str  # the answer, the tool's name, or the reason
    forced: bool
    at_s: float
    engine: str
    usage: Usage
    boxes_px: tuple[Box, ...] = ()
    error: str | None = None
    repairs: tuple[str, ...] = ()
    proposal: Proposal | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """When a call of the small model began, in seconds since the query started, and its length.

    `where_s`: of a closer look, how long it took to say where. Answer and verdict are within
    `took_s`.
    """

    began_s: float
    took_s: float
    where_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """The small model looked closer: what it had answered before, in which words, and where.

    `generation` is what it had answered, with all the evidence kept, and `score` and `reason` what
    its gate had made of that; None in runs made before these were kept. `answered`: it was shown
    that part, and what it then said was gated.
    """

    doubted: str
    text: str
    box_px: Box | None
    score: float | None = None
    reason: GateReason | None = None
    generation: Generation | None = None
    span: Span | None = None
    answered: bool = True


@dataclass(frozen=True, slots=True)
class Speculation:
    """The small model's last answer, the gate's verdict on it, and its scores for sweeps.

    `scores` is empty when nothing could be scored, and lacks a K that the evidence does not reach.
    `generation` is what was said with all the evidence kept: what any other gate would be given.
    `looks` are those that came before it. `span`: of its answer at first sight; None in runs made
    before it was kept.
    """

    text: str
    accepted: bool
    score: float | None
    reason: GateReason
    scores: Scores = field(default_factory=dict)
    generation: Generation | None = None
    looks: tuple[Look, ...] = ()
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Mishap:
    """The named error that an item ended in."""

    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one method made of one item. `text` None: it failed, which counts as wrong.

    Times are seconds of this item alone; with concurrency they overlap those of others. `part`
    counts how often its run was taken up, from 0; `ended_s` is when the item ended, in seconds
    since that part began.
    """

    method: Method
    block: int
    part: int
    ended_s: float
    item_id: str
    split: str
    kind: str
    is_hard: bool | None
    question: str
    options: tuple[str, ...]
    truth: str
    released_order: tuple[int, ...]
    targets_px: tuple[Box, ...]
    text: str | None
    mishap: Mishap | None
    grade: Grade
    route: Route | None
    reason: Reason | None
    p_tool: float | None
    needs_tool: bool | None
    speculation: Speculation | None
    turns: tuple[Turn, ...]
    depth: int
    usage_by_phase: Mapping[Phase, Usage]
    phase_s: Mapping[Phase, float]
    elapsed_s: float
    grader_version: int = GRADER_VERSION
    record_version: int = RECORD_VERSION

    @property
    def is_right(self) -> bool:
        """Whether the answer was right; a failure is not."""
        return self.grade.is_right

    @property
    def usage(self) -> Usage:
        """All work done for this item, in every phase."""
        return sum(self.usage_by_phase.values(), Usage.zero)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a run a record was made: by which method, in which block and part, and when."""

    method: Method
    block: int = 0
    part: int = 0
    ended_s: float = 0.0


def record_of(item: Item, trace: Trace, spec: GateSpec, *, place: Place) -> Record:
    """Fold one item's whole story into its record; failures are records too.

    Raises: TraceError if the events are not one whole story.
    """
    end = ending(trace)
    answered = end if isinstance(end, Answered) else None
    error = end.error if isinstance(end, Failed) else None
    screened = next((event for event in trace if isinstance(event, Screened)), None)
    text = None if answered is None else answered.text
    return Record(
        **asdict(place),
        item_id=item.item_id,
        split=item.split,
        kind=item.kind,
        is_hard=item.is_hard,
        question=item.query.question,
        options=item.query.options,
        truth=item.answer,
        released_order=item.released_order,
        targets_px=item.targets_px,
        text=text,
        mishap=None if error is None else Mishap(type(error).__name__, str(error)),
        grade=grade(text, item.answer, item.query.options),
        route=None if answered is None else answered.route,
        reason=None if answered is None else answered.reason,
        p_tool=None if screened is None else screened.p_tool,
        needs_tool=None if screened is None else screened.needs_tool,
        speculation=_speculation(trace, spec),
        turns=tuple(_turns(trace)),
        depth=tool_calls(trace),
        usage_by_phase=usage_by_phase(trace),
        phase_s=phase_seconds(trace),
        elapsed_s=end.at_s,
    )


def record_of_spoiled(spoiled: Spoiled, *, place: Place) -> Record:
    """Make the record of a row that could not be asked: a failure like any other."""
    return Record(
        **asdict(place),
        item_id=spoiled.item_id,
        split=spoiled.split,
        kind="",
        is_hard=None,
        question="",
        options=(),
        truth="",
        released_order=(),
        targets_px=(),
        text=None,
        mishap=Mishap(type(spoiled.error).__name__, str(spoiled.error)),
        grade=Grade("wrong", None, "the item could not be asked"),
        route=None,
        reason=None,
        p_tool=None,
        needs_tool=None,
        speculation=None,
        turns=(),
        depth=0,
        usage_by_phase={},
        phase_s={},
        elapsed_s=0.0,
    )


def all_scores(
    generation: Generation, ks: Iterable[int], definition: Definition
) -> dict[int, dict[Aggregation, float]]:
    """Score an answer by all four aggregations at each K that its evidence reaches."""
    found = {k: scores_all(generation, k=k, definition=definition) for k in sorted(set(ks))}
    return {k: scores for k, scores in found.items() if scores is not None}


def _speculation(trace: Trace, spec: GateSpec) -> Speculation | None:
    said = [event for event in trace if isinstance(event, Speculated)]
    gated = [event for event in trace if isinstance(event, Gated)]
    if not said or not gated:
        return None
    verdict, generation = gated[-1].verdict, said[len(gated) - 1].generation
    first, *later = _spans(trace)
    return Speculation(
        text=generation.text,
        accepted=verdict.accepted,
        score=verdict.score,
        reason=verdict.reason,
        scores=all_scores(generation, (spec.k, PAPER_K), spec.definition),
        generation=_without_candidates(generation),
        looks=tuple(
            Look(
                doubted=before.generation.text,
                text=event.generation.text,
                box_px=event.box_px,
                score=doubt.verdict.score,
                reason=doubt.verdict.reason,
                generation=_without_candidates(before.generation),
                span=span,
                answered=len(gated) > number,
            )
            for number, (before, doubt, (event, span)) in enumerate(
                zip(said, gated, later, strict=False), 1
            )
            if event is not None
        ),
        span=first[1],
    )


def _spans(trace: Trace) -> list[tuple[Looked | None, Span]]:
    # The small model's calls in order: an answer at first sight, then looks that said where.
    found: list[tuple[Looked | None, Span]] = []
    began_s, looked = 0.0, None
    for event in trace:
        match event:
            case PhaseStarted(phase="speculate"):
                began_s, looked = event.at_s, None
            case Looked():
                looked = event
            case PhaseEnded(phase="speculate"):
                where_s = 0.0 if looked is None else looked.at_s - began_s
                found.append((looked, Span(began_s, event.at_s - began_s, where_s)))
            case PhaseEnded(phase="gate") if found:
                seen, span = found[-1]
                found[-1] = seen, replace(span, took_s=event.at_s - span.began_s)
            case _:
                pass
    return found


def _without_candidates(generation: Generation) -> Generation:
    # Which tokens the rivals were is of no use to a gate, and most of the bytes.
    if generation.evidence is None:
        return generation
    return replace(generation, evidence=replace(generation.evidence, candidates=()))


def _turns(trace: Trace) -> Iterator[Turn]:
    shown = {event.turn: event.observation for event in trace if isinstance(event, ToolFinished)}
    proposed = {event.turn: _proposal(event) for event in trace if isinstance(event, Proposed)}
    for event in trace:
        if isinstance(event, TurnFinished):
            seen = shown.get(event.turn)
            kind, detail = _read(event.reply)
            yield Turn(
                turn=event.turn,
                text=event.generation.text,
                reply=kind,
                detail=detail,
                forced=event.forced,
                at_s=event.at_s,
                engine=event.generation.engine,
                usage=event.generation.usage,
                boxes_px=() if seen is None else tuple(filter(None, seen.boxes_px)),
                error=None if seen is None else seen.error,
                repairs=() if seen is None else seen.repairs,
                proposal=proposed.get(event.turn),
            )


def _proposal(event: Proposed) -> Proposal:
    text = None if event.proposal is None else event.proposal.text
    return Proposal(text, event.score, event.accepted, cost_of_proposing(event))


def _read(reply: Reply) -> tuple[Literal["answer", "call", "malformed"], str]:
    match reply:
        case FinalAnswer(text):
            return "answer", text
        case ToolCall(tool=tool):
            return "call", tool
        case Malformed(reason=reason):
            return "malformed", reason
        case _:
            assert_never(reply)
