"""A request's body is read whole here, within its bytes and its time.

It refuses to know what the bytes mean. One that is too long is refused by its header, before any of
it is read, or as soon as it is longer than it may be.
"""

from __future__ import annotations

from typing import Final

import anyio

from speceyes.errors import RequestTooLarge, RequestTooSlow
from speceyes.gateway.observing import Receive, Scope
from speceyes.gateway.settings import Limits

_FIELD: Final = "body"


class ClientLeft(Exception):  # noqa: N818 - an end, which nobody is to be told of
    """The client went away before its request was whole."""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Read a whole body.

    After a refusal part of the body is still on its way: the reply is to close the connection.
    Raises: RequestTooLarge, RequestTooSlow; ClientLeft.
    """
    _check_length(scope["headers"], limits)
    try:
        with anyio.fail_after(limits.body_timeout_s):
            return await _gather(receive, limits)
    except TimeoutError:
        raise RequestTooSlow(
            _FIELD,
            f"did not arrive within {limits.body_timeout_s:g} s; send less, or send it faster",
        ) from None


async def _gather(receive: Receive, limits: Limits) -> bytes:
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        piece: bytes = message.get("body", b"")
        length += len(piece)
        if length > limits.max_body_bytes:
            raise _too_large(limits)
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_length(headers: list[tuple[bytes, bytes]], limits: Limits) -> None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            digits = value.lstrip(b"0")
            limit = limits.max_body_bytes
            if len(digits) > len(str(limit)) or int(digits or b"0") > limit:
                raise _too_large(limits)


def _too_large(limits: Limits) -> RequestTooLarge:
    return RequestTooLarge(
        _FIELD, f"is above {limits.max_body_bytes} bytes; send fewer or smaller pictures"
    )
