"""What one request adds to the gateway's stats is said here: every series it counts in, once.

It refuses to know clocks, files and how figures are shown. Whoever counted is a `Tally`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from speceyes.errors import AgentError, EngineError, SpecEyesError, ToolError
from speceyes.events import (
    TURNED_AWAY,
    Answered,
    Event,
    FellBack,
    Gated,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Reason,
    Screened,
    Trace,
    tool_calls,
    usage_by_phase,
)
from speceyes.gateway import series
from speceyes.gateway.observing import Ended
from speceyes.gateway.stats import Stats, Tally, Told
from speceyes.gateway.steps import Step, steps_of, to_us
from speceyes.types import Usage

Stage: TypeAlias = Literal["decided", "passed", "accepted"]
Party: TypeAlias = Literal["small", "large", "tools"]

_PARTY: Final[Mapping[Phase, Party]] = {
    "screen": "large",
    "speculate": "small",
    "gate": "small",
    "fall_back": "large",
}
_ANSWERED: Final = frozenset({"speculative", "agentic", "degraded"})
_STATUS: Final = {n: f"{n}xx" for n in range(1, 6)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request that ended, and all that was heard of it; `at_s` in seconds since 1970.

    `trace` may be cut short: the client left, say. An answer's own trace is whole.
    """

    ended: Ended
    trace: Trace
    at_s: float


def fold(finished: Iterable[Finished], before: Stats | None = None) -> Stats:
    """Count requests that ended, on top of what was counted before."""
    tally = Tally(before)
    for one in finished:
        count(one, tally, told=tell(one))
    return tally.stats()


def tell(finished: Finished) -> Told:
    """Put a request in short."""
    ended, trace = finished.ended, finished.trace
    steps = steps_of(trace)
    costs = _usage_by_party(trace)
    gate = next((step for step in steps if step.kind == "gate"), None)
    return Told(
        request_id=ended.request_id,
        at_s=to_us(finished.at_s),
        model=ended.route_name,
        route=ended.route,
        reason=ended.reason,
        status=ended.status,
        elapsed_s=to_us(ended.elapsed_s),
        waited_s=to_us(ended.waited_s),
        first_byte_s=None if ended.first_byte_s is None else to_us(ended.first_byte_s),
        is_stream=ended.is_stream,
        error=ended.error_kind,
        p_tool=next((step.p_tool for step in steps if step.kind == "screen"), None),
        score=None if gate is None else gate.score,
        threshold=None if gate is None else gate.threshold,
        depth=tool_calls(trace),
        turns=sum(step.kind == "turn" for step in steps),
        small_tokens=_all_tokens(costs.get("small")),
        large_tokens=_all_tokens(costs.get("large")),
        steps=steps,
    )


