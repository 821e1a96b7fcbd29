"""Requests' bodies are read whole here, within their bytes, their time, and a room for them all.

It refuses to know what the bytes mean. One that is too long is refused by its header, before any of
it is read, or as soon as it is longer than it may be.
"""

from __future__ import annotations

from typing import Final

import anyio

from speceyes.errors import NoRoom, RequestTooLarge, RequestTooSlow
from speceyes.gateway.observing import Receive, Scope
from speceyes.gateway.settings import Limits

ARRIVED: Final = "speceyes.arrived"
"""The key, in the state of ASGI's scope, of a callable that says if the body is all there."""

_FIELD: Final = "body"
_RETRY_AFTER_S: Final = 1.0


class ClientLeft(Exception):  # noqa: N818 - an end, which nobody is to be told of
    """The client went away before its request was whole."""


class BodyRoom:
    """Read bodies, of which no more than `max_held_bytes` are held at once.

    Invariants: what was read of a body that is refused, or whose client left, is not held.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """How much is held."""
        return self._held_bytes

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Read a whole body, which is held until its length is given back.

        After a refusal part of the body may be still on its way: the reply is to close the
        connection. Raises: RequestTooLarge, RequestTooSlow, NoRoom; ClientLeft.
        """
        limit_s = self._limits.body_timeout_s
        length = _length(scope["headers"])
        if length is not None:
            self._check(length)
        pieces: list[bytes] = []
        try:
            if _has_arrived(scope):  # most have, and a time limit costs more than all else here
                await self._gather(receive, pieces)
            else:
                with anyio.fail_after(limit_s):
                    await self._gather(receive, pieces)
        except BaseException as error:
            self.give_back(sum(map(len, pieces)))
            if isinstance(error, TimeoutError):
                raise RequestTooSlow(
                    _FIELD, f"did not arrive within {limit_s:g} s; send less, or send it faster"
                ) from None
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def give_back(self, length: int) -> None:
        """Let go of a body of so many bytes."""
        self._held_bytes -= length

    async def _gather(self, receive: Receive, pieces: list[bytes]) -> None:
        length = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientLeft
            piece: bytes = message.get("body", b"")
            length += len(piece)
            self._check(len(piece), so_far=length)
            self._held_bytes += len(piece)
            pieces.append(piece)
            if not message.get("more_body", False):
                return

    def _check(self, more: int, *, so_far: int = 0) -> None:
        if max(more, so_far) > self._limits.max_body_bytes:
            raise RequestTooLarge(
                _FIELD,
                f"is above {self._limits.max_body_bytes} bytes; send fewer or smaller pictures",
            )
        if self._held_bytes + more > self._limits.max_held_bytes:
            raise NoRoom(
                f"the requests under way hold {self._held_bytes} bytes already; ask again soon",
                retry_after_s=_RETRY_AFTER_S,
            )


def _has_arrived(scope: Scope) -> bool:
    has_arrived = scope.get("state", {}).get(ARRIVED)
    return has_arrived is not None and has_arrived()


def _length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value[:30])  # so many digits are too many bytes, whatever follows
    return None
