"""These are the four phases of one query, each telling its own events; a policy orders them.

It refuses to know concrete engines, prompts and pictures, and which phase comes when. It knows what
doubt means: an engine that fails here sends the query to the large model with its tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from speceyes.agent import Agent, Narrator, Sight, ask, request_for
from speceyes.earlier import splice
from speceyes.errors import (
    AgentError,
    EngineError,
    EngineTimeout,
    NoAnswer,
    SpecEyesError,
    ToolError,
)
from speceyes.events import (
    Answered,
    Event,
    FellBack,
    Gated,
    Looked,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Reason,
    RouteReason,
    Screened,
    Speculated,
)
from speceyes.gate import GateSpec, judge
from speceyes.load import behind
from speceyes.meter import metering
from speceyes.screen import SCREEN_WORDS, ScreenSpec, needs_tool, read_need
from speceyes.types import (
    Box,
    Conversation,
    Engine,
    GenerateRequest,
    Generation,
    Picture,
    Pixels,
    Query,
    Size,
    View,
)

_T = TypeVar("_T")
Prompt: TypeAlias = Callable[[Query, tuple[View, ...]], Conversation]


class Prompts(Protocol):
    """Word the two questions that are not the agent's own; the module `prompts` is one such."""

    def screen(self, query: Query, views: tuple[View, ...], /) -> Conversation:
        """Ask whether the query needs a tool: yes or no."""
        ...

    def screen_within(self, opening: Conversation, /) -> Conversation:
        """Ask the same at the end of the agent's own opening."""
        ...

    def speculate(self, query: Query, views: tuple[View, ...], /) -> Conversation:
        """Ask for the answer and nothing else."""
        ...

    def answer_briefly(self, query: Query, /) -> str:
        """Say in which words the answer is to be given."""
        ...


class LooksCloser(Protocol):
    """Have the small model look closer, in words and coordinates of its own."""

    @property
    def max_tokens(self) -> int:
        """How long it may be about saying where."""
        ...

    def ask_where(self, conversation: Conversation, answer: str) -> Conversation:
        """Add an answer that was not sure enough, and ask where to look."""
        ...

    def read_where(self, reply: str, view: View) -> Box | None:
        """Read where to look, as a box of the original that the view shows."""
        ...

    def view_size(self, size: Size) -> Size:
        """Give the size at which the model sees a part of this size."""
        ...

    def show(
        self, conversation: Conversation, said: str, *, part: Picture, instruction: str
    ) -> Conversation:
        """Add where it wanted to look and what is there, and ask again."""
        ...


class Offload(Protocol):
    """Run blocking work, such as decoding, where it does not hold up other queries."""

    async def __call__(self, work: Callable[[], _T], /) -> _T:
        """Give what the work returns."""
        ...


async def in_thread(work: Callable[[], _T], /) -> _T:
    """Run blocking work in a worker thread."""
    return await anyio.to_thread.run_sync(work)


