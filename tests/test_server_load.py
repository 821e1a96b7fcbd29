"""A server is asked how busy it is, beside its API; one that does not tell is left alone."""

from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from speceyes.engines.http import HttpEngine
from speceyes.load import Load, Probed
from tests.test_load import VLLM


@pytest.fixture
def anyio_backend():
    """Run on asyncio alone, as aiohttp does."""
    return "asyncio"


@asynccontextmanager
async def metrics(status, text):
    seen = []

    async def tell(request):
        seen.append(request.path)
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", seen
    finally:
        await runner.cleanup()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "text", "load", "asked"),
    [(200, VLLM, Load(running=5, waiting=4), 2), (404, "no", None, 1), (200, "what?", None, 1)],
)
async def test_a_server_is_asked_beside_its_api(status, text, load, asked):
    async with metrics(status, text) as (url, seen):
        engine = HttpEngine(url, model="m")
        assert isinstance(engine, Probed)
        assert [await engine.probe().read(), await engine.probe().read()] == [load, load]
        assert seen == ["/metrics"] * asked  # one that does not tell is not asked again
        await engine.aclose()


@pytest.mark.anyio
async def test_a_server_that_is_down_tells_nothing():
    engine = HttpEngine("http://127.0.0.1:9/v1", model="m")
    assert await engine.probe().read() is None
    await engine.aclose()
