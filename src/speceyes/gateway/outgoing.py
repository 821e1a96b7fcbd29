"""A reply on its way out: begun once, counted, and ended once.

It refuses to know what is replied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from speceyes.errors import SpecEyesError
from speceyes.gateway.observing import Send
from speceyes.gateway.wire.errors import error_body, error_headers

Header: TypeAlias = tuple[bytes, bytes]

JSON: Final[Header] = (b"content-type", b"application/json")
_EVENT_STREAM: Final = b"text/event-stream"
EVENTS: Final[tuple[Header, ...]] = (
    (b"content-type", _EVENT_STREAM + b"; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # asks proxies not to hold pieces back
)


class Outgoing:
    """Send one reply. `clock` gives seconds; the first content's time is kept.

    Invariants: no second status is ever sent, and nothing after the end.
    """

    __slots__ = (
        "_clock",
        "_name",
        "_send",
        "bytes_out",
        "first_byte_at_s",
        "has_ended",
        "is_events",
        "status",
    )

    def __init__(self, send: Send, request_id: str, clock: Callable[[], float]) -> None:
        self._send = send
        self._name = (b"x-request-id", request_id.encode())
        self._clock = clock
        self.status: int | None = None
        self.bytes_out = 0
        self.first_byte_at_s: float | None = None
        self.is_events = False
        self.has_ended = False

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send the status and the headers."""
        self.status = status
        self.is_events = any(
            name == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers
        )
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, self._name],
            }
        )

    async def write(self, piece: bytes, *, is_content: bool = True) -> None:
        """Send a piece of the body; only content counts as the first."""
        if is_content and self.first_byte_at_s is None:
            self.first_byte_at_s = self._clock()
        self.bytes_out += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        if piece and self.first_byte_at_s is None:
            self.first_byte_at_s = self._clock()
        self.bytes_out += len(piece)
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def whole(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        """Send a reply of JSON in one piece."""
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, (JSON, length, *headers))
        await self.end(body)

    async def refuse(self, error: SpecEyesError, headers: Sequence[Header] = ()) -> None:
        """Send an error as the whole reply."""
        more = (*error_headers(error), *headers)
        await self.whole(error.http_status, error_body(error), more)
