"""The gateway as one ASGI application: every path there is, and what opens and closes with it.

It refuses to know how requests are answered, and what serves the application.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as Path

from speceyes.errors import RouteUnknown, SpecEyesError
from speceyes.gateway.entrance import Entrance
from speceyes.gateway.guard.admission import Admission
from speceyes.gateway.guard.bodies import BodyRoom
from speceyes.gateway.guard.browsers import is_loopback
from speceyes.gateway.guard.keys import KeyRing
from speceyes.gateway.guard.pixels import PixelRoom
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.locks import Locked
from speceyes.gateway.observing import AsgiApp, Observer, Receive, Scope, Send
from speceyes.gateway.openapi import document
from speceyes.gateway.routes import Route, Routes
from speceyes.gateway.settings import GatewaySettings
from speceyes.gateway.wire.errors import error_body, type_of

Answer = Callable[[Request], Response]

_LOG: Final = logging.getLogger(__name__)
_CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """All that serves requests in one worker, open.

    `clock` gives seconds, going forward only; `created_s` is in seconds since 1970.
    """

    settings: GatewaySettings
    routes: Routes
    observer: Observer
    fetcher: Fetcher
    clock: Callable[[], float] = time.monotonic
    created_s: int = field(default_factory=lambda: int(time.time()))


Opening = Callable[[], AbstractAsyncContextManager[Gateway]]


class GatewayApp:
    """The application; `opening` is entered when the server starts, and left when it ends.

    `failure` is why it could not start, if it could not.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._inner: AsgiApp | None = None
        self.failure: SpecEyesError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or open and close with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._inner is not None:
            await self._inner(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            async with self._opening() as gateway, gateway.observer.open():
                self._inner = inner_app(gateway)
                _tell_ready(gateway)
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
        except SpecEyesError as error:
            if self._inner is not None:
                raise
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def inner_app(gateway: Gateway) -> Starlette:
    """Put all paths together, for a gateway that is open."""
    handlers: dict[Any, Any] = {HTTPException: _refuse}
    app = Starlette(routes=paths_of(gateway), exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def paths_of(gateway: Gateway) -> Sequence[BaseRoute]:
    """Lay out every path."""
    settings = gateway.settings
    keys = KeyRing(settings.keys, is_local=is_loopback(settings.host))
    entrance = Entrance(
        settings=gateway.settings,
        routes=gateway.routes,
        keys=keys,
        admission=Admission(gateway.settings.limits, clock=gateway.clock),
        bodies=BodyRoom(settings.limits),
        pixels=PixelRoom(
            settings.images.max_held_pixels, timeout_s=settings.limits.queue_timeout_s
        ),
        fetcher=gateway.fetcher,
        observer=gateway.observer,
        clock=gateway.clock,
    )
    shown = document()
    return [
        Path(_CHAT, entrance, methods=["POST"]),
        Path("/v1/models", Locked(_Get(lambda _: _json(_models(gateway))), keys)),
        Path("/v1/models/{model:path}", Locked(_Get(lambda ask: _model(gateway, ask)), keys)),
        Path("/healthz", _Get(lambda _: _json({"status": "ok"}))),
        Path("/readyz", _Get(lambda _: _readiness(gateway))),
        Path("/openapi.json", _Get(lambda _: _json(shown))),
        *(Path(path, Locked(view, keys)) for path, view in gateway.observer.views.items()),
    ]


@dataclass(frozen=True, slots=True)
class _Get:
    """An ASGI application that answers reading requests."""

    answer: Answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"allow": "GET, HEAD"})
        await self.answer(Request(scope))(scope, receive, send)


def _tell_ready(gateway: Gateway) -> None:
    for route in gateway.routes:
        _LOG.info(
            "message=%r model=%s small=%s large=%s mode=%s",
            "ready",
            route.name,
            route.small.model(),
            route.large.model(),
            route.settings.mode,
        )


def _models(gateway: Gateway) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [_model_object(route, gateway) for route in gateway.routes],
    }


def _model(gateway: Gateway, request: Request) -> Response:
    try:
        route = gateway.routes.find(request.path_params["model"])
    except RouteUnknown as error:
        return Response(error_body(error), error.http_status, media_type="application/json")
    return _json(_model_object(route, gateway))


def _model_object(route: Route, gateway: Gateway) -> dict[str, Any]:
    return {
        "id": route.name,
        "object": "model",
        "created": gateway.created_s,
        "owned_by": "speceyes",
    }


def _readiness(gateway: Gateway) -> Response:
    states = {
        route.name: {"small": route.small.breaker.state, "large": route.large.breaker.state}
        for route in gateway.routes
    }
    is_ready = any(one["large"] != "open" for one in states.values())
    told = {"status": "ready" if is_ready else "every large engine is down", "engines": states}
    return _json(told, 200 if is_ready else 503)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _refuse(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    method, path = request.method[:16], request.url.path[:80]
    told = {
        "message": f"{method} {path}: {HTTPStatus(status).phrase}; see /openapi.json for all paths",
        "type": type_of(status),
        "param": None,
        "code": HTTPStatus(status).phrase.lower().replace(" ", "_"),
    }
    body = msgspec.json.encode({"error": told})
    return Response(body, status, headers=headers, media_type="application/json")
