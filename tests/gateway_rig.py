"""A gateway in this process, real but for its engines, which follow a plan, and its observer."""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import anyio
from PIL import Image as Pillow

from speceyes.assemble_gateway import shadowed
from speceyes.gateway.app import Gateway, inner_app
from speceyes.gateway.guard.breaker import Breaker, GuardedEngine, guarded
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.relay import Relay, Upstream
from speceyes.gateway.routes import Route, Routes, Served
from speceyes.gateway.settings import GatewaySettings, RouteSettings
from speceyes.pictures import encode_png
from speceyes.policies.fixed import serial
from tests.asgi import Client
from tests.stand_ins import ACCEPTED, a_funnel, an_agent, engines

PICTURE = encode_png(Pillow.new("RGB", (64, 48), "teal"))
URL = f"data:image/png;base64,{base64.b64encode(PICTURE.data).decode()}"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    """Ask about a picture, unless other messages are given."""
    asked = {"role": "user", "content": [IMAGE, {"type": "text", "text": "which?"}]}
    return {"model": "speceyes", "messages": list(messages or [asked]), **fields}


def text_body(**fields: Any) -> dict[str, Any]:
    """Ask without a picture."""
    return body({"role": "user", "content": "hello"}, **fields)


@dataclass
class Witness:
    """An observer that keeps all it is told."""

    seen: list = field(default_factory=list)
    let_in: list = field(default_factory=list)
    events: list = field(default_factory=list)
    ends: list = field(default_factory=list)
    states: list = field(default_factory=list)
    views: dict = field(default_factory=dict)

    def open(self):
        return nullcontext(self)

    def began(self, seen):
        self.seen.append(seen)

    def admitted(self, request_id):
        self.let_in.append(request_id)

    def event(self, request_id, event):
        self.events.append((request_id, event))

    def ended(self, ended):
        self.ends.append(ended)

    def breaker(self, route_name, role, state):
        self.states.append((route_name, role, state))

    @property
    def end(self):
        """The one end of the one request there was."""
        assert len(self.ends) == len(self.seen) == 1
        assert self.ends[0].request_id == self.seen[0].request_id
        return self.ends[0]


@dataclass
class Rig:
    """One gateway: its client, its witness, and its engines."""

    client: Client
    witness: Witness
    small: Any
    large: Any
    gateway: Gateway


@asynccontextmanager
async def a_gateway(plan=ACCEPTED, *, upstream=None, settings=None, route=None, **more):
    """Open a gateway whose engines follow a plan; `upstream` is the URL to pass requests on to."""
    settings = settings or GatewaySettings()
    route = route or RouteSettings()
    witness = more.pop("witness", None) or Witness()
    small, large = engines(plan)
    breakers = {
        role: Breaker(role, settings.breaker, tell=_teller(witness, role), clock=anyio.current_time)
        for role in ("small", "large")
    }
    own = GuardedEngine(small, breakers["small"]), GuardedEngine(large, breakers["large"])
    order = more.pop("policy", serial)
    policy = guarded(order, **breakers, large_down=route.large_down)
    parts = {"agent": an_agent(own[1])} | more.pop("parts", {})
    funnel = a_funnel(*own, policy, parts=parts, **more)
    relay = None if upstream is None else Relay(_server(upstream))
    served = Route(
        settings=route,
        funnel=None if route.mode == "bypass" else funnel,
        relay=relay,
        small=Served(breaker=breakers["small"], model=lambda: "small-model"),
        large=Served(breaker=breakers["large"], model=lambda: "large-model"),
    )
    served = shadowed(served, workers=1)
    gateway = Gateway(
        settings=settings,
        routes=Routes([served]),
        observer=witness,
        fetcher=Fetcher(settings.images),
        clock=anyio.current_time,
        created_s=1,
    )
    try:
        async with AsyncExitStack() as stack:
            if served.shadow is not None:
                await stack.enter_async_context(served.shadow)
            yield Rig(Client(inner_app(gateway)), witness, small, large, gateway)
    finally:
        if relay is not None:
            await relay.aclose()


def _teller(witness, role):
    return lambda state: witness.breaker("speceyes", role, state)


def _server(url):
    async def find_model():
        return "their-model"

    return Upstream(
        name="large", base_url=url, key="sk-upstream", find_model=find_model, connect_timeout_s=1.0
    )
