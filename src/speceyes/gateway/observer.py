"""All that is told of requests comes together here: counted, logged, traced, and shown.

It refuses to know how requests are answered. Nothing here makes one wait: to hear of an event costs
a list's append, and to hear of an end some tens of microseconds; disks and collectors are for
threads of their own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from speceyes.events import Event
from speceyes.gateway import series
from speceyes.gateway.audit import AuditLog
from speceyes.gateway.figures import Model
from speceyes.gateway.measures import Finished, count, tell
from speceyes.gateway.observing import AsgiApp, BreakerState, Ended, EngineRole, Seen
from speceyes.gateway.reports import Report, Whole, put_together
from speceyes.gateway.settings import GatewaySettings
from speceyes.gateway.snapshots import Folder
from speceyes.gateway.stats import Tally, Told
from speceyes.gateway.trace_context import context_of
from speceyes.gateway.tracing import Tracing
from speceyes.gateway.views import views_of
from speceyes.shadow.work import Shadow, ShadowOutcome
from speceyes.types import Usage

_LOG: Final = logging.getLogger(__name__)
_BEAT_S: Final = 1.0


@dataclass(slots=True)
class _Open:
    """A request under way. `query_at_s` is when its query was taken up, since 1970."""

    seen: Seen
    is_admitted: bool = False
    query_at_s: float | None = None
    events: list[Event] = field(default_factory=list)


class Watcher:
    """Observe one worker, and show all workers that share a folder; None: this one is all.

    `clock` gives seconds since 1970. `tracing` is for tests; else the settings say where it goes.
    Raises: ConfigError if traces are asked for and cannot be had.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        models: Sequence[Model],
        *,
        folder: Path | None = None,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._since_s = clock()
        self._worker = f"{os.getpid()}-{time.time_ns()}"
        self._folder = None if folder is None else Folder(folder, self._worker)
        self._tally = Tally()
        self._open: dict[str, _Open] = {}
        self._breakers = {model.name: _closed(model) for model in models}
        self._audit = None if settings.audit.file is None else AuditLog(settings.audit)
        self._tracing = tracing
        if tracing is None and settings.tracing.endpoint is not None:
            self._tracing = Tracing(settings.tracing)
        self._dropped: dict[str, int] = {}
        self._shadows: dict[str, Shadow] = {}
        self.views: Mapping[str, AsgiApp] = views_of(self.whole, models, version=_version())

    def open(self) -> AbstractAsyncContextManager[Watcher]:
        """Begin and end with the worker. Raises: ConfigError if the log cannot be opened."""
        return self._opened()

    def began(self, seen: Seen) -> None:
        """Hear of a request, before it is let in."""
        self._open[seen.request_id] = _Open(seen)

    def admitted(self, request_id: str) -> None:
        """Hear that it is let in: it waits in no queue any more."""
        request = self._open.get(request_id)
        if request is not None:
            request.is_admitted = True

    def event(self, request_id: str, event: Event) -> None:
        """Hear what happens in the funnel."""
        request = self._open.get(request_id)
        if request is None:
            return
        if request.query_at_s is None:
            request.query_at_s = self._clock() - event.at_s
        request.events.append(event)

    def ended(self, ended: Ended) -> None:
        """Hear of its end."""
        request = self._open.pop(ended.request_id, None)
        heard = () if request is None else tuple(request.events)
        trace = heard or (() if ended.answer is None else ended.answer.trace)
        finished = Finished(ended=ended, trace=trace, at_s=self._clock())
        try:
            told = tell(finished)
        except Exception:  # noqa: BLE001 - a defect, and none of the request's: it still counts
            _LOG.exception("request_id=%s message=%r", ended.request_id, "its story is unsound")
            finished = replace(finished, trace=())
            told = tell(finished)
        self._take(finished, told, request)

    def breaker(self, route_name: str, role: EngineRole, state: BreakerState) -> None:
        """Hear that a route's engine went down, is tried again, or is back."""
        self._breakers.setdefault(route_name, {})[role] = state

    def watch(self, shadow: Shadow) -> None:
        """Count a route's shadow work, and show what it sees."""
        self._shadows[shadow.name] = shadow
        shadow.tell = partial(self._count_shadow, shadow.name)

    async def whole(self) -> Whole:
        """Put together what all workers did so far."""
        reports = [self._report()]
        if self._folder is not None:
            reports += await anyio.to_thread.run_sync(self._folder.others)
        return put_together(reports, at_s=self._clock())

    def _take(self, finished: Finished, told: Told, request: _Open | None) -> None:
        ended = finished.ended
        seen = None if request is None else request.seen
        count(finished, self._tally, told=told)
        if self._audit is not None:
            self._audit.hear(told, finished, seen)
        if self._tracing is not None:
            context = context_of(
                ended.request_id,
                None if seen is None else seen.traceparent,
                share=self._settings.tracing.share,
            )
            query_at_s = None if request is None else request.query_at_s
            self._tracing.hear(told, context, query_at_s=query_at_s)

    def _count_shadow(self, model: str, outcome: ShadowOutcome, usage: Usage) -> None:
        self._tally.add(series.SHADOW, (model, outcome))
        kinds = {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}
        for kind, tokens in kinds.items():
            if tokens:
                self._tally.add(series.SHADOW_TOKENS, (model, kind), tokens)

    def _report(self) -> Report:
        writers = {"audit": self._audit, "traces": self._tracing}
        for what, writer in writers.items():
            dropped = 0 if writer is None else writer.dropped
            if dropped > self._dropped.get(what, 0):
                self._tally.add(series.DROPPED, (what,), dropped - self._dropped.get(what, 0))
                self._dropped[what] = dropped
        return Report(
            worker=self._worker,
            since_s=self._since_s,
            at_s=self._clock(),
            in_flight=len(self._open),
            queued=sum(not request.is_admitted for request in self._open.values()),
            breakers={model: dict(states) for model, states in self._breakers.items()},
            stats=self._tally.stats(),
            shadows={name: shadow.watched() for name, shadow in self._shadows.items()},
        )

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Watcher]:
        writers = [writer for writer in (self._audit, self._tracing) if writer is not None]
        for writer in writers:
            writer.open()
        try:
            async with anyio.create_task_group() as tasks:
                if self._folder is not None:
                    await self._open_folder(self._folder)
                    tasks.start_soon(self._leave_reports, self._folder)
                yield self
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                for writer in writers:
                    await anyio.to_thread.run_sync(writer.close)
                if self._folder is not None:
                    await self._leave_report(self._folder)

    async def _open_folder(self, folder: Folder) -> None:
        try:
            await anyio.to_thread.run_sync(folder.open)
        except OSError as error:
            _LOG.warning("worker=%s message=%r", self._worker, f"has no folder: {error}")

    async def _leave_reports(self, folder: Folder) -> None:
        while True:
            await self._leave_report(folder)
            await anyio.sleep(_BEAT_S)

    async def _leave_report(self, folder: Folder) -> None:
        try:
            await anyio.to_thread.run_sync(partial(folder.write, self._report()))
        except OSError as error:
            _LOG.warning("worker=%s message=%r", self._worker, f"cannot leave its report: {error}")


def _closed(model: Model) -> dict[EngineRole, BreakerState]:
    if model.threshold is None:
        return {"large": "closed"}
    return {"small": "closed", "large": "closed"}


def _version() -> str:
    try:
        return version("speceyes")
    except PackageNotFoundError:
        return "unknown"
