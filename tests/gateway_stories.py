"""Requests as a gateway sees them, told without one: every route and reason, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from speceyes.errors import EngineTimeout, EngineUnavailable, NoAnswer, ToolError
from speceyes.events import (
    Answered,
    Failed,
    FellBack,
    Gated,
    Looked,
    PhaseEnded,
    PhaseStarted,
    QueryStarted,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
    fold,
)
from speceyes.gate import GateSpec, Verdict
from speceyes.gateway.figures import Model
from speceyes.gateway.measures import Finished
from speceyes.gateway.observing import NO_ROUTE, Ended
from speceyes.types import Box, FinalAnswer, Generation, Malformed, Observation, ToolCall, Usage

NOON_S = 1_900_000_000.0
RAW = GateSpec(threshold=5.0, k=16)
SQUASHED = GateSpec(threshold=0.98, k=64, scale="squashed")
MODELS = (
    Model(name="speceyes", threshold=5.0),
    Model(name="paper", threshold=0.98, scale="share"),
    Model(name="plain"),
)
PRIVATE = "where is my <script>alert(1)</script> passport"  # no view but an asked log may hold it


def said(text, engine, *, prompt=100, cached=40, completion=None):
    spent = Usage(prompt, cached, len(text.split()) if completion is None else completion, 1)
    return Generation(text, "stop", None, 1, None, spent, engine)


class Story:
    """Tell one query's events, moving a clock of its own."""

    def __init__(self, query_id="q", *, spec=RAW, pace=1.0):
        self.query_id, self.spec, self.pace, self.at_s = query_id, spec, pace, 0.0
        self.events = [QueryStarted(query_id, 0.0)]

    def tell(self, kind, *values, after_s=0.0, **named):
        self.at_s = round(self.at_s + after_s * self.pace, 6)
        self.events.append(kind(self.query_id, self.at_s, *values, **named))
        return self

    def screened(self, p_tool=0.02, *, error=None):
        self.tell(PhaseStarted, "screen", after_s=0.004)
        if error is not None:
            return self.tell(PhaseEnded, "screen", "failed", None, error, after_s=0.1)
        needs = p_tool is None or p_tool >= 0.5
        self.tell(Screened, p_tool, needs, said("no", "large-model", completion=1), after_s=0.06)
        return self.tell(PhaseEnded, "screen")

    def speculated(self, score=8.0, *, reason=None, error=None):
        self.tell(PhaseStarted, "speculate")
        if error is not None:
            return self.tell(PhaseEnded, "speculate", "failed", None, error, after_s=0.2)
        self.tell(Speculated, said(PRIVATE, "small-model"), after_s=0.09)
        self.tell(PhaseEnded, "speculate")
        self.tell(PhaseStarted, "gate")
        accepted = score is not None and score > self.spec.threshold and reason is None
        why = reason or ("accepted" if accepted else "below_threshold")
        self.tell(Gated, Verdict(accepted, score, why, self.spec), after_s=0.0004)
        return self.tell(PhaseEnded, "gate")

    def looked_closer(self, score=8.0, *, box=Box(96, 96, 288, 288)):  # noqa: B008 - frozen
        self.tell(PhaseStarted, "speculate")
        self.tell(Looked, said("[8, 8, 24, 24]", "small-model", completion=12), box, after_s=0.05)
        self.tell(Speculated, said(PRIVATE, "small-model", completion=3), after_s=0.04)
        self.tell(PhaseEnded, "speculate")
        self.tell(PhaseStarted, "gate")
        self.tell(Gated, Verdict(True, score, "accepted", self.spec), after_s=0.0004)
        return self.tell(PhaseEnded, "gate")

    def accepted(self):
        return self.tell(Answered, PRIVATE, "speculative", "accepted")

    def looked(self, depth=2, *, malformed=False, error=None):
        self.tell(PhaseStarted, "fall_back")
        for turn in range(1, depth + 1):
            call = ToolCall("image_zoom_in_tool", {"question": PRIVATE}, raw=PRIVATE)
            if malformed and turn == 1:
                call = Malformed("bad_json", PRIVATE)
            turned = said(PRIVATE, "large-model", prompt=300 + 90 * turn, completion=70)
            self.tell(TurnFinished, turn, turned, call, after_s=0.55)
            box = Box(100 * turn, 80, 100 * turn + 220, 260)
            seen = Observation(error=PRIVATE) if malformed and turn == 1 else None
            self.tell(ToolFinished, turn, call, seen or Observation(boxes_px=(box,)), after_s=0.02)
        if error is not None:
            return self.tell(PhaseEnded, "fall_back", "failed", None, error, after_s=0.4)
        last = said(PRIVATE, "large-model", prompt=700, completion=60)
        self.tell(TurnFinished, depth + 1, last, FinalAnswer(PRIVATE), after_s=0.5)
        return self.tell(PhaseEnded, "fall_back")

    def fell_back(self, reason, depth=2, **more):
        return self.tell(FellBack, reason).looked(depth, **more)

    def answered(self, reason):
        return self.tell(Answered, PRIVATE, "agentic", reason)

    def degraded(self):
        return self.tell(Answered, PRIVATE, "degraded", "agent_failed")

    def failed(self, error):
        return self.tell(Failed, error)

    @property
    def trace(self):
        return tuple(self.events)


def finished(story, *, request_id="r", model="speceyes", at_s=NOON_S, **more):
    """End a request with a whole story, the gateway itself taking 3 ms."""
    trace = story.trace
    answer = fold(trace)
    fields = {
        "route": answer.route,
        "reason": answer.reason,
        "status": 200,
        "elapsed_s": answer.elapsed_s + 0.003,
        "first_byte_s": answer.elapsed_s + 0.002,
        "answer": answer,
        "bytes_in": 120_000,
        "bytes_out": 900,
    }
    ended = Ended(request_id=request_id, route_name=model, **(fields | more))
    return Finished(ended=ended, trace=trace, at_s=at_s)


