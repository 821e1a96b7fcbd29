"""What came of shadow work is read off its trace here, and put together as a record.

It refuses to know how the work was run, and where records go.
"""

from __future__ import annotations

from collections.abc import Mapping

from speceyes.events import Answer, Gated, Screened, Speculated, Trace
from speceyes.funnel import Funnel
from speceyes.gate import Verdict
from speceyes.phases import Parts
from speceyes.shadow.records import Setup, ShadowRecord
from speceyes.types import Generation


def setup_of(funnel: Funnel, prompts: Mapping[str, str]) -> Setup:
    """Say who a funnel asks, and how it decides; `prompts` identify the wording."""
    parts, rules = funnel.parts, funnel.rules
    return Setup(
        small=parts.small.name,
        large=parts.agent.engine.name,
        protocol=parts.agent.protocol.name,
        prompts=dict(prompts),
        gate=rules.gate,
        screen=rules.screen,
        screen_by=_screen_by(funnel),
        max_answer_tokens=rules.max_answer_tokens,
        depth=rules.depth,
    )


def _screen_by(funnel: Funnel) -> str:
    screener = funnel.parts.screener
    if screener is None:
        return "agent" if funnel.rules.agent_screens else "none"
    return "large" if screener.name == funnel.parts.agent.engine.name else "small"


def said_in(trace: Trace) -> Generation | None:
    """Find the small model's last answer."""
    said = [event.generation for event in trace if isinstance(event, Speculated)]
    return said[-1] if said else None


def verdict_in(trace: Trace) -> Verdict | None:
    """Find the gate's verdict on it."""
    gated = [event.verdict for event in trace if isinstance(event, Gated)]
    return gated[-1] if gated else None


def _screened(trace: Trace) -> Screened | None:
    return next((event for event in trace if isinstance(event, Screened)), None)


def passed_in(trace: Trace, parts: Parts) -> bool:
    """Say if the screen lets it be speculated on; without a screen, all may."""
    screened = _screened(trace)
    is_unscreened = parts.screener is None
    return is_unscreened or (screened is not None and not screened.needs_tool)


def record_of(
    trace: Trace, answer: Answer, parts: Parts, *, name: str, agrees: bool | None, setup: Setup
) -> ShadowRecord:
    """Put together what is known of a query that the agent answered; the trace is the small side's.

    `name`: what it was asked under. `agrees` None: it cannot be read.
    """
    screened, verdict = _screened(trace), verdict_in(trace)
    return ShadowRecord(
        query_id=answer.query_id,
        model=name,
        p_tool=None if screened is None else screened.p_tool,
        passed=passed_in(trace, parts),
        score=None if verdict is None else verdict.score,
        verdict="small_failed" if verdict is None else verdict.reason,
        agrees=agrees,
        said=said_in(trace),
        answer=answer.text,
        setup=setup,
    )
