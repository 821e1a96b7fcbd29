"""A route's shadow does work beside its queries, of which nothing is served, and watches its gate.

It refuses to know requests and replies: it hears of a query once its reply has been sent. What it
holds and runs is bounded, gives way to waiting requests, and ends with the worker.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from speceyes.bench.agreement import agree
from speceyes.calibration.audit import Seen
from speceyes.events import Answer, Answered, Gated, Screened, Speculated, Trace, usage_by_phase
from speceyes.funnel import Funnel, Outcome
from speceyes.gate import GateSpec
from speceyes.gateway.settings import ShadowSettings
from speceyes.gateway.shadow_records import Keep, Record
from speceyes.gateway.shadowing import Watch, Watched, begin, checked, scored, watched
from speceyes.phases import Passage
from speceyes.policies.contest import speculate
from speceyes.policies.fixed import Policy, agent_only, straight_to_agent
from speceyes.types import Query, Usage

ShadowOutcome: TypeAlias = Literal["agreed", "differed", "unread", "failed", "dropped"]
Tell: TypeAlias = Callable[[ShadowOutcome, Usage], None]

_LOG: Final = logging.getLogger(__name__)
_DRAWN: Final = random.SystemRandom()
_MOST_SLOTS: Final = 10_000
_OUTCOMES: Final[dict[bool | None, ShadowOutcome]] = {True: "agreed", False: "differed"}


def _tell_nobody(outcome: ShadowOutcome, usage: Usage) -> None:
    """Stand in for whoever would hear what became of shadow work, and what it cost."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A query that was answered, and the funnel that answered it."""

    query: Query
    answer: Answer
    funnel: Funnel


@dataclass(slots=True, eq=False)
class _Slot:
    """A query's place in the audit, which is folded in the order of the queries."""

    seen: Seen
    is_settled: bool = True


