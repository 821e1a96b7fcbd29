"""The stage for a simulation: all that the real funnel needs, with engines that only take time.

It refuses to know policies. What is said is as little as the phases can read; which query an engine
is asked about stands in the words of the request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio

from speceyes.agent import Agent
from speceyes.engines.replay import scripted, scripted_screen
from speceyes.gate import GateSpec
from speceyes.load import Load
from speceyes.phases import Parts, Rules
from speceyes.plan.fates import Fate, LookFate
from speceyes.plan.rehearsal import Stations
from speceyes.plan.station import Station
from speceyes.screen import ScreenSpec
from speceyes.types import (
    Box,
    Budget,
    Conversation,
    FinalAnswer,
    GenerateRequest,
    Generation,
    Malformed,
    Message,
    Observation,
    Picture,
    Pixels,
    Query,
    Reply,
    Size,
    Text,
    ToolCall,
    Usage,
    View,
)

_T = TypeVar("_T")

GATE: Final = GateSpec(threshold=4.0, k=16)
_THERE: Final = "there"
_SURE, _UNSURE = (scripted("small", separability=score, k=16) for score in (8.0, 2.0))
_HERE, _AWAY = (scripted(said, separability=None) for said in (_THERE, "nowhere"))
_NEED, _NO_NEED = scripted_screen(0.9), scripted_screen(0.1)
_PICTURE: Final = Picture(b"none", "image/png", 1, 1)
_MOST_TURNS: Final = 1000
_ENDLESS_S: Final = 1e9
_LOOK: Final = "look"
_SPOT: Final = Box(0, 0, 1, 1)


def query_named(name: str) -> Query:
    """Make the query that requests will be named after."""
    return Query(name, (_PICTURE,), query_id=name)


@dataclass(frozen=True, slots=True)
class Player:
    """An engine that takes a fate's time at a station. Implements `Engine` and `Busy`."""

    name: str
    station: Station
    fates: Mapping[str, Fate]

    @property
    def present_load(self) -> Load:
        """How busy its station is."""
        return Load(running=self.station.running, waiting=self.station.waiting)

    async def generate(self, request: GenerateRequest) -> Generation:
        """Take the time that the request's phase takes, and say what its fate has."""
        phase, name, place = _told(request.messages)
        fate = self.fates[name]
        if phase == "screen":
            await self.station.serve(fate.screen_s)
            return _NEED if fate.needs_tool else _NO_NEED
        if phase == "speculate":
            await self.station.serve(fate.speculate_s)
            return _SURE if fate.accepted else _UNSURE
        if phase in {"where", "shown"}:
            return await self._look(phase, fate.look(int(place)))
        turn = sum(message.role == "assistant" for message in request.messages)
        await self.station.serve(fate.turns_s[turn])
        words = "answer" if turn + 1 == len(fate.turns_s) else f"{_LOOK}|{name}|{turn}"
        spent = Usage(0, 0, fate.turn_tokens, 0)
        return Generation(words, "stop", None, fate.turn_tokens, None, spent, self.name)

    async def _look(self, phase: str, look: LookFate) -> Generation:
        if phase == "shown":
            await self.station.serve(look.answer_s)
            return _SURE if look.ends == "accepted" else _UNSURE
        await self.station.serve(look.where_s)
        return _AWAY if look.ends == "nowhere" else _HERE

    async def aclose(self) -> None:
        """Nothing to close."""


def make_parts(stations: Stations, fates: Mapping[str, Fate]) -> Parts:
    """Make the funnel's parts over two stations; `fates` by the names of queries."""
    small = Player("small", stations.small, fates)
    large = Player("large", stations.large, fates)
    screener = {None: None, True: large, False: small}[stations.screens_large]
    return Parts(
        small=small,
        screener=screener,
        agent=Agent(
            engine=large,
            protocol=_Terse(),
            tools={_LOOK: _Look(fates)},
            budget=_Terse.budget,
            max_pictures=_MOST_TURNS,
        ),
        closer=_Closer(),
        prompts=_Prompts(),
        open_pixels=_Blank,
        offload=_at_once,
    )