def count(finished: Finished, tally: Tally, *, told: Told) -> None:
    """Count one request in every series that it belongs to."""
    ended, trace = finished.ended, finished.trace
    model, taken = ended.route_name, (ended.route_name, ended.route)
    status = _STATUS.get(ended.status // 100, "other")
    tally.add(series.REQUESTS, (*taken, ended.reason, status))
    tally.observe(series.REQUEST_S, ended.elapsed_s, taken)
    tally.observe(series.QUEUE_S, ended.waited_s, (model,))
    if ended.first_byte_s is not None:
        tally.observe(series.FIRST_BYTE_S, ended.first_byte_s, taken)
    own_s = overhead_s(ended, trace)
    if own_s is not None:
        tally.observe(series.OVERHEAD_S, own_s, taken)
    if ended.bytes_in:
        tally.add(series.RECEIVED, (model,), ended.bytes_in)
    if ended.bytes_out:
        tally.add(series.SENT, (model,), ended.bytes_out)
    if trace:
        _count_story(trace, tally, model=model)
        _count_steps(told.steps, tally, model=model)
    elif ended.route != "refused":
        kind = _upstream_error(ended)
        if kind is not None:
            tally.add(series.ERRORS, (model, "large", kind))
    tally.remember(told)


def stages(trace: Trace) -> tuple[Stage, ...]:
    """Say which stages of the funnel a story reached.

    A query is decided once it is accepted or sent to the agent, and it passed the screen unless
    that is why it was sent there. A story cut short before is of no stage; neither is one that was
    sent to the agent by order, without a funnel.
    """
    reason: Reason | None = None
    for event in trace:
        if isinstance(event, FellBack):
            reason = event.reason
            break
        if isinstance(event, Answered):
            reason = event.reason
    if reason is None or reason == "agent_only":
        return ()
    if reason == "accepted":
        return ("decided", "passed", "accepted")
    return ("decided",) if reason in TURNED_AWAY else ("decided", "passed")


def overhead_s(ended: Ended, trace: Trace) -> float | None:
    """Measure the gateway's own time: a request's, without engines and tools, and without the line.

    None where it cannot be told: streams, whose clients' reading would count; requests that ended
    in no answer; bypassed ones whose upstream time is not known.
    """
    if ended.is_stream or ended.status >= 400:
        return None
    if ended.route in _ANSWERED:
        busy_s = _covered_s(trace)
    elif ended.route == "bypass" and ended.upstream_s is not None:
        busy_s = ended.upstream_s
    else:
        return None
    return max(0.0, ended.elapsed_s - ended.waited_s - busy_s)


def _upstream_error(ended: Ended) -> str | None:
    # Of a request that was passed on: what broke, or that the server itself was at fault.
    if ended.error_kind in ENGINE_ERRORS:
        return ended.error_kind
    return "status_5xx" if ended.route == "bypass" and ended.status >= 500 else None


def _count_story(trace: Trace, tally: Tally, *, model: str) -> None:
    for stage in stages(trace):
        tally.add(series.FUNNEL, (model, stage))
    for event in trace:
        match event:
            case PhaseEnded(phase=phase, error=error) if error is not None:
                kind = type(error).__name__
                if kind in ENGINE_ERRORS:
                    party = "tools" if isinstance(error, ToolError) else _PARTY[phase]
                    tally.add(series.ERRORS, (model, party, kind))
            case Screened(p_tool=p_tool, needs_tool=needs_tool) if p_tool is not None:
                tally.observe(series.P_TOOL, p_tool, (model, "tool" if needs_tool else "no_tool"))
            case Gated(verdict=verdict) if verdict.score is not None:
                said = "accepted" if verdict.accepted else "rejected"
                tally.observe(series.SCORE, verdict.score, (model, said))
            case Answered(at_s=at_s, route=route):
                tally.observe(series.ANSWER_S, at_s, (model, route))
            case _:
                pass
    for party, usage in _usage_by_party(trace).items():
        tally.add(series.TOKENS, (model, party, "prompt"), usage.prompt_tokens)
        tally.add(series.TOKENS, (model, party, "cached"), usage.cached_tokens or 0)
        tally.add(series.TOKENS, (model, party, "completion"), usage.completion_tokens)


def _count_steps(steps: tuple[Step, ...], tally: Tally, *, model: str) -> None:
    for step in steps:
        match step.kind:
            case "turn":
                tally.add(series.TURNS, (model,))
                if step.said == "malformed":
                    tally.add(series.TOOLS, (model, "none", "malformed"))
            case "tool":
                outcome = "observed" if step.outcome == "finished" else "refused"
                tally.add(series.TOOLS, (model, step.tool or "none", outcome))
            case _:
                labels = (model, step.kind, step.outcome)
                tally.observe(series.PHASE_S, step.ended_s - step.began_s, labels)


def _usage_by_party(trace: Iterable[Event]) -> dict[Party, Usage]:
    found: dict[Party, Usage] = {}
    for phase, usage in usage_by_phase(trace).items():
        party = _PARTY[phase]
        found[party] = found.get(party, Usage.zero) + usage
    return found


def _all_tokens(usage: Usage | None) -> int:
    return 0 if usage is None else usage.prompt_tokens + usage.completion_tokens


def _covered_s(trace: Iterable[Event]) -> float:
    # Phases may overlap: what counts is the time in which at least one was open.
    total_s, open_count, since_s = 0.0, 0, 0.0
    for event in trace:
        if isinstance(event, PhaseStarted):
            since_s = event.at_s if open_count == 0 else since_s
            open_count += 1
        elif isinstance(event, PhaseEnded):
            open_count -= 1
            total_s += event.at_s - since_s if open_count == 0 else 0.0
    return total_s


def _names_below(*tops: type[SpecEyesError]) -> frozenset[str]:
    found: set[str] = set()
    for top in tops:
        found |= {top.__name__} | _names_below(*top.__subclasses__())
    return frozenset(found)


ENGINE_ERRORS: Final = _names_below(EngineError, AgentError, ToolError)
"""The names of errors that speak of an engine, an agent or a tool: bounded, so fit for a label."""
