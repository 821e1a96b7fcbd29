"""A body arrives as it was sent, whatever its length, and with its length told."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from speceyes.engines.payload import WholeBody


@pytest.fixture
def anyio_backend():
    return "asyncio"  # all that aiohttp runs on


@pytest.mark.anyio
@pytest.mark.parametrize("length", [0, 1, 65_536, 3_000_000])
async def test_a_body_arrives_whole_and_can_be_sent_again(length):
    heard = []

    async def hear(request: web.Request) -> web.Response:
        heard.append((request.content_length, await request.read(), request.content_type))
        return web.Response()

    app = web.Application(client_max_size=4_000_000)
    app.router.add_post("/", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    body = bytes(range(256)) * (length // 256) + bytes(length % 256)
    payload = WholeBody(body)
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
                async with session.post(url, data=payload) as response:
                    assert response.status == 200
    finally:
        await runner.cleanup()
    assert heard == [(length, body, "application/json")] * 2


def test_a_body_can_be_read_as_text():
    assert WholeBody('"ä"'.encode()).decode() == '"ä"'
