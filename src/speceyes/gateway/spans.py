"""A request that ended becomes spans here: itself, its phases, the agent's turns and its tools.

It refuses to know who takes the spans, and holds no prompt and no answer. Attributes are named as
OpenTelemetry's conventions for generative AI have them; what is ours begins with `speceyes.`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from speceyes.gateway.stats import Told
from speceyes.gateway.steps import Step
from speceyes.gateway.trace_context import TraceContext

Attribute: TypeAlias = str | bool | int | float | Sequence[str] | Sequence[int]

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stretch of time with a name. Times in nanoseconds since 1970."""

    name: str
    span_id: int
    parent_id: int | None
    kind: Literal["server", "client", "internal"]
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute]
    error: str | None = None


def spans_of(told: Told, context: TraceContext, *, query_at_s: float | None) -> tuple[Span, ...]:
    """Make a request's spans, its own first.

    `query_at_s` is when its query was taken up, in seconds since 1970; without it there are no
    steps. A step lies within the last fallback that was open when it began.
    """
    own = _request(told, context)
    if query_at_s is None:
        return (own,)
    spans, agent_id = [own], context.span_id
    for index, step in enumerate(told.steps):
        span_id = context.child_id(index)
        parent_id = agent_id if step.kind in {"turn", "tool"} else context.span_id
        spans.append(_step(step, span_id, parent_id, query_at_s=query_at_s))
        if step.kind == "fall_back":
            agent_id = span_id
    return tuple(spans)


def _request(told: Told, context: TraceContext) -> Span:
    ended_ns = round(told.at_s * _NS)
    attributes: dict[str, Attribute | None] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "speceyes",
        "gen_ai.request.model": told.model,
        "gen_ai.request.stream": told.is_stream,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": told.status,
        "error.type": told.error,
        "speceyes.request_id": told.request_id,
        "speceyes.route": told.route,
        "speceyes.reason": told.reason,
        "speceyes.p_tool": told.p_tool,
        "speceyes.score": told.score,
        "speceyes.threshold": told.threshold,
        "speceyes.depth": told.depth,
        "speceyes.turns": told.turns,
        "speceyes.waited_s": told.waited_s,
        "speceyes.small.tokens": told.small_tokens,
        "speceyes.large.tokens": told.large_tokens,
        "gen_ai.response.time_to_first_chunk": told.first_byte_s if told.is_stream else None,
    }
    return Span(
        name=f"chat {told.model}",
        span_id=context.span_id,
        parent_id=context.parent_id,
        kind="server",
        began_ns=ended_ns - round(told.elapsed_s * _NS),
        ended_ns=ended_ns,
        attributes=_known(attributes),
        error=(told.error or told.reason) if told.status >= 500 else None,
    )


def _step(step: Step, span_id: int, parent_id: int, *, query_at_s: float) -> Span:
    attributes: dict[str, Attribute | None] = {
        "gen_ai.operation.name": _operation(step),
        "gen_ai.response.model": step.engine,
        "gen_ai.usage.input_tokens": step.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": step.cached_tokens,
        "gen_ai.usage.output_tokens": step.completion_tokens,
        "gen_ai.response.finish_reasons": None if step.finish is None else [step.finish],
        "gen_ai.agent.name": "speceyes" if step.kind == "fall_back" else None,
        "gen_ai.tool.name": step.tool,
        "gen_ai.tool.type": None if step.tool is None else "function",
        "error.type": step.note if step.outcome == "failed" else None,
        "speceyes.phase": None if step.kind in {"turn", "tool"} else step.kind,
        "speceyes.outcome": step.outcome,
        "speceyes.turn": step.turn,
        "speceyes.said": step.said,
        "speceyes.note": step.note,
        "speceyes.p_tool": step.p_tool,
        "speceyes.score": step.score,
        "speceyes.threshold": step.threshold,
        "speceyes.boxes": [str(list(box)) for box in step.boxes] or None,
    }
    failed = step.outcome == "failed"
    return Span(
        name=_name(step),
        span_id=span_id,
        parent_id=parent_id,
        kind="client" if step.kind in {"screen", "speculate", "turn"} else "internal",
        began_ns=round((query_at_s + step.began_s) * _NS),
        ended_ns=round((query_at_s + step.ended_s) * _NS),
        attributes=_known(attributes),
        error=(step.note or "the call was refused") if failed else None,
    )


def _operation(step: Step) -> str | None:
    match step.kind:
        case "screen" | "speculate" | "turn":
            return "chat"
        case "tool":
            return "execute_tool"
        case "fall_back":
            return "invoke_agent"
        case _:
            return None


def _name(step: Step) -> str:
    match step.kind:
        case "turn":
            return f"chat {step.engine}"
        case "tool":
            return f"execute_tool {step.tool}"
        case "fall_back":
            return "invoke_agent speceyes"
        case _:
            return step.kind


def _known(attributes: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    return {name: value for name, value in attributes.items() if value is not None}
