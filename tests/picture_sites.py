"""Servers of pictures on loopback that do as they are told, and names that lead to them."""

import socket
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractResolver

from tests.raw_pictures import PNG

PUBLIC, INSIDE = "127.0.0.1", "127.0.0.2"


class Names(AbstractResolver):
    """Knows a few names; one that was asked often enough answers otherwise."""

    def __init__(self, **names):
        self.names = names
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        self.asked.append(host)
        found = self.names.get(host.partition(".")[0])
        if found is None:
            raise OSError("no such name")
        at_times = found if isinstance(found[0], list) else [found]
        answers = at_times[min(len(self.asked), len(at_times)) - 1]
        return [
            {
                "hostname": host,
                "host": one,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            for one in answers
        ]

    async def close(self):
        pass


class Site:
    """A server that does as it is told, on an address."""

    def __init__(self):
        self.asked = []
        self.replies = {}
        self.port = 0

    async def reply(self, request):
        self.asked.append((request.host, request.path_qs, dict(request.headers)))
        return await self.replies[request.path](request)


@asynccontextmanager
async def site(address=PUBLIC, port=0):
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.reply)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def says(data=PNG, status=200, kind="image/png", **headers):
    async def reply(request):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=data, status=status, headers={"content-type": kind} | named)

    return reply


def leads_to(location):
    return says(b"", 302, location=location)