class Shadow:
    """Watch one route in one worker; shadow work is run within `async with`.

    `is_free` says if the engines may be asked; `draw` gives numbers from 0 to 1 and knows nothing
    of the queries. `tell` hears of each piece of work that ended, or that found no room.
    Invariants: `hear` neither waits nor raises; at most `max_in_flight` pieces of work are under
    way; leaving cancels them.
    """

    def __init__(
        self,
        name: str,
        settings: ShadowSettings,
        gate: GateSpec,
        *,
        workers: int = 1,
        is_free: Callable[[], bool] = lambda: True,
        draw: Callable[[], float] = _DRAWN.random,
    ) -> None:
        self.name = name
        self.settings = settings
        self.tell: Tell = _tell_nobody
        self._is_free = is_free
        self._draw = draw
        self._watch = begin(settings, gate, workers=workers)
        kept = settings.file
        self._keep = None if kept is None else Keep(kept, most=settings.max_records)
        self._slots: deque[_Slot] = deque()
        self._in_flight = 0
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Shadow:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(None, None, None)  # its work keeps its errors to itself

    @property
    def in_flight(self) -> int:
        """How many pieces of work are under way."""
        return self._in_flight

    def watched(self) -> Watched:
        """Say what it has seen so far."""
        return watched(self._watch)

    def watching(self, policy: Policy) -> Policy:
        """Put the gate in force before a policy; in `observe`, leave all to the agent instead."""

        async def under_watch(passage: Passage) -> Answered:
            watch = self._watch
            if self.settings.mode == "observe" or watch.state == "off":
                return await straight_to_agent(passage, "agent_only")
            if watch.state == "tightened":
                passage = replace(passage, rules=replace(passage.rules, gate=watch.gate))
            return await policy(passage)

        return under_watch

    def hear(self, heard: Heard, *, is_busy: bool = False) -> None:
        """Take a query that has been answered; `is_busy`: others wait, so that no work begins."""
        answer = heard.answer
        if self.settings.mode == "observe":
            if answer.route == "agentic":
                self._begin(partial(self._observe, heard), is_busy=is_busy)
            return
        score = None if answer.verdict is None else answer.verdict.score
        self._score(score)
        slot = _Slot(Seen(score if answer.route == "speculative" else None))
        self._slots.append(slot)
        if slot.seen.score is not None and self._draw() < self.settings.share:
            slot.is_settled = not self._begin(partial(self._check, heard, slot), is_busy=is_busy)
        self._fold()

    def _begin(self, work: Callable[[], Awaitable[None]], *, is_busy: bool) -> bool:
        is_full = self._in_flight >= self.settings.max_in_flight
        if self._tasks is None or is_busy or is_full or not self._is_free():
            self.tell("dropped", Usage.zero)
            return False
        self._in_flight += 1
        self._tasks.start_soon(self._work, work)
        return True

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:  # noqa: BLE001 - a defect, which ends this piece of work and no other
            _LOG.exception("model=%s message=%r", self.name, "shadow work failed")
        finally:
            self._in_flight -= 1

    async def _check(self, heard: Heard, slot: _Slot) -> None:
        try:
            beside = Funnel(heard.funnel.parts, heard.funnel.rules, agent_only)
            found = await beside.settle(heard.query)
            theirs = None if found.answer is None else found.answer.text
            outcome = self._compare(found, heard.answer.text, theirs)
            slot.seen = replace(slot.seen, differs=self._differs(outcome))
        finally:
            slot.is_settled = True
            self._fold()

    async def _observe(self, heard: Heard) -> None:
        rules = heard.funnel.rules
        found = await Funnel(heard.funnel.parts, rules, _small_side).settle(heard.query)
        said = _said(found.trace)
        outcome = self._compare(found, said, heard.answer.text)
        record = _record(self.name, heard, found.trace, outcome=outcome)
        self._score(record.score)
        would = record.passed and record.verdict == "accepted"
        seen = Seen(record.score, self._differs(outcome)) if would else Seen()
        self._slots.append(_Slot(seen))
        self._fold()
        if self._keep is not None:
            await self._write(self._keep, record)

    def _compare(self, found: Outcome, ours: str | None, theirs: str | None) -> ShadowOutcome:
        outcome: ShadowOutcome = "failed"
        if ours is not None and theirs is not None:
            outcome = _OUTCOMES.get(agree(ours, theirs), "unread")
        usage = sum(usage_by_phase(found.trace).values(), start=Usage.zero)
        self.tell(outcome, usage)
        return outcome

    def _differs(self, outcome: ShadowOutcome) -> bool | None:
        if outcome == "unread":
            return True if self.settings.unread == "differs" else None
        return {"agreed": False, "differed": True}.get(outcome)

    async def _write(self, keep: Keep, record: Record) -> None:
        try:
            await anyio.to_thread.run_sync(keep.add, record)
        except OSError as error:
            told = f"cannot keep a record: {error}; see routes.{self.name}.shadow.file"
            _LOG.warning("model=%s message=%r", self.name, told)

    def _score(self, score: float | None) -> None:
        if score is None:
            return
        before = self._watch.drift
        self._watch = scored(self._watch, score)
        drift = self._watch.drift
        if drift is not None and drift.is_alarmed and not (before and before.is_alarmed):
            told = "the scores have drifted from the first ones; calibrate again"
            _LOG.warning("model=%s message=%r", self.name, told)

    def _fold(self) -> None:
        slots = self._slots
        while slots and (slots[0].is_settled or len(slots) > _MOST_SLOTS):
            before = self._watch
            self._watch = checked(before, slots.popleft().seen)
            if self._watch.state != before.state or self._watch.gate != before.gate:
                self._say(before, self._watch)

    def _say(self, before: Watch, now: Watch) -> None:
        _LOG.warning(
            "model=%s message=%r state=%s threshold=%g was=%g max_loss=%g checked=%d differing=%d",
            self.name,
            "accepted answers differ from the agent's more often than may be",
            now.state,
            now.gate.threshold,
            before.gate.threshold,
            now.settings.max_loss,
            before.audit.checked,
            before.audit.differing + 1,
        )


async def _small_side(passage: Passage) -> Answered:
    """Screen, and speculate whatever the screen says."""
    await passage.screen()
    return passage.give(await speculate(passage))


def _said(trace: Trace) -> str | None:
    texts = [event.generation.text.strip() for event in trace if isinstance(event, Speculated)]
    return texts[-1] if texts and texts[-1] else None


def _record(name: str, heard: Heard, trace: Trace, *, outcome: ShadowOutcome) -> Record:
    screened = next((event for event in trace if isinstance(event, Screened)), None)
    gated = [event.verdict for event in trace if isinstance(event, Gated)]
    gate = gated[-1].spec if gated else heard.funnel.rules.gate
    is_unscreened = heard.funnel.parts.screener is None
    return Record(
        request_id=heard.query.query_id,
        model=name,
        p_tool=None if screened is None else screened.p_tool,
        passed=is_unscreened or (screened is not None and not screened.needs_tool),
        score=gated[-1].score if gated else None,
        verdict=gated[-1].reason if gated else "small_failed",
        threshold=gate.threshold,
        k=gate.k,
        definition=gate.definition,
        aggregation=gate.aggregation,
        scale=gate.scale,
        agrees={"agreed": True, "differed": False}.get(outcome),
    )
