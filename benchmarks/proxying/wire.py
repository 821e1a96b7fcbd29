"""Bytes are carried on to another port and back, unread: what a second transfer costs at the least.

It refuses to know what it carries. The figures of a proxy beyond this one's are its own work.

    python benchmarks/proxying/wire.py TO_PORT    # prints its own port
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import uvloop

_HIGH_BYTES: Final = 1024 * 1024


class End(asyncio.Protocol):
    """One end of a connection; what comes in here goes out at the other end."""

    def __init__(self) -> None:
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []  # what came before the other end was there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=_HIGH_BYTES)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Carry on."""
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """Let the other end read no more than this one can be rid of."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let it read on."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a protocol's method
        """Close the other end."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def join(self, other: End) -> None:
        """Carry on between these two from now on."""
        self.other, other.other = other, self
        early, self.early = self.early, []
        for data in early:
            self.data_received(data)


async def serve(to_port: int) -> None:
    """Carry until killed."""
    loop = asyncio.get_running_loop()
    opening: set[asyncio.Task[None]] = set()

    async def open_other(near: End) -> None:
        _, far = await loop.create_connection(End, "127.0.0.1", to_port)
        near.join(far)

    def accept() -> End:
        near = End()
        task = loop.create_task(open_other(near))
        opening.add(task)
        task.add_done_callback(opening.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
