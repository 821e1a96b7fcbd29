"""The gateway's views on a real port, told of requests that never were."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from speceyes.gateway.observer import Watcher
from speceyes.gateway.observing import Seen
from speceyes.gateway.settings import GatewaySettings
from tests.gateway_stories import MODELS, NOON_S, draw_many


class Asgi:
    """An ASGI callable that is no function, as Starlette's routes want endpoints to be."""

    def __init__(self, view):
        self.view = view

    async def __call__(self, scope, receive, send):
        await self.view(scope, receive, send)


def app_of(watcher):
    return Starlette(
        routes=[Route(path, Asgi(view)) for path, view in watcher.views.items()],
    )


def hear(watcher, finished, *, question=None, traceparent=None):
    """Tell a watcher of one request from its arrival to its end."""
    ended = finished.ended
    seen = Seen(
        request_id=ended.request_id,
        route_name=ended.route_name,
        is_stream=ended.is_stream,
        key_name=ended.key_name,
        question=question,
        traceparent=traceparent,
    )
    watcher.began(seen)
    watcher.admitted(ended.request_id)
    for event in finished.trace:
        watcher.event(ended.request_id, event)
    watcher.ended(ended)


def filled(count, *, seed=7, models=MODELS, under_way=0):
    """Give a watcher that has been told of drawn requests; each ended a second after the other."""
    clock = Clock()
    watcher = Watcher(GatewaySettings(), models, clock=clock)
    for finished in draw_many(count, seed=seed):
        if finished.ended.route_name in {"none", *(model.name for model in models)}:
            clock.at_s += 1.0
            hear(watcher, finished)
    for index in range(under_way):
        watcher.began(Seen(request_id=f"open-{index}", route_name=models[0].name))
    return watcher


class Clock:
    """A clock that is set by hand."""

    def __init__(self, at_s=NOON_S):
        self.at_s = at_s

    def __call__(self):
        return self.at_s


@contextmanager
def served(app) -> Iterator[str]:
    """Serve an app in a thread of its own; gives its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
