"""A gateway to be abused: the real application on a real server, two scripted servers behind it.

After each abuse an honest request must be answered, and nothing of it may have gone upstream.
"""

import base64
import io
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from PIL import Image

from speceyes import assemble_gateway
from speceyes.gate import GateSpec
from speceyes.gateway.app import GatewayApp
from speceyes.gateway.settings import GatewaySettings, ImageSettings, Limits, RouteSettings
from speceyes.gateway.settings_file import Plan, RoutePlan
from speceyes.settings_file import Choices
from tests.raw_http import exchange, listening
from tests.stub_server import StubServer, say

LIMITS = Limits(
    max_body_bytes=2_000_000,
    max_in_flight=4,
    max_queue=2,
    queue_timeout_s=5.0,
    header_timeout_s=0.5,
    body_timeout_s=0.8,
)
IMAGES = ImageSettings(fetch=True, allow=("*",), timeout_s=2.0, max_count=4)
SETTINGS = GatewaySettings(limits=LIMITS, images=IMAGES)
PICTURE = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
URL = "messages[0].content[1].image_url.url"


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}


def png():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def question(url=None, **more):
    """Give an honest request, or one with another picture or more fields."""
    picture = {"type": "image_url", "image_url": {"url": data_url(png()) if url is None else url}}
    content = [{"type": "text", "text": "what is it?"}, picture]
    return {"model": "speceyes", "messages": [{"role": "user", "content": content}]} | more


def raw_post(body, *headers, length=None):
    """Write a request."""
    head = [
        b"POST /v1/chat/completions HTTP/1.1",
        b"host: localhost",
        b"content-type: application/json",
        *headers,
    ]
    if length is not False:
        head.append(b"content-length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*head, b"", body])


def few(body):
    """Take no more of a request than a screen needs: what is passed on can be anything."""
    return {"max_tokens": 20, "top_logprobs": 20 if body.get("top_logprobs") else 0}


@dataclass
class Attack:
    """A gateway to be abused, and the two servers behind it."""

    port: int
    small: StubServer
    large: StubServer

    async def send(self, data, **more):
        """Send bytes; the reply must come soon."""
        got = await exchange(self.port, data, **more)
        assert got.after_s < 4.0
        return got

    async def post(self, body, *headers, **more):
        """Send a request's body, in JSON or as bytes, on a connection of its own."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(raw_post(data, b"connection: close", *headers, **more))

    async def refused(self, body, status, param, *headers, **more):
        """Send what must be refused, naming the field."""
        got = await self.post(body, *headers, **more)
        assert got.status == status
        assert got.error["param"] == param
        assert got.error["message"].startswith(f"{param}: ")
        assert "Traceback" not in got.data.decode("latin-1")
        self.is_untouched()
        return got

    def is_untouched(self):
        """Hold that nothing went upstream."""
        assert self.small.bodies == self.large.bodies == []

    async def still_answers(self, *headers):
        """Hold that an honest request is answered."""
        got = await self.post(question(), *headers)
        assert got.status == 200
        assert json.loads(got.body)["choices"][0]["message"]["content"] == "small words"


@asynccontextmanager
async def attacked(settings=SETTINGS, **routes):
    async with AsyncExitStack() as stack:
        small = StubServer(lambda body: say(body, ["small", " words"]))
        large = StubServer(lambda body: say(few(body), ["no"]))
        for server in (small, large):
            await server.start()
            stack.push_async_callback(server.stop)
        choices = Choices(
            small=f"{small.url}#stub",
            large=f"{large.url}#stub",
            protocol="deepeyes",
            gate=GateSpec(threshold=1.0, k=16),
        )
        plan = Plan(
            settings=settings, routes=(RoutePlan(settings=RouteSettings(), choices=choices),)
        )
        app = GatewayApp(partial(assemble_gateway.open_gateway, plan))
        port = await stack.enter_async_context(
            listening(app, settings.limits, lifespan="on", server_header=False)
        )
        yield Attack(port, small, large)


@pytest.fixture(scope="module")
async def gateway():
    async with attacked() as attack:
        yield attack


@pytest.fixture
async def attack(gateway):
    for server in (gateway.small, gateway.large):
        server.bodies.clear()
        server.headers.clear()
    yield gateway
    await gateway.still_answers()
