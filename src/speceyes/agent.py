"""The agent answers with the large model and its tools, turn by turn, within a budget.

It refuses to know which model, protocol and tools these are, and why it was asked at all. What the
model does wrong is an observation the model is shown; only what ends the loop is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import anyio

from speceyes.earlier import splice
from speceyes.errors import EngineProtocolError, NoAnswer, SpecEyesError, ToolError
from speceyes.events import Event, ToolFinished, TurnFinished
from speceyes.meter import one_call
from speceyes.types import (
    Budget,
    Conversation,
    Engine,
    FinalAnswer,
    GenerateRequest,
    Generation,
    Malformed,
    Observation,
    OpenTool,
    Pixels,
    Query,
    Reply,
    Tool,
    ToolCall,
    ToolProtocol,
    View,
)


@dataclass(frozen=True, slots=True)
class Narrator:
    """Tell one query's events, each stamped with the seconds since the query started."""

    query_id: str
    started_s: float
    tell: Callable[[Event], None]

    def stamp(self) -> tuple[str, float]:
        """Give whose event it is, and the time now."""
        return self.query_id, anyio.current_time() - self.started_s


@dataclass(frozen=True, slots=True)
class Sight:
    """What there is to see of a query: the first view of each original, and the originals."""

    views: tuple[View, ...]
    pixels: Pixels


class Speaker(Protocol):
    """Say the agent's next turn, in place of the large model alone."""

    async def speak(self, request: GenerateRequest, turn: int, narrator: Narrator) -> Generation:
        """Go on with the conversation, telling what else was done. Raises: EngineError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Run the large model's tool loop; `speaker` None: it says every turn itself.

    Bounds: `budget.max_turns` turns of `budget.max_tokens_per_turn` tokens, so at most one tool
    call fewer than turns. Once the model has been shown `max_pictures` pictures, or has one turn
    left, it is asked for its answer without tools.
    """

    engine: Engine
    protocol: ToolProtocol
    tools: Mapping[str, Tool]  # by name
    budget: Budget
    max_pictures: int
    speaker: Speaker | None = None

    async def run(self, query: Query, sight: Sight, narrator: Narrator) -> str:
        """Answer the query, telling each turn and what came of it.

        Only what the protocol reads as an answer is one: untagged words on the last turn are not.
        Raises: EngineError; ToolError if a tool broke; NoAnswer if the budget ended without one.
        """
        async with Toolbox(self.tools, sight.pixels) as toolbox:
            return await self._take_turns(query, sight.views, narrator, toolbox=toolbox)

    async def _take_turns(
        self, query: Query, views: tuple[View, ...], narrator: Narrator, *, toolbox: Toolbox
    ) -> str:
        conversation = self.protocol.opening(query, views)
        for turn in range(1, self.budget.max_turns + 1):
            forced = turn == self.budget.max_turns or len(views) >= self.max_pictures
            if forced:
                conversation = self.protocol.force_answer(query, conversation)
            request = self._request(splice(query.earlier, conversation))
            generation = await self._speak(request, turn, narrator)
            reply = self._read(generation, views)
            narrator.tell(TurnFinished(*narrator.stamp(), turn, generation, reply, forced))
            if isinstance(reply, FinalAnswer):
                return reply.text
            if forced:
                raise NoAnswer(
                    f"asked for its answer on turn {turn}, with {len(views)} pictures seen, the "
                    f"agent gave {_kind(reply)}; a larger budget may help"
                )
            observation = await self._observe(reply, toolbox, self.max_pictures - len(views))
            narrator.tell(ToolFinished(*narrator.stamp(), turn, reply, observation))
            outcome = reply if isinstance(reply, Malformed) else observation
            conversation = self.protocol.proceed(
                query, conversation, reply=generation.text, outcome=outcome
            )
            views += tuple(map(View, observation.pictures, observation.boxes_px))
        raise NoAnswer("the budget has no turn; set max_turns to at least 1")

    async def _speak(self, request: GenerateRequest, turn: int, narrator: Narrator) -> Generation:
        if self.speaker is None:
            return await ask(self.engine, request)
        return await self.speaker.speak(request, turn, narrator)

    def _request(self, conversation: Conversation) -> GenerateRequest:
        request = request_for(conversation, self.budget.max_tokens_per_turn)
        return replace(request, stop=self.protocol.stop, tools=self.protocol.tools)

    def _read(self, generation: Generation, views: tuple[View, ...]) -> Reply:
        reply = self.protocol.parse(generation.text, views)
        is_unended = isinstance(reply, Malformed) or (
            isinstance(reply, FinalAnswer) and reply.is_open
        )
        if is_unended and generation.finish == "length":
            limit = self.budget.max_tokens_per_turn
            return Malformed("truncated", f"the reply was cut off after {limit} tokens; be brief")
        if isinstance(reply, ToolCall) and reply.tool not in self.tools:
            known = ", ".join(self.tools) or "none"
            return Malformed("unknown_tool", f"there is no tool {reply.tool!r}; there is: {known}")
        return reply

    async def _observe(
        self, reply: ToolCall | Malformed, toolbox: Toolbox, room: int
    ) -> Observation:
        if isinstance(reply, Malformed):
            return Observation(error=reply.detail)
        seen = await toolbox.run(reply)
        if len(seen.pictures) != len(seen.boxes_px):
            raise ToolError(f"{reply.tool} does not say where each of its pictures comes from")
        return replace(seen, pictures=seen.pictures[:room], boxes_px=seen.boxes_px[:room])


class Toolbox:
    """One query's tools: each is opened at its first call, and all are closed on leaving.

    What a tool raises that has no name here becomes a ToolError that names the tool.
    """

    def __init__(self, tools: Mapping[str, Tool], pixels: Pixels) -> None:
        self._tools = tools
        self._pixels = pixels
        self._stack = AsyncExitStack()
        self._open: dict[str, OpenTool] = {}

    async def __aenter__(self) -> Toolbox:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _named_by("closing a tool"):
            await self._stack.__aexit__(kind, error, trace)

    async def run(self, call: ToolCall) -> Observation:
        """Run one call. Raises: ToolError."""
        with _named_by(call.tool):
            if call.tool not in self._open:
                tool = self._tools[call.tool].open(self._pixels)
                self._open[call.tool] = await self._stack.enter_async_context(tool)
            return await self._open[call.tool].run(call)


@contextmanager
def _named_by(tool: str) -> Iterator[None]:
    try:
        yield
    except SpecEyesError:
        raise
    except Exception as error:
        raise ToolError(f"{tool} raised {type(error).__name__}: {error}") from error


def request_for(
    conversation: Conversation, max_tokens: int, *, top_logprobs: int = 0
) -> GenerateRequest:
    """Ask to go on with a conversation; one that ends in the assistant's words is continued."""
    return GenerateRequest(
        conversation,
        max_tokens,
        top_logprobs=top_logprobs,
        continue_final_message=conversation[-1].role == "assistant",
    )


async def ask(engine: Engine, request: GenerateRequest) -> Generation:
    """Have an engine generate; whatever else it raises becomes an EngineError that names it.

    Engines come from anywhere, and one that breaks the contract is one that cannot be relied on.
    Raises: EngineError; InputError, if a picture turned out to be damaged.
    """
    try:
        with one_call():
            return await engine.generate(request)
    except SpecEyesError:
        raise
    except Exception as error:
        raise EngineProtocolError(
            engine.name, f"raised {type(error).__name__} instead of an EngineError: {error}"
        ) from error


def _kind(reply: ToolCall | Malformed) -> str:
    return "a tool call" if isinstance(reply, ToolCall) else f"no answer ({reply.reason})"
