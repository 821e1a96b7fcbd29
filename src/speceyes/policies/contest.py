"""One query's phases are run here side by side, as far as a start says, until one settles it.

It refuses to know what happens within a phase, and who chose the start. Only task groups and cancel
scopes are used: what loses is cancelled, into its engine, and has ended before the query does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from speceyes.events import Answered, Event, Reason, TurnFinished
from speceyes.phases import Attempt, Passage
from speceyes.types import ToolCall

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Start:
    """What starts at once: speculation with the screen, and the agent with both.

    What does not start at once waits until it is known to be needed. An agent whose prompt the
    screen reads for it, into the same engine's cache, starts when that is done: beside each other
    both would read it.
    """

    speculation: bool
    agent: bool


SERIAL: Final = Start(speculation=False, agent=False)
OVERLAP: Final = Start(speculation=True, agent=False)
RACE: Final = Start(speculation=True, agent=True)

_UNSURE: Final[frozenset[Reason]] = frozenset({"below_threshold", "needs_tool"})


async def run(passage: Passage, start: Start) -> Answered:
    """Take a query to its end.

    Invariants: answer, route and reason are those of serial, whatever starts at once, but for a
    query whose agent ends first: that one gets the agent's answer, for the reason `agent_first`.
    An agent that fails while others are at work costs nothing but its own answer. With
    `rules.agent_screens` and the agent started at once, its first turn is the screen: a tool call
    in it settles that a tool is needed.
    Raises: the error of the phase that was decisive.
    """
    waits = start.agent and passage.screen_reads_for_agent
    small = _Branch(lambda: _attempt(passage, early=start.speculation, on_passed=on_passed))
    watched = _watched(passage, small) if passage.rules.agent_screens else passage
    agent = _Branch(watched.ask_agent, on_result=lambda: small.cancel("agent_first"))
    async with anyio.create_task_group() as tasks:
        on_passed = partial(agent.start, tasks) if waits else _nothing
        if start.agent and not waits:
            agent.start(tasks)
        await small.run()
        settled = Attempt(small.cancelled_for) if small.cancelled_for else small.ended()
        if isinstance(settled, Exception) or settled.reason == "accepted":
            tasks.cancel_scope.cancel()
        else:
            passage.leave_to_agent(settled.reason)
            if not agent.begun:
                await agent.run()
    if isinstance(settled, Exception):
        raise settled
    if settled.reason == "accepted":
        return passage.accept(settled)
    return passage.end_with_agent(settled.reason, agent.ended(), spare=settled.spare)


async def _attempt(passage: Passage, *, early: bool, on_passed: Callable[[], None]) -> Attempt:
    """Phases I to III. The screen has the first word, also where speculation has ended before.

    What needs a tool is looked at closer by the small model itself, where it may do so: its answer
    at first sight is then none. `on_passed` is called when the screen has ended, and the small
    model goes on.
    """
    if not early or passage.parts.screener is None:
        reason = await passage.screen()
        if reason is not None and not _looks_itself(passage, reason):
            return Attempt(reason)
        on_passed()
        return await _look_closer(passage, await passage.speculate(), reason)
    speculation = _Branch(passage.speculate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speculation.run)
        screened = await _tried(passage.screen)
        if screened is not None and not _looks_itself(passage, screened):
            tasks.cancel_scope.cancel()
        elif not _is_settled(passage, speculation.outcome):
            on_passed()
    if isinstance(screened, Exception):
        raise screened
    if screened is not None and not _looks_itself(passage, screened):
        return Attempt(screened)
    return await _look_closer(passage, speculation.found(), screened)


async def speculate(passage: Passage) -> Attempt:
    """Let the small model answer, and look closer as often as it may while it is not sure."""
    return await _look_closer(passage, await passage.speculate(), None)


def _is_settled(passage: Passage, outcome: Attempt | Exception | None) -> bool:
    if outcome is None or isinstance(outcome, Exception):
        return outcome is not None
    return outcome.reason == "accepted" or passage.rules.depth == 0


def _looks_itself(passage: Passage, screened: Reason | Exception) -> bool:
    return screened == "needs_tool" and passage.rules.depth > 0


async def _look_closer(passage: Passage, attempt: Attempt, screened: Reason | None) -> Attempt:
    if attempt.error is None and screened is not None:
        attempt = replace(attempt, reason=screened)
    while attempt.reason in _UNSURE and attempt.looks < passage.rules.depth:
        closer = await passage.look_closer(attempt)
        if closer is attempt:
            break
        attempt = closer
    if screened is None or attempt.reason == "accepted" or attempt.error is not None:
        return attempt
    return replace(attempt, reason=screened)


@dataclass(slots=True)
class _Branch(Generic[_T]):
    """Work that others may cancel while it goes on; an error of its own stays in it."""

    work: Callable[[], Awaitable[_T]]
    on_result: Callable[[], None] = lambda: None
    outcome: _T | Exception | None = None
    cancelled_for: Reason | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    begun: bool = False

    def start(self, tasks: TaskGroup) -> None:
        """Let it go on beside others."""
        self.begun = True
        tasks.start_soon(self.run)

    async def run(self) -> None:
        with self.scope:
            self.outcome = await _tried(self.work)
            if not isinstance(self.outcome, Exception):
                self.on_result()

    def cancel(self, reason: Reason) -> None:
        """Cancel it, unless it has come to something, or was cancelled before."""
        if self.outcome is None and self.cancelled_for is None:
            self.cancelled_for = reason
            self.scope.cancel()

    def ended(self) -> _T | Exception:
        if self.outcome is None:
            raise RuntimeError("the branch was cancelled, and yet asked for what it came to")
        return self.outcome

    def found(self) -> _T:
        outcome = self.ended()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _nothing() -> None:
    return


async def _tried(work: Callable[[], Awaitable[_T]]) -> _T | Exception:
    # A task group would wrap the error in a group; whether it is anybody's is decided later.
    try:
        return await work()
    except Exception as error:  # noqa: BLE001 - raised, if decisive, by who asked
        return error


def _watched(passage: Passage, small: _Branch[Attempt]) -> Passage:
    narrator = passage.narrator

    def tell(event: Event) -> None:
        narrator.tell(event)
        if (
            isinstance(event, TurnFinished)
            and event.turn == 1
            and isinstance(event.reply, ToolCall)
        ):
            small.cancel("needs_tool")

    return replace(passage, narrator=replace(narrator, tell=tell))
