"""One query's story is a stream of these events; its answer, costs and times are folds of it.

It refuses to know who emits the events and who listens, and it reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, TypeVar

from speceyes.errors import SpecEyesError, TraceError
from speceyes.gate import GateReason, Verdict
from speceyes.types import Box, Generation, Malformed, Observation, Reply, ToolCall, Usage

Phase: TypeAlias = Literal["screen", "speculate", "gate", "fall_back"]
Route: TypeAlias = Literal["speculative", "agentic", "degraded"]
RouteReason: TypeAlias = Literal[
    "needs_tool",
    "screen_failed",
    "screen_timeout",
    "small_failed",
    "small_timeout",
    "agent_failed",  # degraded: the small model's rejected answer was all there was
    "agent_first",  # the agent had answered before it was settled whether it must
    "agent_only",  # the baseline: no funnel was asked for
    "not_worth_it",  # speculation gains less, of late, than it takes: not even the screen was asked
]
Reason: TypeAlias = GateReason | RouteReason

ENGINE_FAILURES: Final[frozenset[Reason]] = frozenset(
    {
        "screen_failed",
        "screen_timeout",
        "small_failed",
        "small_timeout",
        "agent_failed",
    }
)
"""The reasons that speak of an engine that is down or broken, not of the query."""

TURNED_AWAY: Final[frozenset[Reason]] = frozenset(
    {"needs_tool", "screen_failed", "screen_timeout", "not_worth_it"}
)
"""The reasons for which a query was sent to the agent without passing the screen."""

_UNUSED: Final[Mapping[Reason, tuple[Phase, ...]]] = {
    "accepted": ("fall_back",),
    "needs_tool": ("speculate",),
    "screen_failed": ("speculate",),
    "screen_timeout": ("speculate",),
    "agent_first": ("screen", "speculate"),
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every event carries: whose it is, and when it was (seconds since the query started)."""

    query_id: str
    at_s: float


@dataclass(frozen=True, slots=True)
class QueryStarted(Stamp):
    """The query was taken up. Always the first event."""


@dataclass(frozen=True, slots=True)
class PhaseStarted(Stamp):
    """A phase began; under some policies phases overlap."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class PhaseEnded(Stamp):
    """A phase is over. `lost` is work done in it that no generation reports (cancelled, failed).

    `lost` None means that such work was done but not measured.
    """

    phase: Phase
    outcome: Literal["finished", "cancelled", "failed"] = "finished"
    lost: Usage | None = Usage.zero
    error: SpecEyesError | None = None


@dataclass(frozen=True, slots=True)
class Screened(Stamp):
    """Phase I's finding; `p_tool` None is doubt, which needs the tool."""

    p_tool: float | None
    needs_tool: bool
    generation: Generation


@dataclass(frozen=True, slots=True)
class Speculated(Stamp):
    """Phase II's answer, not yet gated."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Looked(Stamp):
    """The small model, not sure enough, said where to look closer; `box_px` None: nowhere.

    What it then answers is another Speculated, with a Gated of its own; the last ones count.
    """

    generation: Generation
    box_px: Box | None


@dataclass(frozen=True, slots=True)
class Gated(Stamp):
    """Phase III's verdict on that answer."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class FellBack(Stamp):
    """It is settled that the agent must answer, and why."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class TurnFinished(Stamp):
    """The agent spoke; turns count from 1. `forced`: it was asked to answer without tools."""

    turn: int
    generation: Generation
    reply: Reply
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Proposed(Stamp):
    """Somebody smaller proposed the agent's turn, and the large model scored it (SpecReason).

    `proposal` None: its engine failed. `score` None: none could be read. An accepted proposal is
    the turn's generation as well.
    """

    turn: int
    proposal: Generation | None
    scoring: Generation | None
    score: int | None
    accepted: bool


@dataclass(frozen=True, slots=True)
class ToolFinished(Stamp):
    """What came of a reply that was no answer: a tool's observation, or a malformed call."""

    turn: int
    call: ToolCall | Malformed
    observation: Observation


@dataclass(frozen=True, slots=True)
class Answered(Stamp):
    """The query ended in an answer. `reason` says why it took its route."""

    text: str
    route: Route
    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed(Stamp):
    """The query ended in a named error."""

    error: SpecEyesError


