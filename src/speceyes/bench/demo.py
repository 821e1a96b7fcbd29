"""The agent alone and SpecEyes answer the same items in turns, each block timed by the wall clock.

It refuses to know engines and models: it is handed what answers. Within a block one method goes
first, in the next one the other, so that a machine that slows down slows both alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol, TextIO, TypeAlias, runtime_checkable

import anyio

from speceyes.bench.items import Item
from speceyes.bench.records import PAPER_K, Record, record_of, to_line
from speceyes.bench.summary import BlockTime
from speceyes.errors import ConfigError, EngineError
from speceyes.events import (
    Answered,
    Event,
    Failed,
    FellBack,
    Gated,
    PhaseEnded,
    Speculated,
    Trace,
)
from speceyes.funnel import Funnel, Outcome, agent_only
from speceyes.gate import GateSpec, judge
from speceyes.types import Engine, Query

DEFAULT_ITEMS: Final = 120
DEFAULT_CONCURRENCY: Final = 1
_LEAST_BLOCK_ITEMS: Final = 20
_BLOCK_ROUNDS: Final = 5  # a block's end leaves the engine idle: at least so many times concurrency
_LEAST_SMALL_CONCURRENCY: Final = 8  # untimed, so batched as the engine likes

_NEVER_ASKED: Final = EngineError("small", "was never asked: a screen sent the query elsewhere")

Rival: TypeAlias = Literal["baseline", "speceyes"]


class Eyes(Protocol):
    """Answer queries: `speceyes.SpecEyes`, or a funnel, once it is open."""

    def answer_many(
        self, queries: Iterable[Query], *, concurrency: int
    ) -> AsyncGenerator[Outcome, None]:
        """Give each query's outcome as soon as it is there."""
        ...

    def stream(self, query: Query) -> AsyncGenerator[Event, None]:
        """Give one query's events as they happen."""
        ...


@runtime_checkable
class Forgetful(Protocol):
    """An engine that keeps pictures it has seen, and can be made to let go of them."""

    def forget(self) -> None:
        """Keep nothing of what was seen."""
        ...


class Watcher(Protocol):
    """Be told how a demo goes."""

    def begins(self, stage: str, items: int) -> None:
        """A stage begins, with so many items to come."""
        ...

    def saw(self, record: Record) -> None:
        """An item ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestants:
    """Who answers, on the same engines. `small` screens nothing and lets everything pass."""

    baseline: Eyes
    speceyes: Eyes
    small: Eyes
    engines: Sequence[Engine] = ()

    def forget(self) -> None:
        """Make the engines forget, so that who comes second sees each picture anew as well."""
        for engine in self.engines:
            if isinstance(engine, Forgetful):
                engine.forget()


@asynccontextmanager
async def contestants_on(funnel: Funnel) -> AsyncGenerator[Contestants, None]:
    """Let two more funnels share the engines of SpecEyes' own: agent alone, small model alone.

    The one for the small model gathers evidence for the paper's K as well.
    """
    parts, rules = funnel.parts, funnel.rules
    open_gate = replace(rules.gate, k=max(rules.gate.k, PAPER_K), threshold=-math.inf)
    async with (
        Funnel(parts, rules, agent_only) as alone,
        Funnel(replace(parts, screener=None), replace(rules, gate=open_gate)) as small,
    ):
        engines = (parts.small, parts.agent.engine)
        yield Contestants(baseline=alone, speceyes=funnel, small=small, engines=engines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, and how. `warm_up` items are answered first, untimed and unrecorded.

    Raises: ConfigError naming the field.
    """

    items: Sequence[Item]
    warm_up: Sequence[Item]
    spec: GateSpec
    concurrency: int = DEFAULT_CONCURRENCY

    def __post_init__(self) -> None:
        if not self.items:
            raise ConfigError("items", "is 0; ask for at least one")
        if self.concurrency < 1:
            raise ConfigError("concurrency", f"{self.concurrency} is below 1")

    @property
    def blocks(self) -> Iterator[Sequence[Item]]:
        """The items in blocks, in order."""
        size = max(_LEAST_BLOCK_ITEMS, _BLOCK_ROUNDS * self.concurrency)
        return (self.items[i : i + size] for i in range(0, len(self.items), size))