async def in_spare_thread(work: Callable[[], _T], /) -> _T:
    """Run blocking work in a worker thread; who is cancelled does not wait for its end."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Who and what the phases are done with.

    `screener` None: every query is speculated on. `closer` None: the small model never looks twice.
    """

    small: Engine
    screener: Engine | None
    agent: Agent
    closer: LooksCloser | None = None
    prompts: Prompts
    open_pixels: Callable[[tuple[Picture, ...]], Pixels]
    offload: Offload = in_spare_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the phases decide. All defaults are in `config`.

    `evidence_k`: how many candidates a token to ask the small model for, if more than the gate
    reads: evidence to be kept, for other settings to be tried on it. With `degrade` the small
    model's rejected answer is given when the agent fails, on the route `degraded`; without it the
    query fails. `agent_screens`: where the agent starts at once, its own first turn says whether a
    tool is needed. `depth`: how often the small model may look closer before it is given up; what
    the screen says needs a tool is then its own to look at, first. `closer_gate`: for what it then
    answers, which it was asked in other words; None: the same gate.
    """

    gate: GateSpec
    screen: ScreenSpec
    agent_screens: bool = False
    depth: int = 0
    closer_gate: GateSpec | None = None
    max_answer_tokens: int
    evidence_k: int = 0
    screen_timeout_s: float
    speculate_timeout_s: float
    fall_back_timeout_s: float
    degrade: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """What speculation came to: what was said, if anything, and why it is accepted or not.

    `is_whole`: the model ended by itself. `error` is the engine's, if it failed. `asked` is what it
    had been asked; `looks` is how often it had looked closer.
    """

    reason: Reason
    text: str | None = None
    is_whole: bool = True
    error: EngineError | None = None
    asked: Conversation = field(default=(), repr=False)
    looks: int = 0

    @property
    def spare(self) -> str | None:
        """What could serve as an answer if there is no better one."""
        return self.text if self.is_whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One query's way through the funnel: its phases, for a policy to put in order.

    Each phase tells its own events. An EngineError in screen or speculate is doubt, not failure.
    """

    query: Query
    sight: Sight
    parts: Parts
    rules: Rules
    narrator: Narrator

    @property
    def screen_reads_for_agent(self) -> bool:
        """Say if the screen begins as the agent's prompt does, and in the agent's engine."""
        screener, agent = self.parts.screener, self.parts.agent.engine
        if screener is None or self.rules.screen.prompt != "shared":
            return False
        return behind(screener) is behind(agent)

    async def screen(self) -> RouteReason | None:
        """Phase I: say why the query must go to the agent, or None if it may be speculated on."""
        engine, spec = self.parts.screener, self.rules.screen
        if engine is None:
            return None
        request = self._screen_request(spec)
        try:
            with self._phase("screen"):
                generation = await _ask_within(self.rules.screen_timeout_s, engine, request)
                p_tool = read_need(generation, spec)
                needs = needs_tool(p_tool, spec)
                self._tell(Screened(*self._stamp(), p_tool, needs, generation))
        except EngineError as error:
            return "screen_timeout" if isinstance(error, EngineTimeout) else "screen_failed"
        return "needs_tool" if needs else None

    async def speculate(self) -> Attempt:
        """Phases II and III: let the small model answer, and gate what it said."""
        try:
            with self._phase("speculate"):
                conversation = self._spliced(self.parts.prompts.speculate)
                generation = await self._answer(conversation, self.rules.gate)
        except EngineError as error:
            return _failed(error)
        return self._gated(generation, conversation, self.rules.gate)

    async def look_closer(self, attempt: Attempt) -> Attempt:
        """Let the small model look closer after an attempt, and gate what it answers then.

        Where it does not say where to look, the attempt stays what it was.
        """
        closer, gate = self.parts.closer, self.rules.closer_gate or self.rules.gate
        if closer is None or attempt.text is None:
            return attempt
        try:
            with self._phase("speculate"):
                where = closer.ask_where(attempt.asked, attempt.text)
                request = request_for(where, closer.max_tokens)
                said = await _ask_within(self.rules.speculate_timeout_s, self.parts.small, request)
                box = closer.read_where(said.text, self.sight.views[0])
                self._tell(Looked(*self._stamp(), said, box))
                if box is None:
                    return attempt
                size = closer.view_size(box.size)
                part = await self.parts.offload(partial(self.sight.pixels.cut, box, size))
                told = self.parts.prompts.answer_briefly(self.query)
                shown = closer.show(where, said.text, part=part, instruction=told)
                generation = await self._answer(shown, gate)
        except EngineError as error:
            return _failed(error)
        return self._gated(generation, shown, gate, looks=attempt.looks + 1)

    def accept(self, attempt: Attempt) -> Answered:
        """End with what the gate let pass."""
        if attempt.reason != "accepted" or attempt.text is None:
            raise ValueError(f"{attempt} was not accepted")
        return Answered(*self._stamp(), attempt.text, "speculative", attempt.reason)

    def give(self, attempt: Attempt) -> Answered:
        """End with what the small model said, whatever the gate made of it.

        Raises: the EngineError it failed with; NoAnswer if it said nothing.
        """
        if attempt.text is None:
            raise attempt.error or NoAnswer("the small model gave an empty reply")
        return Answered(*self._stamp(), attempt.text, "speculative", attempt.reason)

    def leave_to_agent(self, reason: Reason) -> None:
        """Settle that the agent must answer, be it at work already or not."""
        self._tell(FellBack(*self._stamp(), reason))

    async def ask_agent(self) -> str:
        """Phase IV: let the agent answer, with its tools."""
        with self._phase("fall_back"):
            return await self._run_agent()

    def end_with_agent(
        self, reason: Reason, found: str | Exception, *, spare: str | None = None
    ) -> Answered:
        """End with the agent's answer; if it failed, with `spare`, what the gate rejected.

        Raises: the error that the agent failed with, unless a spare is there and may be given.
        """
        if isinstance(found, str):
            return Answered(*self._stamp(), found, "agentic", reason)
        is_named = isinstance(found, (EngineError, AgentError, ToolError))
        if spare is None or not (is_named and self.rules.degrade):
            raise found
        return Answered(*self._stamp(), spare, "degraded", "agent_failed")

    async def _answer(self, conversation: Conversation, gate: GateSpec) -> Generation:
        request = request_for(
            conversation,
            self.rules.max_answer_tokens,
            top_logprobs=max(gate.k, self.rules.evidence_k),
        )
        generation = await _ask_within(self.rules.speculate_timeout_s, self.parts.small, request)
        self._tell(Speculated(*self._stamp(), generation))
        return generation

    def _gated(
        self, generation: Generation, asked: Conversation, gate: GateSpec, *, looks: int = 0
    ) -> Attempt:
        with self._phase("gate"):
            verdict = judge(generation, gate)
            self._tell(Gated(*self._stamp(), verdict))
        said, is_whole = generation.text.strip() or None, generation.finish == "stop"
        return Attempt(verdict.reason, said, is_whole=is_whole, asked=asked, looks=looks)

    def _screen_request(self, spec: ScreenSpec) -> GenerateRequest:
        protocol = self.parts.agent.protocol
        if spec.prompt == "shared":
            # With the agent's tools, which a chat template may show before all else.
            asked = request_for(self._spliced(self._screen_within), spec.max_tokens)
            asked = replace(asked, tools=protocol.tools)
        else:
            asked = request_for(self._spliced(self.parts.prompts.screen), spec.max_tokens)
        if spec.rule == "text":
            return asked
        return replace(asked, max_tokens=1, top_logprobs=spec.top_logprobs, choices=SCREEN_WORDS)

    def _screen_within(self, query: Query, views: tuple[View, ...]) -> Conversation:
        opening = self.parts.agent.protocol.opening(query, views)
        return self.parts.prompts.screen_within(opening)

    async def _run_agent(self) -> str:
        agent, timeout_s = self.parts.agent, self.rules.fall_back_timeout_s
        try:
            with anyio.fail_after(timeout_s):
                # Tools cut where they run; decoding, the long part, is done before and elsewhere.
                await self.parts.offload(partial(_decode, self.sight.pixels))
                return await agent.run(self.query, self.sight, self.narrator)
        except TimeoutError:
            raise EngineTimeout(agent.engine.name, f"no answer within {timeout_s:g} s") from None

    def _spliced(self, prompt: Prompt) -> Conversation:
        return splice(self.query.earlier, prompt(self.query, self.sight.views))

    @contextmanager
    def _phase(self, phase: Phase) -> Iterator[None]:
        self._tell(PhaseStarted(*self._stamp(), phase))
        with metering() as meter:
            try:
                yield
            except SpecEyesError as error:
                self._tell(PhaseEnded(*self._stamp(), phase, "failed", meter.lost, error))
                raise
            except Exception:  # a defect, and who knows where
                self._tell(PhaseEnded(*self._stamp(), phase, "failed", None))
                raise
            except BaseException:
                self._tell(PhaseEnded(*self._stamp(), phase, "cancelled", meter.lost))
                raise
            self._tell(PhaseEnded(*self._stamp(), phase, lost=meter.lost))

    def _tell(self, event: Event) -> None:
        self.narrator.tell(event)

    def _stamp(self) -> tuple[str, float]:
        return self.narrator.stamp()


def _failed(error: EngineError) -> Attempt:
    is_late = isinstance(error, EngineTimeout)
    return Attempt("small_timeout" if is_late else "small_failed", error=error)


async def _ask_within(timeout_s: float, engine: Engine, request: GenerateRequest) -> Generation:
    try:
        with anyio.fail_after(timeout_s):
            return await ask(engine, request)
    except TimeoutError:
        raise EngineTimeout(engine.name, f"no reply within {timeout_s:g} s") from None


def _decode(pixels: Pixels) -> None:
    # Any cut that is not the whole picture needs its pixels.
    for index in range(len(pixels.pictures)):
        pixels.cut(Box(0, 0, 1, 1, index))
