"""A real uvicorn on loopback, and a client that sends bytes as they are, well formed or not."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from time import monotonic

import uvicorn

from speceyes.gateway.guard.slow_clients import patient_protocol
from speceyes.gateway.settings import Limits


class _Server(uvicorn.Server):
    def capture_signals(self):
        return nullcontext()

    async def serve(self, sockets=None):
        with suppress(SystemExit):  # how it says that the application did not start
            await super().serve(sockets)


@asynccontextmanager
async def listening(app, limits: Limits, **more):
    """Serve an ASGI application, as the gateway is served; gives the port."""
    config = uvicorn.Config(
        app,
        http=patient_protocol(limits),
        ws="none",
        log_level="critical",
        timeout_keep_alive=more.pop("keep_alive_s", 5),
        timeout_graceful_shutdown=1,
        **more,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            if server.should_exit:
                raise RuntimeError(f"the application did not start: {getattr(app, 'failure', '')}")
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await running
        listener.close()


@dataclass
class Got:
    """What came back on a connection, until it was closed or nothing more came."""

    data: bytes
    is_closed: bool
    after_s: float

    @property
    def statuses(self) -> list[int]:
        """The status of each reply, in order."""
        return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.data)]

    @property
    def status(self) -> int:
        """The status of the one reply."""
        (status,) = self.statuses
        return status

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the first reply."""
        head = self.data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in head)}

    @property
    def body(self) -> bytes:
        """What follows the first head."""
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def error(self) -> dict:
        """The error that the body tells."""
        return json.loads(self.body)["error"]


class Raw:
    """One connection."""

    def __init__(self, reader, writer) -> None:
        self._reader, self.writer = reader, writer
        self._since_s = monotonic()

    async def send(self, data: bytes) -> None:
        """Send bytes, if anybody still listens."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def got(self, *, quiet_s: float = 5.0, until: bytes | None = None) -> Got:
        """Read until the connection is closed, or nothing came for a while, or this has come."""
        data, is_closed = bytearray(), False
        try:
            while until is None or until not in data:
                async with asyncio.timeout(quiet_s):
                    piece = await self._reader.read(65536)
                if not piece:
                    is_closed = True
                    break
                data += piece
        except ConnectionError:
            is_closed = True
        except TimeoutError:
            pass
        return Got(bytes(data), is_closed, monotonic() - self._since_s)


@asynccontextmanager
async def connected(port: int):
    """Connect to the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(port: int, data: bytes, **more) -> Got:
    """Send bytes, and give what comes back."""
    async with connected(port) as raw:
        await raw.send(data)
        return await raw.got(**more)
