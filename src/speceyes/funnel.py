"""The funnel takes queries through their phases and tells each story as one stream of events.

It refuses to know what happens within a phase, and in which order the phases come: a policy says
when each one starts and what is cancelled.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from speceyes.agent import Narrator, Sight
from speceyes.errors import ConfigError, EngineUnavailable, SpecEyesError
from speceyes.events import Answer, Answered, Event, Failed, QueryStarted, Trace, fold
from speceyes.phases import Parts, Passage, Rules
from speceyes.policies.fixed import Policy, serial
from speceyes.types import Box, Picture, Query, View

_T = TypeVar("_T")
_Produce: TypeAlias = Callable[[MemoryObjectSendStream[_T]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one of many queries ended: in an answer or an error. `trace` is its whole story."""

    query_id: str
    trace: Trace = field(repr=False)
    answer: Answer | None
    error: SpecEyesError | None


class Funnel:
    """Take queries through the phases; `stream` and `answer_many` need it entered.

    Invariants: a query that is not cancelled ends in exactly one Answered or Failed. What is no
    SpecEyesError is a defect in speceyes: it ends its own query in a Failed that carries it as
    `__cause__`, and no other query. Leaving the funnel cancels what it still has under way.
    """

    def __init__(self, parts: Parts, rules: Rules, policy: Policy = serial) -> None:
        self._parts = parts
        self._rules = rules
        self._policy = policy
        self._tasks: TaskGroup | None = None

    @property
    def parts(self) -> Parts:
        """Who and what it works with, for another funnel to share."""
        return self._parts

    @property
    def rules(self) -> Rules:
        """How it decides."""
        return self._rules

    @property
    def policy(self) -> Policy:
        """In which order it takes the phases."""
        return self._policy

    async def __aenter__(self) -> Funnel:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            # Not given the exception of the body, which it would wrap in a group: queries keep
            # their errors to themselves, so that one is not the tasks' concern.
            await tasks.__aexit__(None, None, None)

    async def run(self, query: Query, tell: Callable[[Event], None]) -> None:
        """Take one query through, telling its events, the last of which is its end."""
        narrator = Narrator(query.query_id, anyio.current_time(), tell)
        tell(QueryStarted(*narrator.stamp()))
        tell(await self._end_of(query, narrator))

    async def settle(self, query: Query) -> Outcome:
        """Take one query to its end, good or bad."""
        events: list[Event] = []
        await self.run(query, events.append)
        trace = tuple(events)
        try:
            return Outcome(query.query_id, trace, fold(trace), None)
        except SpecEyesError as error:
            return Outcome(query.query_id, trace, None, error)

    async def answer(self, query: Query) -> Answer:
        """Answer one query. Raises: the error it failed with."""
        events: list[Event] = []
        await self.run(query, events.append)
        return fold(events)

    def stream(self, query: Query) -> AsyncGenerator[Event, None]:
        """Give one query's events as they happen; closing the generator cancels the work."""

        async def produce(send: MemoryObjectSendStream[Event]) -> None:
            def tell(event: Event) -> None:
                with suppress(anyio.BrokenResourceError):  # nobody listens any more
                    send.send_nowait(event)

            await self.run(query, tell)

        # The buffer needs no bound of its own: an agent's budget bounds the events of a query.
        return self._flow(produce, math.inf)

    def answer_many(
        self, queries: Iterable[Query] | AsyncIterable[Query], *, concurrency: int
    ) -> AsyncGenerator[Outcome, None]:
        """Give each query's outcome as soon as it is there; an error is an outcome too.

        A query is taken from the source only when there is room for it, so that memory holds
        `concurrency` queries and as many outcomes. An error of the source itself is raised after
        the outcomes of what was under way. Raises: ConfigError if concurrency is below 1.
        """
        if concurrency < 1:
            raise ConfigError("concurrency", f"{concurrency} is below 1; nothing would be answered")

        async def produce(send: MemoryObjectSendStream[Outcome]) -> None:
            room = anyio.Semaphore(concurrency)

            async def settle(query: Query) -> None:
                await send.send(await self.settle(query))
                room.release()

            async with anyio.create_task_group() as tasks:

                def start(query: Query) -> None:
                    tasks.start_soon(settle, query)

                error = await _feed(queries, room, start)
            if error is not None:
                raise error

        return self._flow(produce, concurrency)

    async def _end_of(self, query: Query, narrator: Narrator) -> Answered | Failed:
        try:
            sight = await self._parts.offload(partial(self._look, query.pictures))
            return await self._policy(
                Passage(
                    query=query,
                    sight=sight,
                    parts=self._parts,
                    rules=self._rules,
                    narrator=narrator,
                )
            )
        except SpecEyesError as error:
            return Failed(*narrator.stamp(), error)
        except Exception as error:  # noqa: BLE001 - ends its query, loudly, and no other one
            told = f"unexpected {type(error).__name__}: {error}; a defect in speceyes, report it"
            defect = SpecEyesError(told)
            defect.__cause__ = error
            return Failed(*narrator.stamp(), defect)

    def _look(self, pictures: tuple[Picture, ...]) -> Sight:
        pixels = self._parts.open_pixels(pictures)
        protocol = self._parts.agent.protocol
        boxes = [Box(0, 0, *picture.size, index) for index, picture in enumerate(pictures)]
        cuts = [pixels.cut(box, protocol.view_size(box.size)) for box in boxes]
        return Sight(tuple(map(View, cuts, boxes)), pixels)

    async def _flow(self, produce: _Produce[_T], buffer: float) -> AsyncGenerator[_T, None]:
        # The work runs in the funnel's task group, not in a scope of this generator's own: those
        # may not be open across a yield. Closing early cancels the work and waits for its end.
        if self._tasks is None:
            raise EngineUnavailable("funnel", "is not open; use it within `async with`")
        send, receive = anyio.create_memory_object_stream[_T](buffer)
        job = _Job()
        self._tasks.start_soon(job.run, produce, send)
        try:
            async for item in receive:
                yield item
            job.check()
        finally:
            job.scope.cancel()
            receive.close()
            await job.over.wait()


class _Job:
    """Work done in the funnel's task group for one generator."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()
        self._is_whole = False
        self._error: Exception | None = None

    async def run(self, produce: _Produce[_T], send: MemoryObjectSendStream[_T]) -> None:
        try:
            with self.scope:
                await produce(send)
                self._is_whole = True
        except Exception as error:  # noqa: BLE001 - check() raises it in the generator's task
            self._error = error
        finally:
            send.close()
            self.over.set()

    def check(self) -> None:
        """Raise what kept the work from its end."""
        if self._error is not None:
            raise self._error
        if not self._is_whole:
            raise EngineUnavailable("funnel", "was closed before the work was done")


async def _feed(
    queries: Iterable[Query] | AsyncIterable[Query],
    room: anyio.Semaphore,
    start: Callable[[Query], None],
) -> Exception | None:
    # The error of a source that breaks is given back, so that what was started can end first.
    try:
        await room.acquire()
        if isinstance(queries, AsyncIterable):
            async for query in queries:
                start(query)
                await room.acquire()
        else:
            for query in queries:
                start(query)
                await room.acquire()
    except Exception as error:  # noqa: BLE001 - the caller raises it
        return error
    return None
