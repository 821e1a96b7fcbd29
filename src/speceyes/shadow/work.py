"""A shadow does work beside queries, of which nothing is served, and watches their gate.

It refuses to know who asks, be it a gateway's client or a library's caller: it hears of a query
once that is answered. What it holds and runs is bounded, gives way, and ends with its owner.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from speceyes.bench.agreement import agree
from speceyes.calibration.audit import Seen
from speceyes.calibration.certificate import Certificate, certifies
from speceyes.errors import ConfigError, EngineUnavailable, SpecEyesError
from speceyes.events import TURNED_AWAY, Answer, Answered, Event, fold, usage_by_phase
from speceyes.funnel import Funnel, Outcome
from speceyes.load import Busy, behind
from speceyes.phases import Parts, Passage
from speceyes.policies.contest import speculate
from speceyes.policies.fixed import Policy, agent_only, straight_to_agent
from speceyes.shadow.findings import passed_in, record_of, said_in, setup_of, verdict_in
from speceyes.shadow.keep import Keep
from speceyes.shadow.memory import Memory
from speceyes.shadow.records import Setup, ShadowRecord, to_line, without_words
from speceyes.shadow.settings import ShadowSettings
from speceyes.shadow.state import plain_setup
from speceyes.shadow.watch import Watch, Watched, begin, checked, scored, watched
from speceyes.types import Engine, Query, Usage

ShadowOutcome: TypeAlias = Literal["agreed", "differed", "unread", "failed", "dropped"]
Tell: TypeAlias = Callable[[ShadowOutcome, Usage], None]

_LOG: Final = logging.getLogger(__name__)
_DRAWN: Final = random.SystemRandom()
_MOST_SLOTS: Final = 10_000
_OUTCOMES: Final[dict[bool | None, ShadowOutcome]] = {True: "agreed", False: "differed"}
_NO_PROMPTS: Final[Mapping[str, str]] = {}


def _tell_nobody(outcome: ShadowOutcome, usage: Usage) -> None:
    """Stand in for whoever would hear what became of shadow work, and what it cost."""


def _always() -> bool:
    return True


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
    """Watch one funnel's queries in one process. Give it to SpecEyes, or to a route.

    `certificate`: of the funnel's gate, whose scores later ones are held against. `tell` hears of
    each piece of work that ended or found no room; `draw` gives numbers from 0 to 1 and knows
    nothing of the queries.
    Invariants: `hear` neither waits nor raises; at most `max_in_flight` pieces of work are under
    way; an engine with a queue is left alone; leaving cancels all work. What it has seen stays, and
    with a `state_folder` is gone on from by the next one, in this process or another.
    Raises: ConfigError if its mode is off; when entered, if the folder cannot be used.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        *,
        name: str = "speceyes",
        certificate: Certificate | None = None,
        tell: Tell = _tell_nobody,
        draw: Callable[[], float] = _DRAWN.random,
    ) -> None:
        if settings.mode == "off":
            raise ConfigError("shadow.mode", "is off; say audit or observe, or leave it out")
        self.name = name
        self.settings = settings
        self.certificate = certificate
        self.tell = tell
        self._draw = draw
        kept = settings.file
        self._keep = None if kept is None else Keep(kept, most=settings.max_records)
        folder = settings.state_folder
        memory = None if folder is None else Memory(folder, name=name, mode=settings.mode)
        self._memory = memory
        self._valid_for: Mapping[str, Any] = {}
        self._is_free: Callable[[], bool] = _always
        self._known: Watch | None = None
        self._setup: Setup | None = None
        self._slots: deque[_Slot] = deque()
        self._in_flight = 0
        self._ended: anyio.Event | None = None  # somebody waits for work to end
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Shadow:
        if self._memory is not None:
            self._known = await self._memory.open(self._valid_for, self._watch)
        self._tasks = await anyio.create_task_group().__aenter__()
        if self._memory is not None:
            self._tasks.start_soon(self._memory.keep, lambda: self._watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)  # its work keeps its errors to itself
        finally:
            if self._memory is not None:
                await self._memory.leave(self._watch)

    @property
    def in_flight(self) -> int:
        """How many pieces of work are under way."""
        return self._in_flight

    @property
    def _watch(self) -> Watch:
        if self._known is None:
            raise EngineUnavailable("shadow", "watches nothing yet; give it to SpecEyes, entered")
        return self._known

    def watched(self) -> Watched:
        """Say what it has seen so far, also once it is left. Raises: EngineUnavailable."""
        return watched(self._watch)

    async def drain(self) -> None:
        """Wait until no work is under way; bound the wait with anyio.move_on_after."""
        while self._in_flight:
            self._ended = self._ended or anyio.Event()
            await self._ended.wait()

    def over(
        self,
        funnel: Funnel,
        *,
        prompts: Mapping[str, str] = _NO_PROMPTS,
        workers: int = 1,
        is_free: Callable[[], bool] = _always,
    ) -> Funnel:
        """Begin to watch a funnel; give the one that is to answer in its place.

        That one obeys the shadow, and its owner has it `hear` of what was answered (`overheard`
        does so by itself). `prompts` identify the wording; `is_free` says if engines may be asked.
        Raises: ConfigError if the settings or the certificate are for another gate.
        """
        if self._tasks is not None:
            raise EngineUnavailable("shadow", "is at work already; make another one")
        rules, told = funnel.rules, self.certificate
        if self.settings.on_breach == "tighten" and rules.closer_gate is not None:
            why = "tighten moves one gate, and here is a closer one too; say off or tell"
            raise ConfigError("shadow.on_breach", why)
        closer_gate = rules.closer_gate if rules.gate.depth else None
        if told is not None and not certifies(told, rules.gate, closer_gate):
            raise ConfigError("shadow.certificate", "speaks of another gate; give its own, or none")
        self._is_free = is_free
        self._setup = setup_of(funnel, prompts)
        self._valid_for = plain_setup(self._setup, rules.closer_gate)
        reference = None if told is None else told.reference
        self._known = begin(self.settings, rules.gate, workers=workers, reference=reference)
        self._slots.clear()
        return Funnel(funnel.parts, rules, self._watching(funnel.policy))

    def overheard(self, funnel: Funnel, *, prompts: Mapping[str, str]) -> Funnel:
        """Do as `over`, and hear of every query that the funnel then answers."""
        obeying = self.over(funnel, prompts=prompts)
        return _Overheard(obeying, self.hear)

    def hear(self, heard: Heard, *, is_busy: bool = False) -> None:
        """Take a query that has been answered; `is_busy`: others wait, so that no work begins."""
        answer = heard.answer
        if self.settings.mode == "observe":
            if answer.route == "agentic":
                self._begin(heard, partial(self._observe, heard), is_busy=is_busy)
            return
        if answer.reason not in TURNED_AWAY:  # as in calibration: of what the screen let pass
            self._score(None if answer.verdict is None else answer.verdict.score)
        was_accepted = answer.route == "speculative" and answer.verdict is not None
        slot = _Slot(Seen(answer.verdict.score if was_accepted and answer.verdict else None))
        self._slots.append(slot)
        if slot.seen.score is not None and self._draw() < self.settings.share:
            work = partial(self._check, heard, slot)
            slot.is_settled = not self._begin(heard, work, is_busy=is_busy)
        self._fold()

    def _watching(self, policy: Policy) -> Policy:
        """Put the gate in force before a policy; in `observe`, leave all to the agent instead."""

        async def under_watch(passage: Passage) -> Answered:
            watch = self._watch
            if self.settings.mode == "observe" or watch.state == "off":
                return await straight_to_agent(passage, "agent_only")
            if watch.state == "tightened":
                passage = replace(passage, rules=replace(passage.rules, gate=watch.gate))
            return await policy(passage)

        return under_watch

    def _begin(self, heard: Heard, work: Callable[[], Awaitable[None]], *, is_busy: bool) -> bool:
        is_full = self._in_flight >= self.settings.max_in_flight
        if self._tasks is None or is_busy or is_full or not self._has_room(heard.funnel.parts):
            self.tell("dropped", Usage.zero)
            return False
        self._in_flight += 1
        self._tasks.start_soon(self._work, work)
        return True

    def _has_room(self, parts: Parts) -> bool:
        return self._is_free() and not any(map(_has_queue, (parts.small, parts.agent.engine)))

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:  # noqa: BLE001 - a defect, which ends this piece of work and no other
            _LOG.exception("model=%s message=%r", self.name, "shadow work failed")
        finally:
            self._in_flight -= 1
            ended, self._ended = self._ended, None
            if ended is not None:
                ended.set()

    async def _check(self, heard: Heard, slot: _Slot) -> None:
        try:
            beside = Funnel(heard.funnel.parts, heard.funnel.rules, agent_only)
            found = await beside.settle(heard.query)
            theirs = None if found.answer is None else found.answer.text
            outcome = self._compare(heard, found, ours=heard.answer.text, theirs=theirs)
            slot.seen = replace(slot.seen, differs=self._differs(outcome))
        finally:
            slot.is_settled = True
            self._fold()

    async def _observe(self, heard: Heard) -> None:
        rules = heard.funnel.rules
        found = await Funnel(heard.funnel.parts, rules, _small_side).settle(heard.query)
        small = said_in(found.trace)
        text = None if small is None else small.text.strip() or None
        outcome = self._compare(heard, found, ours=text, theirs=heard.answer.text)
        parts = heard.funnel.parts
        passed, verdict = passed_in(found.trace, parts), verdict_in(found.trace)
        seen = Seen()
        if passed and verdict is not None:
            self._score(verdict.score)
            if verdict.accepted:
                seen = Seen(verdict.score, self._differs(outcome))
        self._slots.append(_Slot(seen))
        self._fold()
        if self._keep is not None and self._setup is not None:
            record = record_of(
                found.trace,
                heard.answer,
                parts,
                name=self.name,
                agrees={"agreed": True, "differed": False}.get(outcome),
                setup=self._setup,
            )
            await self._write(self._keep, record)

    def _compare(
        self, heard: Heard, found: Outcome, *, ours: str | None, theirs: str | None
    ) -> ShadowOutcome:
        outcome: ShadowOutcome = "failed"
        if ours is not None and theirs is not None:
            outcome = _OUTCOMES.get(agree(ours, theirs, heard.query.options), "unread")
        usage = sum(usage_by_phase(found.trace).values(), start=Usage.zero)
        self.tell(outcome, usage)
        return outcome

    def _differs(self, outcome: ShadowOutcome) -> bool | None:
        if outcome == "unread":
            return True if self.settings.unread == "differs" else None
        return {"agreed": False, "differed": True}.get(outcome)

    async def _write(self, keep: Keep, record: ShadowRecord) -> None:
        line = to_line(record if self.settings.answers else without_words(record))
        try:
            await anyio.to_thread.run_sync(keep.add, line)
        except OSError as error:
            told = f"cannot keep a record: {error}; see the shadow's file"
            _LOG.warning("model=%s message=%r", self.name, told)

    def _score(self, score: float | None) -> None:
        if score is None:
            return
        before = self._watch.drift
        self._known = scored(self._watch, score)
        drift = self._watch.drift
        if drift is not None and drift.is_alarmed and not (before and before.is_alarmed):
            those = {"calibration": "the calibration's", "first": "the first ones"}
            told = f"the scores have drifted from {those[self._watch.drift_from]}; calibrate again"
            _LOG.warning("model=%s message=%r", self.name, told)

    def _fold(self) -> None:
        slots = self._slots
        while slots and (slots[0].is_settled or len(slots) > _MOST_SLOTS):
            before = self._watch
            self._known = now = checked(before, slots.popleft().seen)
            if now.state != before.state or now.gate != before.gate:
                self._say(before, now)
                if self._memory is not None:
                    self._memory.hurry()

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


class _Overheard(Funnel):
    """A funnel that has somebody hear of every query it has answered."""

    def __init__(self, funnel: Funnel, hear: Callable[[Heard], None]) -> None:
        super().__init__(funnel.parts, funnel.rules, funnel.policy)
        self._hear = hear

    async def run(self, query: Query, tell: Callable[[Event], None]) -> None:
        """Take one query through, telling its events, and then let it be heard of."""
        events: list[Event] = []

        def note(event: Event) -> None:
            events.append(event)
            tell(event)

        await super().run(query, note)
        if isinstance(events[-1], Answered):
            self._hear(Heard(query, fold(events), self))


def _has_queue(engine: Engine) -> bool:
    worker = behind(engine)
    try:
        return isinstance(worker, Busy) and worker.present_load.waiting > 0
    except SpecEyesError:  # it is closed, so it is not to be asked either
        return True


async def _small_side(passage: Passage) -> Answered:
    """Screen, and speculate whatever the screen says."""
    await passage.screen()
    return passage.give(await speculate(passage))
