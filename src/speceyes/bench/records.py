"""A record is what one method made of one item: a fold of the item's story, one line of JSON.

It refuses to know who ran the item and how records are summed up. Pictures are left out: boxes say
where to cut them from the item's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, assert_never

from speceyes.bench.grade import GRADER_VERSION, Grade, grade
from speceyes.bench.items import Item
from speceyes.errors import InputError
from speceyes.events import (
    Answered,
    Failed,
    Gated,
    Phase,
    Reason,
    Route,
    Screened,
    Speculated,
    ToolFinished,
    Trace,
    TurnFinished,
    ending,
    phase_seconds,
    tool_calls,
    usage_by_phase,
)
from speceyes.gate import Aggregation, Definition, GateReason, GateSpec, scores_all
from speceyes.types import Box, FinalAnswer, Generation, Malformed, Reply, ToolCall, Usage

RECORD_VERSION: Final = 1
PAPER_K: Final = 64  # scored beside the spec's own K

Method: TypeAlias = Literal["baseline", "speceyes", "small"]
Scores: TypeAlias = Mapping[int, Mapping[Aggregation, float]]  # by K, raw


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the agent: its words, how they were read, and the boxes it was then shown."""

    turn: int
    text: str
    reply: Literal["answer", "call", "malformed"]
    detail: str  # the answer, the tool's name, or the reason
    forced: bool
    boxes_px: tuple[Box, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Speculation:
    """The small model's answer, the gate's verdict on it, and its scores for sweeps.

    `scores` is empty when nothing could be scored, and lacks a K that the evidence does not reach.
    """

    text: str
    accepted: bool
    score: float | None
    reason: GateReason
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mishap:
    """The named error that an item ended in."""

    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one method made of one item. `text` None: it failed, which counts as wrong.

    Times are seconds of this item alone; with concurrency they overlap those of others.
    """

    method: Method
    block: int | None
    item_id: str
    split: str
    kind: str
    is_hard: bool | None
    question: str
    options: tuple[str, ...]
    truth: str
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


def record_of(
    item: Item, trace: Trace, spec: GateSpec, *, method: Method, block: int | None = None
) -> Record:
    """Fold one item's whole story into its record; failures are records too.

    Raises: TraceError if the events are not one whole story.
    """
    end = ending(trace)
    answered = end if isinstance(end, Answered) else None
    error = end.error if isinstance(end, Failed) else None
    screened = next((event for event in trace if isinstance(event, Screened)), None)
    text = None if answered is None else answered.text
    return Record(
        method=method,
        block=block,
        item_id=item.item_id,
        split=item.split,
        kind=item.kind,
        is_hard=item.is_hard,
        question=item.query.question,
        options=item.query.options,
        truth=item.answer,
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


def to_line(record: Record) -> str:
    """Write a record as one line of JSON, without the line's end."""
    return json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> Record:
    """Read a record back from its line. Raises: InputError if it is none, or of another version."""
    try:
        raw = json.loads(line)
        if raw["record_version"] != RECORD_VERSION:
            raise InputError("record", f"version {raw['record_version']}, not {RECORD_VERSION}")
        return _record(raw)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("record", f"{line[:60]!r} is no record ({error!r})") from error


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """Read records from the lines of a file. Raises: InputError naming the line."""
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except InputError as error:
            raise InputError(f"records, line {number}", error.message) from error


def all_scores(
    generation: Generation, ks: Iterable[int], definition: Definition
) -> dict[int, dict[Aggregation, float]]:
    """Score an answer by all four aggregations at each K that its evidence reaches."""
    found = {k: scores_all(generation, k=k, definition=definition) for k in sorted(set(ks))}
    return {k: scores for k, scores in found.items() if scores is not None}


def _speculation(trace: Trace, spec: GateSpec) -> Speculation | None:
    said = next((event for event in trace if isinstance(event, Speculated)), None)
    gated = next((event for event in trace if isinstance(event, Gated)), None)
    if said is None or gated is None:
        return None
    verdict = gated.verdict
    return Speculation(
        text=said.generation.text,
        accepted=verdict.accepted,
        score=verdict.score,
        reason=verdict.reason,
        scores=all_scores(said.generation, (spec.k, PAPER_K), spec.definition),
    )


def _turns(trace: Trace) -> Iterator[Turn]:
    shown = {event.turn: event.observation for event in trace if isinstance(event, ToolFinished)}
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
                boxes_px=() if seen is None else tuple(filter(None, seen.boxes_px)),
                error=None if seen is None else seen.error,
            )


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


def _record(raw: dict[str, Any]) -> Record:
    speculation = raw["speculation"]
    mishap = raw["mishap"]
    return Record(
        **{
            **raw,
            "options": tuple(raw["options"]),
            "targets_px": _boxes(raw["targets_px"]),
            "mishap": None if mishap is None else Mishap(**mishap),
            "grade": Grade(**raw["grade"]),
            "speculation": None if speculation is None else _speculation_of(speculation),
            "turns": tuple(
                Turn(**{**turn, "boxes_px": _boxes(turn["boxes_px"])}) for turn in raw["turns"]
            ),
            "usage_by_phase": {
                name: Usage(**usage) for name, usage in raw["usage_by_phase"].items()
            },
        }
    )


def _speculation_of(raw: dict[str, Any]) -> Speculation:
    scores = {int(k): by_aggregation for k, by_aggregation in raw["scores"].items()}
    return Speculation(**{**raw, "scores": scores})


def _boxes(raw: list[dict[str, int]]) -> tuple[Box, ...]:
    return tuple(Box(**box) for box in raw)
