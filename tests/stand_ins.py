"""Stand-ins at the funnel's seams: a tiny protocol, a tool, pixels, prompts, scripted engines.

A query's question is its key in a script, so many queries can share two engines.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from speceyes.agent import Agent
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import EngineUnavailable
from speceyes.funnel import Funnel
from speceyes.gate import GateSpec
from speceyes.phases import Parts, Rules
from speceyes.policies.fixed import serial
from speceyes.screen import ScreenSpec
from speceyes.types import (
    Box,
    Budget,
    FinalAnswer,
    Image,
    Malformed,
    Message,
    Observation,
    Picture,
    Query,
    Text,
    ToolCall,
    View,
)

GATE = GateSpec(threshold=4.0, k=16)
CALL = "call spyglass 3"
BAD_JSON = '<tool_call>{"name": "spyglass", </tool_call>'


def virtual(test):
    """Let an asynchronous test run on virtual time."""
    return pytest.mark.anyio(pytest.mark.virtual_time(test))


def a_picture(name="scene", width_px=64, height_px=48):
    return Picture(name.encode(), "image/png", width_px, height_px)


def a_query(question="which?", **more):
    return Query(question, more.pop("pictures", (a_picture(),)), query_id=question, **more)


@dataclass
class StandInPixels:
    """Cuts are named after what was cut; a query of a damaged picture fails as the real one."""

    pictures: tuple[Picture, ...]
    cuts: list = field(default_factory=list)
    error: Exception | None = None

    def cut(self, box, size=None):
        self.cuts.append((box, size))
        if self.error is not None:
            raise self.error
        width_px, height_px = size or box.size
        return Picture(f"{box} {size}".encode(), "image/png", width_px, height_px)


class TagProtocol:
    """Speaks `answer X` and `call TOOL ARGUMENT`; everything else is malformed."""

    name = "tags"
    stop = ("</turn>",)
    tools = ()
    budget = Budget(max_turns=4, max_tokens_per_turn=50)

    def view_size(self, size):
        return (size[0] // 2, size[1] // 2)

    def opening(self, query, views):
        return (_user(f"agent|{query.question}", views),)

    def parse(self, reply, views):
        match reply.split(" ", 2):
            case ["answer", *rest]:
                return FinalAnswer(" ".join(rest))
            case ["call", tool, argument]:
                return ToolCall(tool, {"argument": argument}, reply)
        return Malformed("bad_json" if "{" in reply else "no_answer_no_call", "say answer or call")

    def proceed(self, query, conversation, *, reply, outcome):
        if isinstance(outcome, Malformed):
            told = _user(f"error: {outcome.detail}")
        else:
            views = map(View, outcome.pictures, outcome.boxes_px)
            told = _user(outcome.error or outcome.text, tuple(views))
        return (*conversation, Message("assistant", (Text(reply),)), told)

    def force_answer(self, query, conversation):
        return (*conversation, _user("now answer"))


class Spyglass:
    """Shows one cut per call."""

    name = "spyglass"

    def __init__(self, pictures=1):
        self.calls = []
        self.count = pictures
        self.opened = self.closed = 0

    @asynccontextmanager
    async def open(self, pixels):
        self.opened += 1
        try:
            yield Raised(self, pixels)
        finally:
            self.closed += 1

    async def run(self, call, pixels):
        self.calls.append(call)
        box = replace(whole(pixels.pictures[0]), right_px=10, bottom_px=10)
        seen = (pixels.cut(box),) * self.count
        return Observation("seen", seen, (box,) * self.count)


@dataclass
class Raised:
    """A spyglass at one query's pictures."""

    spyglass: Spyglass
    pixels: StandInPixels

    async def run(self, call):
        return await self.spyglass.run(call, self.pixels)


WITHIN = "screen within"


class Words:
    """The two questions that are not the agent's own."""

    @staticmethod
    def screen(query, views):
        return (_user(f"screen|{query.question}", views),)

    @staticmethod
    def screen_within(opening):
        return (*opening, _user(WITHIN))

    @staticmethod
    def speculate(query, views):
        return (_user(f"speculate|{query.question}", views),)

    @staticmethod
    def answer_briefly(_query):
        return "Be brief."


NO_TOOL = Take(scripted_screen(0.1), 1.0)
SURE = Take(scripted("small words", separability=8.0, k=16), 2.0)
LARGE = Take(scripted("answer large", separability=None), 5.0)


@dataclass(frozen=True)
class Plan:
    """What the engines say to one query."""

    screen: Take = NO_TOOL
    small: Take = SURE
    turns: tuple[Take, ...] = (LARGE,)


ACCEPTED = Plan()
NEEDS_TOOL = Plan(screen=Take(scripted_screen(0.9), 1.0))
REJECTED = Plan(small=Take(scripted("small words", separability=1.0, k=16), 2.0))
DOWN = EngineUnavailable("small", "is down")
BROKEN = RuntimeError("boom")


def said(**more):
    return Take(scripted("small words", **({"k": 16} | more)))


def turns(*texts, latency_s=5.0):
    return tuple(Take(scripted(text, separability=None), latency_s) for text in texts)


def key_of(request):
    """Give (what is asked, the question, how many turns the agent has had)."""
    kind, _, question = request.messages[0].parts[-1].text.partition("|")
    if request.messages[-1] == _user(WITHIN):
        kind = "screen"
    return kind, question, sum(message.role == "assistant" for message in request.messages)


def engines(plans, **more):
    """Make the small and the large engine from one plan, or from plans by question."""

    def script(request):
        kind, question, turn = key_of(request)
        plan = plans[question] if isinstance(plans, dict) else plans
        if kind == "agent":
            return plan.turns[turn]
        return plan.screen if kind == "screen" else plan.small

    return ReplayEngine(script, name="small", **more), ReplayEngine(script, name="large", **more)


async def inline(work):
    """Run blocking work on the spot: threads and virtual time do not go together."""
    return work()


def an_agent(large, **more):
    spyglass = more.pop("tool", None) or Spyglass()
    settings = {
        "engine": large,
        "protocol": TagProtocol(),
        "tools": {spyglass.name: spyglass},
        "budget": TagProtocol.budget,
        "max_pictures": 8,
    }
    return Agent(**(settings | more))


def a_funnel(small, large, policy=serial, *, parts=None, **rules):
    settings = {
        "gate": GATE,
        "screen": ScreenSpec(),
        "max_answer_tokens": 20,
        "screen_timeout_s": 30.0,
        "speculate_timeout_s": 30.0,
        "fall_back_timeout_s": 100.0,
        "degrade": False,
    }
    made_of = {
        "small": small,
        "screener": large,
        "agent": an_agent(large),
        "prompts": Words,
        "open_pixels": StandInPixels,
        "offload": inline,
    }
    return Funnel(Parts(**(made_of | (parts or {}))), Rules(**(settings | rules)), policy)


async def answer(plan, **more):
    small, large = engines(plan)
    return await a_funnel(small, large, **more).answer(a_query())


async def settle(plan, **more):
    small, large = engines(plan)
    return await a_funnel(small, large, **more).settle(a_query())


def kinds(trace):
    return [type(event).__name__ for event in trace]


def of(trace, kind):
    return [event for event in trace if isinstance(event, kind)]


def whole(picture, index=0):
    return Box(0, 0, *picture.size, index)


def _user(text, views=()):
    return Message("user", (*(Image(view.picture) for view in views), Text(text)))
