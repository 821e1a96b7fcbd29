"""A suite is run here: every method answers every item, and each answer is a record at once.

It refuses to know engines, files and figures. With several methods the items are taken in blocks,
and the methods take turns within each, so that a machine that slows down slows all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import anyio.to_thread

from speceyes.bench.contenders import Contenders, Eyes
from speceyes.bench.folder import Key
from speceyes.bench.items import Entry, Item, Spoiled, Suite
from speceyes.bench.records import Method, Place, Record, record_of, record_of_spoiled
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.types import Query

_LEAST_BLOCK_ITEMS: Final = 20
_BLOCK_ROUNDS: Final = 5  # a block's end leaves the engine idle: at least so many times concurrency
_MOST_BLOCK_BYTES: Final = 256 << 20  # of pictures as they came, all held until the block is over


class Watcher(Protocol):
    """Be told how a run goes."""

    def begins(self, stage: str, items: int, *, done: int = 0) -> None:
        """A stage begins, with so many items in all, some perhaps done before."""
        ...

    def saw(self, record: Record) -> None:
        """An item ended."""
        ...


class Keeper(Protocol):
    """Keep records: a run's folder, as a rule."""

    @property
    def done(self) -> frozenset[Key]:
        """What was kept before this part of the run."""
        ...

    @property
    def part(self) -> int:
        """How often the run was taken up before."""
        ...

    def add(self, record: Record) -> None:
        """Keep one record."""
        ...


@dataclass(slots=True)
class Memory:
    """Keep records in memory only. Implements `Keeper`."""

    records: list[Record] = field(default_factory=list)
    done: frozenset[Key] = frozenset()
    part: int = 0

    def add(self, record: Record) -> None:
        """Keep one record."""
        self.records.append(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked of whom. `warm_up` items are answered first, untimed and unrecorded.

    Raises: ConfigError naming the field.
    """

    suite: Suite
    methods: tuple[Method, ...]
    spec: GateSpec
    concurrency: int = 1
    warm_up: Sequence[Item] = ()

    def __post_init__(self) -> None:
        if not self.methods:
            raise ConfigError("method", "none is given; name at least one")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("method", "one is given twice; name each once")
        if self.concurrency < 1:
            raise ConfigError("concurrency", f"{self.concurrency} is below 1")
        if not self.suite.facts.total:
            raise ConfigError("suite", "has no items; ask for at least one")

    @property
    def total(self) -> int:
        """How many records the whole run makes."""
        return self.suite.facts.total * len(self.methods)


async def run_suite(
    contenders: Contenders,
    plan: Plan,
    keeper: Keeper,
    *,
    watcher: Watcher,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Let every method answer what it has not answered yet; failures are records too.

    Raises: SuiteError if a file of the suite cannot be read; StorageError if a record cannot be
    kept. What was kept before that stays, and the run can be taken up again.
    """
    if len(keeper.done) >= plan.total:
        watcher.begins("answering", plan.total, done=plan.total)
        return
    if plan.warm_up:
        watcher.begins("warming up", len(plan.warm_up) * len(plan.methods))
        await _warm_up(contenders, plan)
    watcher.begins("answering", plan.total, done=len(keeper.done))
    began_s = clock()
    scribe = _Scribe(plan.spec, keeper, watcher, lambda: clock() - began_s)
    if len(plan.methods) == 1:
        (method,) = plan.methods
        turn = _Turn(plan.suite.entries(), method, block=0)
        await scribe.follow(contenders.eyes[method], turn, concurrency=plan.concurrency)
        return
    for block, entries in enumerate(_blocks(plan)):
        shift = block % len(plan.methods)
        for method in plan.methods[shift:] + plan.methods[:shift]:
            contenders.forget()
            turn = _Turn(iter(entries), method, block=block)
            await scribe.follow(contenders.eyes[method], turn, concurrency=plan.concurrency)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one method is to answer next."""

    entries: Iterator[Entry]
    method: Method
    block: int


@dataclass(frozen=True, slots=True)
class _Scribe:
    """Hand out what is to be answered, and write down what came of it."""

    spec: GateSpec
    keeper: Keeper
    watcher: Watcher
    now_s: Callable[[], float]

    async def follow(self, eyes: Eyes, turn: _Turn, *, concurrency: int) -> None:
        """Let one method have its turn."""
        under_way: dict[str, Item] = {}
        async with (
            aclosing(self._to_do(turn, under_way)) as queries,
            aclosing(eyes.answer_many(queries, concurrency=concurrency)) as outcomes,
        ):
            async for outcome in outcomes:
                item = under_way.pop(outcome.query_id)
                self._keep(record_of(item, outcome.trace, self.spec, place=self._place(turn)))

    async def _to_do(self, turn: _Turn, under_way: dict[str, Item]) -> AsyncGenerator[Query, None]:
        # Reading and decoding rows takes its time, which is not that of the queries under way.
        read = partial(next, turn.entries, None)
        while (entry := await anyio.to_thread.run_sync(read)) is not None:
            if (turn.method, entry.item_id) in self.keeper.done:
                continue
            if isinstance(entry, Spoiled):
                self._keep(record_of_spoiled(entry, place=self._place(turn)))
                continue
            under_way[entry.query.query_id] = entry
            yield entry.query

    def _place(self, turn: _Turn) -> Place:
        return Place(turn.method, turn.block, self.keeper.part, self.now_s())

    def _keep(self, record: Record) -> None:
        self.keeper.add(record)
        self.watcher.saw(record)


async def _warm_up(contenders: Contenders, plan: Plan) -> None:
    queries = [item.query for item in plan.warm_up]
    for eyes in contenders.eyes.values():
        async with aclosing(eyes.answer_many(queries, concurrency=plan.concurrency)) as outcomes:
            async for _ in outcomes:
                pass


def _blocks(plan: Plan) -> Iterator[Sequence[Entry]]:
    size = max(_LEAST_BLOCK_ITEMS, _BLOCK_ROUNDS * plan.concurrency)
    block: list[Entry] = []
    held_bytes = 0
    for entry in plan.suite.entries():
        block.append(entry)
        held_bytes += _bytes_of(entry)
        if len(block) == size or held_bytes >= _MOST_BLOCK_BYTES:
            yield block
            block, held_bytes = [], 0
    if block:
        yield block


def _bytes_of(entry: Entry) -> int:
    return 0 if isinstance(entry, Spoiled) else sum(len(p.data) for p in entry.query.pictures)
