"""A request's body as it goes out: whole, in one write.

It refuses to know what the bytes mean. Bodies hold pictures: the library's own way cuts them small,
and goes once around the event loop for each cut.
"""

from __future__ import annotations

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload


class WholeBody(Payload):
    """Send bytes as they are; they can be sent again, on another connection."""

    _value: bytes

    def __init__(self, body: bytes) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await writer.write(self._value)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - it is this body's own
    ) -> None:
        await self.write(writer)
