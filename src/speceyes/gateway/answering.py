"""The funnel's answer on its way to a client: whole, or as a stream that tells of the agent's work.

It refuses to know how requests are read, and which way the funnel takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from speceyes.errors import SpecEyesError
from speceyes.events import Answer, Event, FellBack, fold
from speceyes.funnel import Funnel
from speceyes.gateway.outgoing import EVENTS, Header
from speceyes.gateway.settings import Streaming
from speceyes.gateway.visit import Visit
from speceyes.gateway.wire.reply import Told, answer_headers, completion, way_headers
from speceyes.gateway.wire.stream import (
    comment,
    ending,
    failure,
    progress_chunk,
    progress_of,
    role_chunk,
)
from speceyes.types import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One query to be answered, and how it is told. `told` is asked once there is an answer."""

    query: Query
    funnel: Funnel
    told: Callable[[], Told]
    include_usage: bool = False


async def answer_whole(job: Job, visit: Visit) -> None:
    """Answer in one piece. Raises: the error that the query failed with; nothing is sent then."""
    answer = fold(await _events_of(job, visit))
    visit.settle(answer)
    await visit.out.whole(200, completion(answer, job.told()), answer_headers(answer))


async def answer_stream(job: Job, visit: Visit, streaming: Streaming) -> None:
    """Answer as a stream, which begins once the way is known, or has taken too long to be.

    Raises: the error that the query failed with; if the stream has begun, it says so itself.
    """
    send, receive = anyio.create_memory_object_stream[Event](math.inf)
    error: SpecEyesError | None = None
    async with anyio.create_task_group() as tasks, receive:
        tasks.start_soon(_run, job, visit, send)
        try:
            await _Telling(job, visit, streaming).tell(receive)
        except SpecEyesError as raised:  # not as part of a group
            error = raised
    if error is not None:
        raise error


async def _events_of(job: Job, visit: Visit) -> list[Event]:
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        visit.observer.event(visit.request_id, event)

    await job.funnel.run(job.query, tell)
    return events


async def _run(job: Job, visit: Visit, send: MemoryObjectSendStream[Event]) -> None:
    def tell(event: Event) -> None:
        visit.observer.event(visit.request_id, event)
        with suppress(anyio.BrokenResourceError):  # nobody is told any more
            send.send_nowait(event)

    with send:
        await job.funnel.run(job.query, tell)


@dataclass(slots=True)
class _Telling:
    """Tell one query's events to a client."""

    job: Job
    visit: Visit
    streaming: Streaming
    held: list[str] = field(default_factory=list)
    is_agents: bool = False  # it is settled that the agent answers

    async def tell(self, receive: MemoryObjectReceiveStream[Event]) -> None:
        events: list[Event] = []
        while True:
            with anyio.move_on_after(self.streaming.keep_alive_s):
                try:
                    event = await receive.receive()
                except anyio.EndOfStream:
                    break
                events.append(event)
                await self._say(event)
                continue
            await self._begin([])
            await self.visit.out.write(comment("at work"), is_content=False)
        await self._end(fold(events))

    async def _say(self, event: Event) -> None:
        if self.streaming.progress != "none" and (text := progress_of(event)) is not None:
            place = 0 if isinstance(event, FellBack) else len(self.held)
            self.held.insert(place, text)
        if isinstance(event, FellBack):
            self.is_agents = True
            await self._begin(way_headers({"route": "agentic", "reason": event.reason}))
        if self.is_agents:
            await self._tell_held()

    async def _tell_held(self) -> None:
        # An agent that began early may not be needed: what it does is told once it is.
        held, self.held = self.held, []
        is_reasoning = self.streaming.progress == "reasoning"
        for text in held:
            piece = progress_chunk(self.job.told(), text) if is_reasoning else comment(text)
            await self.visit.out.write(piece, is_content=is_reasoning)

    async def _begin(self, headers: list[Header]) -> None:
        if self.visit.out.status is not None:
            return
        await self.visit.out.start(200, (*EVENTS, *headers))
        told = self.job.told()
        await self.visit.out.write(role_chunk(told, told.large_model), is_content=False)

    async def _end(self, answer: Answer) -> None:
        self.visit.settle(answer)
        told, out = self.job.told(), self.visit.out
        if out.status is None:
            await out.start(200, (*EVENTS, *answer_headers(answer)))
            await out.write(role_chunk(told, told.small_model), is_content=False)
        await out.end(ending(answer, told, include_usage=self.job.include_usage))


async def fail(visit: Visit, error: SpecEyesError, headers: list[Header]) -> None:
    """Say what went wrong: as the whole reply, or as the end of a stream that has begun.

    Any other reply that has begun is left as it is, and its connection is then broken.
    """
    out = visit.out
    if out.status is None:
        await out.refuse(error, headers)
    elif out.is_events and not out.has_ended:
        await out.end(b"\n\n" + failure(error))  # the event before may have broken off