def make_rules(*, depth: int = 0) -> Rules:
    """Make rules under which nothing is late."""
    return Rules(
        gate=GATE,
        screen=ScreenSpec(),
        depth=depth,
        max_answer_tokens=20,
        screen_timeout_s=_ENDLESS_S,
        speculate_timeout_s=_ENDLESS_S,
        fall_back_timeout_s=_ENDLESS_S,
        degrade=False,
    )


class _Prompts:
    """Words that name phase and query."""

    def screen(self, query: Query, _: tuple[View, ...], /) -> Conversation:
        return _asked("screen", query)

    def screen_within(self, opening: Conversation, /) -> Conversation:
        _, name, _ = _told(opening)
        return (Message("user", (Text(f"screen|{name}"),)),)

    def speculate(self, query: Query, _: tuple[View, ...], /) -> Conversation:
        return _asked("speculate", query)

    def answer_briefly(self, _: Query, /) -> str:
        return ""


class _Closer:
    """A closer look of few words, which name the query and the look's place."""

    max_tokens = 1

    def ask_where(self, conversation: Conversation, _: str) -> Conversation:
        _, name, place = _told(conversation)
        nth = int(place) + 1 if place else 0
        return (Message("user", (Text(f"where|{name}|{nth}"),)),)

    def read_where(self, reply: str, _: View) -> Box | None:
        return _SPOT if reply == _THERE else None

    def view_size(self, size: Size) -> Size:
        return size

    def show(
        self,
        conversation: Conversation,
        _: str,
        *,
        part: Picture,  # noqa: ARG002 - the seam's
        instruction: str,  # noqa: ARG002
    ) -> Conversation:
        _, name, place = _told(conversation)
        return (Message("user", (Text(f"shown|{name}|{place}"),)),)


class _Terse:
    """A protocol of two words."""

    name = "terse"
    stop: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    budget = Budget(max_turns=_MOST_TURNS, max_tokens_per_turn=1)

    def view_size(self, size: Size) -> Size:
        return size

    def opening(self, query: Query, _: tuple[View, ...]) -> Conversation:
        return _asked("agent", query)

    def parse(self, reply: str, _: tuple[View, ...]) -> Reply:
        word, told = reply.partition("|")[::2]
        return FinalAnswer("large") if word == "answer" else ToolCall(_LOOK, {"at": told}, reply)

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - the seam's
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,  # noqa: ARG002
    ) -> Conversation:
        return (*conversation, Message("assistant", (Text(reply),)))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        return conversation


@dataclass(frozen=True, slots=True)
class _Look:
    """A tool that takes its time and shows nothing."""

    fates: Mapping[str, Fate]
    name: str = _LOOK

    @asynccontextmanager
    async def open(self, _: Pixels) -> AsyncGenerator[_Look, None]:
        yield self

    async def run(self, call: ToolCall) -> Observation:
        name, _, turn = str(call.arguments["at"]).rpartition("|")
        tools_s = self.fates[name].tools_s
        if int(turn) < len(tools_s) and tools_s[int(turn)]:
            await anyio.sleep(tools_s[int(turn)])
        return Observation("seen")


@dataclass(frozen=True, slots=True)
class _Blank:
    """Pictures that nobody looks at."""

    pictures: tuple[Picture, ...]

    def cut(self, _: Box, size: Size | None = None) -> Picture:  # noqa: ARG002
        return _PICTURE


async def _at_once(work: Callable[[], _T], /) -> _T:
    return work()


def _asked(phase: str, query: Query) -> Conversation:
    return (Message("user", (Text(f"{phase}|{query.query_id}"),)),)


def _told(conversation: Conversation) -> tuple[str, str, str]:
    # The phase, the query's name, and the place of a closer look, from 0: "" where there is none.
    phase, _, rest = _words(conversation[0]).partition("|")
    name, _, place = rest.partition("|")
    return phase, name, place


def _words(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, Text))