@dataclass(slots=True)
class Ledger:
    """Keep what has come in so far, in memory and, line by line, in a file.

    It outlives a run that is cut short.
    """

    file: TextIO | None = None
    records: list[Record] = field(default_factory=list)
    times: list[BlockTime] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Keep one record; once this returns, its line is on its way to the disk."""
        self.records.append(record)
        if self.file is not None:
            self.file.write(to_line(record) + "\n")
            self.file.flush()


async def race(
    contestants: Contestants,
    plan: Plan,
    ledger: Ledger,
    *,
    watcher: Watcher,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Let both methods answer all items in turns, then the small model alone, untimed.

    Everything that comes in is in the ledger at once, so that a run cut short still tells.
    """
    watcher.begins("warming up", len(plan.warm_up))
    await _warm_up(contestants, plan)
    watcher.begins("answering", 2 * len(plan.items))
    for block, items in enumerate(plan.blocks):
        turns: tuple[Rival, Rival] = ("baseline", "speceyes")
        for method in turns if block % 2 == 0 else reversed(turns):
            eyes = contestants.baseline if method == "baseline" else contestants.speceyes
            contestants.forget()
            began_s = clock()
            async with aclosing(_outcomes(eyes, items, plan.concurrency)) as outcomes:
                async for item, trace in outcomes:
                    record = record_of(item, trace, plan.spec, method=method, block=block)
                    ledger.add(record)
                    watcher.saw(record)
            ledger.times.append(BlockTime(block, method, len(items), clock() - began_s))
    watcher.begins("small model alone", len(plan.items))
    await _small_alone(contestants.small, plan, ledger, watcher=watcher)


async def speculate_alone(eyes: Eyes, query: Query, spec: GateSpec) -> Trace:
    """Let the small model answer, and stop there; the verdict is this spec's.

    Eyes whose own gate lets everything pass keep the agent from starting in vain.
    """
    told: list[Event] = []
    async with aclosing(eyes.stream(query)) as events:
        async for event in events:
            if isinstance(event, (Gated, FellBack)):
                break
            told.append(event)
    if told and isinstance(told[-1], (Answered, Failed)):
        return tuple(told)
    stamp = (query.query_id, told[-1].at_s)
    said = next((event.generation for event in told if isinstance(event, Speculated)), None)
    if said is None:
        errors = [e.error for e in told if isinstance(e, PhaseEnded) and e.error is not None]
        return (*told, Failed(*stamp, errors[-1] if errors else _NEVER_ASKED))
    verdict = judge(said, spec)
    answered = Answered(*stamp, said.text.strip(), "speculative", verdict.reason)
    return (*told, Gated(*stamp, verdict), answered)


async def _warm_up(contestants: Contestants, plan: Plan) -> None:
    for eyes in (contestants.baseline, contestants.speceyes):
        async with aclosing(_outcomes(eyes, plan.warm_up, plan.concurrency)) as outcomes:
            async for _ in outcomes:
                pass
    for item in plan.warm_up:
        await speculate_alone(contestants.small, item.query, plan.spec)


async def _outcomes(
    eyes: Eyes, items: Sequence[Item], concurrency: int
) -> AsyncGenerator[tuple[Item, Trace], None]:
    by_id = {item.query.query_id: item for item in items}
    queries = [item.query for item in items]
    async with aclosing(eyes.answer_many(queries, concurrency=concurrency)) as outcomes:
        async for outcome in outcomes:
            yield by_id[outcome.query_id], outcome.trace


async def _small_alone(eyes: Eyes, plan: Plan, ledger: Ledger, *, watcher: Watcher) -> None:
    room = anyio.Semaphore(max(_LEAST_SMALL_CONCURRENCY, plan.concurrency))

    async def answer(item: Item) -> None:
        async with room:
            trace = await speculate_alone(eyes, item.query, plan.spec)
        record = record_of(item, trace, plan.spec, method="small")
        ledger.add(record)
        watcher.saw(record)

    async with anyio.create_task_group() as tasks:
        for item in plan.items:
            tasks.start_soon(answer, item)