Event: TypeAlias = (
    QueryStarted
    | PhaseStarted
    | PhaseEnded
    | Screened
    | Speculated
    | Looked
    | Gated
    | FellBack
    | Proposed
    | TurnFinished
    | ToolFinished
    | Answered
    | Failed
)
Trace: TypeAlias = tuple[Event, ...]
_E = TypeVar("_E", bound=Stamp)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to, and all that led there.

    `depth` counts tool calls made, `turns` the agent's replies; `usage_by_phase` holds rejected
    and cancelled work too, in the phase that did it. `phase_s` may add up to more than `elapsed_s`
    when phases overlap.
    """

    query_id: str
    text: str
    route: Route
    reason: Reason
    verdict: Verdict | None
    p_tool: float | None
    usage_by_phase: Mapping[Phase, Usage]
    phase_s: Mapping[Phase, float]
    depth: int
    turns: int
    elapsed_s: float
    trace: Trace = field(repr=False)

    @property
    def is_degraded(self) -> bool:
        """Say if an engine failed on the way, so that the funnel did not work as it is meant to.

        The answer stands: the agent's, or, on the route `degraded`, what the gate had rejected.
        """
        return self.reason in ENGINE_FAILURES

    @property
    def usage(self) -> Usage:
        """All work done for this query, in every phase."""
        return sum(self.usage_by_phase.values(), Usage.zero)


def fold(events: Iterable[Event]) -> Answer:
    """Fold one query's whole stream into its answer.

    Raises: the error that the query failed with; TraceError if the events are not one whole story.
    """
    trace = tuple(events)
    end = ending(trace)
    if isinstance(end, Failed):
        raise end.error
    gated = _last(trace, Gated)
    screened = _last(trace, Screened)
    return Answer(
        query_id=end.query_id,
        text=end.text,
        route=end.route,
        reason=end.reason,
        verdict=None if gated is None else gated.verdict,
        p_tool=None if screened is None else screened.p_tool,
        usage_by_phase=usage_by_phase(trace),
        phase_s=phase_seconds(trace),
        depth=tool_calls(trace),
        turns=sum(isinstance(event, TurnFinished) for event in trace),
        elapsed_s=end.at_s,
        trace=trace,
    )


def ending(trace: Trace) -> Answered | Failed:
    """Find the one answer or error that a whole story ends in.

    Raises: TraceError if the start or the end is missing, comes twice, or is another query's.
    """
    if not trace or not isinstance(trace[0], QueryStarted):
        raise TraceError("the first event is not QueryStarted")
    if any(isinstance(event, QueryStarted) for event in trace[1:]):
        raise TraceError("the query starts twice")
    if len({event.query_id for event in trace}) > 1:
        raise TraceError("events of more than one query are mixed")
    ends = [event for event in trace if isinstance(event, (Answered, Failed))]
    if len(ends) != 1 or trace[-1] is not ends[0]:
        raise TraceError(f"{len(ends)} endings; there must be one, and it must be the last event")
    return ends[0]


def usage_by_phase(events: Iterable[Event]) -> dict[Phase, Usage]:
    """Attribute all work to the phase that did it; works on unfinished and failed stories too.

    Lost work that was not measured adds nothing but makes `cached_tokens` None.
    """
    usage: dict[Phase, Usage] = {}
    phase: Phase
    for event in events:
        match event:
            case Screened(generation=generation):
                phase, spent = "screen", generation.usage
            case Speculated(generation=generation) | Looked(generation=generation):
                phase, spent = "speculate", generation.usage
            case TurnFinished(generation=generation):
                phase, spent = "fall_back", generation.usage
            case Proposed():
                phase, spent = "fall_back", cost_of_proposing(event)
            case PhaseEnded(phase=phase, lost=lost) if lost != Usage.zero:
                spent = Usage(0, None, 0, 0) if lost is None else lost
            case _:
                continue
        usage[phase] = usage.get(phase, Usage.zero) + spent
    return usage


def wasted(trace: Trace) -> Usage:
    """Count the work that the answer had no use for: what a policy pays for being early.

    On a speculative route that is all of the agent's; where the screen, or the agent's own first
    turn, settled it, all speculation; where the agent was first, everything else. What the gate
    rejected was of use: it was what told. A query that failed had use for nothing or everything:
    none is counted. Lost work that was not measured makes `cached_tokens` None, as elsewhere.
    """
    end = ending(trace)
    if isinstance(end, Failed):
        return Usage.zero
    unused = _UNUSED.get(end.reason, ())
    return sum(
        (spent for phase, spent in usage_by_phase(trace).items() if phase in unused), Usage.zero
    )


def cost_of_proposing(proposed: Proposed) -> Usage:
    """Count what a proposal cost beside the turn itself, of which an accepted one is part."""
    rejected = None if proposed.accepted else proposed.proposal
    return sum((said.usage for said in (rejected, proposed.scoring) if said), Usage.zero)


def phase_seconds(events: Iterable[Event]) -> dict[Phase, float]:
    """Add up the time from each phase's start to its end; an open phase ends with the last event.

    Raises: TraceError if a phase ends that is not open, or starts while it is.
    """
    spent_s: dict[Phase, float] = {}
    open_since_s: dict[Phase, float] = {}
    last_s = 0.0
    for event in events:
        last_s = event.at_s
        if isinstance(event, PhaseStarted):
            if event.phase in open_since_s:
                raise TraceError(f"{event.phase} starts while it is open")
            open_since_s[event.phase] = event.at_s
        elif isinstance(event, PhaseEnded):
            if event.phase not in open_since_s:
                raise TraceError(f"{event.phase} ends but is not open")
            began_s = open_since_s.pop(event.phase)
            spent_s[event.phase] = spent_s.get(event.phase, 0.0) + event.at_s - began_s
    for phase, began_s in open_since_s.items():
        spent_s[phase] = spent_s.get(phase, 0.0) + last_s - began_s
    return spent_s


def tool_calls(events: Iterable[Event]) -> int:
    """Count the tool calls made: the depth. Malformed calls reached no tool and do not count."""
    return sum(
        isinstance(event, ToolFinished) and isinstance(event.call, ToolCall) for event in events
    )


def _last(trace: Trace, kind: type[_E]) -> _E | None:
    return next((event for event in reversed(trace) if isinstance(event, kind)), None)