def unanswered(story, *, route, reason, status, request_id="r", model="speceyes", at_s=NOON_S, **k):
    """End a request without the funnel's answer; `story` None: it never reached the funnel."""
    trace = () if story is None else story.trace
    ended = Ended(
        request_id=request_id,
        route_name=model,
        route=route,
        reason=reason,
        status=status,
        elapsed_s=k.pop("elapsed_s", 0.0 if story is None else story.at_s + 0.002),
        **k,
    )
    return Finished(ended=ended, trace=trace, at_s=at_s)


def _speculative(rng, spec):
    score = spec.threshold + abs(rng.gauss(3.0, 1.2)) if spec is RAW else rng.uniform(0.981, 1.0)
    return finished(_begun(rng, spec).screened(rng.betavariate(1, 30)).speculated(score).accepted())


def _below(rng, spec):
    score = rng.uniform(1.2, 5.0) if spec is RAW else rng.uniform(0.4, 0.98)
    story = _begun(rng, spec).screened(rng.betavariate(1, 20)).speculated(score)
    return finished(
        story.fell_back("below_threshold", rng.choice([1, 1, 2, 3])).answered("below_threshold")
    )


def _needs_tool(rng, spec):
    story = _begun(rng, spec).screened(rng.betavariate(30, 1))
    story.fell_back("needs_tool", rng.choice([1, 2, 2, 4]), malformed=rng.random() < 0.1)
    return finished(story.answered("needs_tool"), is_stream=rng.random() < 0.5)


def _small_down(rng, spec):
    down = EngineUnavailable("small-model", f"refused the connection: {PRIVATE}")
    story = _begun(rng, spec).screened().speculated(error=down)
    return finished(story.fell_back("small_failed").answered("small_failed"))


def _unsound(rng, spec):
    story = _begun(rng, spec).screened().speculated(None, reason="no_evidence")
    return finished(story.fell_back("no_evidence").answered("no_evidence"))


def _screen_late(rng, spec):
    late = EngineTimeout("large-model", "no reply within 30 s")
    story = _begun(rng, spec).screened(error=late).fell_back("screen_timeout")
    return finished(story.answered("screen_timeout"))


def _degraded(rng, spec):
    story = _begun(rng, spec).screened().speculated(0.7)
    story.fell_back("below_threshold", 1, error=NoAnswer(f"the budget ended: {PRIVATE}"))
    return finished(story.degraded())


def _failed(rng, spec):
    error = ToolError(f"image_zoom_in_tool raised OSError: {PRIVATE}")
    story = _begun(rng, spec).screened(0.9).fell_back("needs_tool", 1, error=error).failed(error)
    return unanswered(story, route="failed", reason="upstream", status=500, error_kind="ToolError")


def _cancelled(rng, spec):
    story = _begun(rng, spec).screened(0.9).tell(FellBack, "needs_tool")
    story.tell(PhaseStarted, "fall_back").tell(
        PhaseEnded, "fall_back", "cancelled", None, after_s=0.3
    )
    return unanswered(story, route="cancelled", reason="client_left", status=499)


def _bypassed(rng, spec):
    upstream_s = rng.uniform(0.2, 0.9)
    reason = rng.choice(["no_image", "tools", "sampling", "choices"])
    return unanswered(
        None,
        route="bypass",
        reason=reason,
        status=200,
        elapsed_s=upstream_s + 0.001,
        upstream_s=upstream_s,
        first_byte_s=upstream_s,
        bytes_in=2_000,
        bytes_out=1_500,
    )


def _bypass_failed(rng, spec):
    return unanswered(
        None,
        route="failed",
        reason="upstream",
        status=502,
        elapsed_s=0.4,
        error_kind="EngineUnavailable",
    )


def _refused(rng, spec):
    status, reason = rng.choice([(400, "malformed"), (413, "too_large"), (429, "busy")])
    return unanswered(
        None, route="refused", reason=reason, status=status, elapsed_s=0.001, waited_s=0.0
    )


def _begun(rng, spec):
    return Story(spec=spec, pace=rng.uniform(0.6, 1.6))


KINDS = (
    (_speculative, 46),
    (_below, 8),
    (_needs_tool, 24),
    (_small_down, 1),
    (_unsound, 1),
    (_screen_late, 1),
    (_degraded, 1),
    (_failed, 1),
    (_cancelled, 2),
    (_bypassed, 12),
    (_bypass_failed, 1),
    (_refused, 2),
)


def draw(seed, *, index=0, model=None, at_s=None):
    """Draw one request that ended."""
    rng = random.Random(f"{seed}/{index}")
    name = model or rng.choices([m.name for m in MODELS], [5, 2, 2])[0]
    kinds = [kind for kind, _ in KINDS]
    kind = rng.choices(kinds, [weight for _, weight in KINDS])[0]
    if name == "plain":
        kind = rng.choice([_bypassed, _bypassed, _bypass_failed])
    drawn = kind(rng, SQUASHED if name == "paper" else RAW)
    if drawn.ended.reason == "malformed":
        name = NO_ROUTE
    ended = replace(drawn.ended, request_id=f"req-{seed}-{index}", route_name=name)
    return replace(drawn, ended=ended, at_s=NOON_S + index if at_s is None else at_s)


def draw_many(count, *, seed=7):
    """Draw requests, one a second."""
    return [draw(seed, index=index) for index in range(count)]
