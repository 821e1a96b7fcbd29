"""A query's passage, rehearsed: its phases wait as long as its fate says, and nothing is said.

It refuses to know when phases start: that is the policies' part, which run here as they are. Only
what costs time in Python is left out: pictures, prompts, evidence. tests/test_plan.py holds that
times and routes are those of the real passage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, cast

import anyio

from speceyes.agent import Narrator, Sight
from speceyes.events import Event, RouteReason, Screened, TurnFinished
from speceyes.meter import one_call
from speceyes.phases import Attempt, Parts, Passage, Rules
from speceyes.plan.fates import Fate
from speceyes.plan.station import Station
from speceyes.types import FinalAnswer, Generation, Query, Reply, ToolCall, Usage

_NOTHING: Final = Generation("", "stop", None, 0, None, Usage.zero, "rehearsed")
_ANSWER: Final = FinalAnswer("large")
_CALL: Final = ToolCall("look", {}, "look")
ACCEPTED: Final = Attempt("accepted", "small")
REJECTED: Final = Attempt("below_threshold", "small")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal(Passage):
    """One query's way; a policy puts its phases in order, as it does a real one's."""

    fate: Fate
    small: Station
    large: Station
    screener: Station | None

    async def screen(self) -> RouteReason | None:
        """Phase I."""
        if self.screener is None:
            return None
        with self._phase("screen"):
            await _ask(self.screener, self.fate.screen_s)
            needs = self.fate.needs_tool
            self._tell(Screened(*self._stamp(), float(needs), needs, _NOTHING))
        return "needs_tool" if needs else None

    async def speculate(self) -> Attempt:
        """Phases II and III."""
        with self._phase("speculate"):
            await _ask(self.small, self.fate.speculate_s)
        return ACCEPTED if self.fate.accepted else REJECTED

    async def look_closer(self, attempt: Attempt) -> Attempt:
        """Phases II and III once more."""
        look = self.fate.look(attempt.looks)
        with self._phase("speculate"):
            await _ask(self.small, look.where_s)
            if look.ends == "nowhere":
                return attempt
            await _ask(self.small, look.answer_s)
        made = ACCEPTED if look.ends == "accepted" else REJECTED
        return replace(made, looks=attempt.looks + 1)

    async def ask_agent(self) -> str:
        """Phase IV."""
        fate = self.fate
        with self._phase("fall_back"):
            last = len(fate.turns_s)
            for turn, turn_s in enumerate(fate.turns_s, 1):
                await _ask(self.large, turn_s)
                reply: Reply = _ANSWER if turn == last else _CALL
                self._tell(TurnFinished(*self._stamp(), turn, _said(fate), reply))
                if turn < last and len(fate.tools_s) >= turn and fate.tools_s[turn - 1]:
                    await anyio.sleep(fate.tools_s[turn - 1])
        return _ANSWER.text


@dataclass(frozen=True, slots=True)
class Stations:
    """The two stations; `screens_large` None: nobody screens."""

    small: Station
    large: Station
    screens_large: bool | None = True

    @property
    def screener(self) -> Station | None:
        """Who screens."""
        if self.screens_large is None:
            return None
        return self.large if self.screens_large else self.small


@dataclass(slots=True)
class Troupe:
    """Make rehearsals of one stage: engines are named by their stations, and never asked."""

    parts: Parts
    rules: Rules
    stations: Stations

    def passage(self, fate: Fate, narrator: Narrator) -> Rehearsal:
        """Make one query's passage."""
        return Rehearsal(
            query=cast(Query, None),
            sight=cast(Sight, None),
            parts=self.parts,
            rules=self.rules,
            narrator=narrator,
            fate=fate,
            small=self.stations.small,
            large=self.stations.large,
            screener=self.stations.screener,
        )


def unheard(_: Event) -> None:
    """Let an event go by."""


async def _ask(station: Station, work_s: float) -> None:
    # As agent.ask does it: a call that is cut short, and tells nothing of it, is known to be.
    with one_call():
        await station.serve(work_s)


def _said(fate: Fate) -> Generation:
    return Generation("", "stop", None, 0, None, Usage(0, 0, fate.turn_tokens, 0), "rehearsed")
