"""Requests for chat completions come in here, are let in or refused, answered or passed on.

It refuses to know how any of that is done. Each request ends exactly once; one whose client leaves
is cancelled, with all that was begun for it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from speceyes.engines.transport import ONWARD
from speceyes.errors import (
    AgentError,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    RequestMalformed,
    SpecEyesError,
    ToolError,
)
from speceyes.gateway.answering import Job, answer_stream, answer_whole, fail
from speceyes.gateway.guard.admission import Admission
from speceyes.gateway.guard.bodies import BodyRoom, ClientLeft
from speceyes.gateway.guard.keys import KeyRing
from speceyes.gateway.guard.pixels import PixelRoom
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.images.opening import open_images
from speceyes.gateway.observing import EndedReason, Observer, Receive, Scope, Send
from speceyes.gateway.passing import is_refusal, pass_on
from speceyes.gateway.routes import Route, Routes
from speceyes.gateway.settings import GatewaySettings, Key
from speceyes.gateway.trace_context import onward
from speceyes.gateway.visit import Visit, visit_of
from speceyes.gateway.wire.query import images_of, query_of, question_of
from speceyes.gateway.wire.reply import Told, way_headers
from speceyes.gateway.wire.request import Asked, read_request, settle
from speceyes.gateway.wire.turns import Outside
from speceyes.shadow.work import Heard

_LOG: Final = logging.getLogger(__name__)
_TIMEOUT: Final = "x-request-timeout-s"
_REQUEST_ID: Final = "x-request-id"
_LAST_WORD_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Serve `POST /v1/chat/completions`: an ASGI application of its own."""

    settings: GatewaySettings
    routes: Routes
    keys: KeyRing
    admission: Admission
    bodies: BodyRoom
    pixels: PixelRoom
    fetcher: Fetcher
    observer: Observer
    clock: Callable[[], float] = time.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request to its end."""
        visit = visit_of(scope, send, observer=self.observer, clock=self.clock)
        try:
            came = await self._read(scope, receive, visit)
            if came is not None:
                await self._attend(came, receive, visit)
        except anyio.get_cancelled_exc_class():
            visit.leave("draining")
            with anyio.move_on_after(_LAST_WORD_S, shield=True):
                await fail(visit, EngineUnavailable("gateway", "is closing; ask again"), [])
            raise
        except Exception as error:  # noqa: BLE001 - ends its request, loudly, and no other one
            _LOG.exception("request_id=%s message=%r", visit.request_id, "a defect")
            await self._refuse(visit, SpecEyesError(f"unexpected {type(error).__name__}"), "defect")
        finally:
            self.bodies.give_back(visit.bytes_in)
            visit.end()

    async def _read(self, scope: Scope, receive: Receive, visit: Visit) -> _Came | None:
        """Read a request; None: it was refused, or its client has left."""
        try:
            key = self.keys.find(scope["headers"])
            visit.key_name = None if key is None else key.name
            named = _headers(scope)
            limit_s = _limit_s(named, self.settings.limits.request_timeout_s)
            body = await self.bodies.read(scope, receive)
            visit.bytes_in = len(body)
            asked = read_request(body)
            visit.is_stream = asked.is_stream
            route = self.routes.find(asked.model)
        except ClientLeft:
            return None
        except SpecEyesError as error:
            await self._refuse(visit, error, "malformed")
            return None
        visit.route_name = route.name
        outside, not_applied = settle(asked, route.settings.on_sampling)
        if route.settings.mode == "bypass":
            outside = Outside("route", "model")
        visit.see(None if outside else question_of(asked.turns))
        tracing = self.settings.tracing
        share = None if tracing.endpoint is None else tracing.share
        headers = onward(visit.request_id, named, share=share)
        return _Came(
            asked=asked,
            route=route,
            key=key,
            outside=outside,
            not_applied=not_applied,
            deadline_s=visit.began_at_s + limit_s,
            limit_s=limit_s,
            accept=named.get("accept", "*/*"),
            headers={**headers, _REQUEST_ID: visit.request_id},
        )

    async def _attend(self, came: _Came, receive: Receive, visit: Visit) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._admit(came, visit)
            tasks.cancel_scope.cancel()
            return
        visit.leave()

    async def _admit(self, came: _Came, visit: Visit) -> None:
        route = came.route
        try:
            with anyio.fail_after(came.deadline_s - self.clock()):
                async with self.admission.admit(came.key) as waited_s:
                    visit.admit(waited_s)
                    await self._serve(came, visit)
        except TimeoutError:
            error = EngineTimeout(route.name, f"no whole answer within {came.limit_s:g} s")
            await self._refuse(visit, error, "deadline")
        except SpecEyesError as error:
            await self._refuse(visit, error, _reason_of(error, visit))

    async def _serve(self, came: _Came, visit: Visit) -> None:
        asked, route = came.asked, came.route
        if came.outside is not None or route.funnel is None:
            left_s = came.deadline_s - self.clock()
            headers = {**came.headers, "accept": came.accept, _TIMEOUT: f"{left_s:.3f}"}
            outside = came.outside or Outside("route", "model")
            await pass_on(asked, route, visit, outside=outside, headers=headers)
            return
        ONWARD.set(came.headers)
        images = images_of(asked.turns)
        pictures = await open_images(images, self.settings.images, self.fetcher)
        job = Job(
            query=query_of(asked.turns, pictures, query_id=visit.request_id),
            funnel=route.funnel_for(asked.max_tokens) or route.funnel,
            told=_teller(came, visit),
            include_usage=asked.include_usage,
        )
        async with self.pixels.hold(sum(one.width_px * one.height_px for one in pictures.values())):
            if asked.is_stream:
                await answer_stream(job, visit, self.settings.streaming)
            else:
                await answer_whole(job, visit)
        if route.shadow is not None and visit.answer is not None:
            heard = Heard(job.query, visit.answer, job.funnel)
            route.shadow.hear(heard, is_busy=self.admission.queued > 0)

    async def _refuse(self, visit: Visit, error: SpecEyesError, reason: EndedReason) -> None:
        visit.fail(error, reason)
        told = way_headers({"route": visit.route, "reason": visit.reason})
        await fail(visit, error, told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Came:
    """A request that was read, and what was settled of it at once.

    `headers` are those that every call made for it carries on.
    """

    asked: Asked
    route: Route
    key: Key | None
    outside: Outside | None
    not_applied: tuple[str, ...]
    deadline_s: float
    limit_s: float
    accept: str
    headers: dict[str, str]


def _teller(came: _Came, visit: Visit) -> Callable[[], Told]:
    route, created_s = came.route, int(time.time())

    def told() -> Told:
        return Told(
            request_id=visit.request_id,
            created_s=created_s,
            small_model=route.small.model(),
            large_model=route.large.model(),
            screened_by=route.screened_by,
            not_applied=came.not_applied,
            bounds=came.asked.bounds,
            wants_boxes=came.asked.wants_boxes,
        )

    return told


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _limit_s(headers: dict[str, str], most_s: float) -> float:
    text = headers.get(_TIMEOUT)
    if text is None:
        return most_s
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = math.nan
    if not 0.0 < limit_s < math.inf:
        raise RequestMalformed(_TIMEOUT, "is not a number of seconds above 0")
    return min(limit_s, most_s)


def _reason_of(error: SpecEyesError, visit: Visit) -> EndedReason:
    if is_refusal(error):
        return "large_down"
    if type(error) is SpecEyesError:
        return "defect"
    if visit.route == "bypass":
        return "upstream"
    is_agents = isinstance(error, (EngineError, AgentError, ToolError))
    return "agent_failed" if is_agents else "defect"
