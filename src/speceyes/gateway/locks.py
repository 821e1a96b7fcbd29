"""What the gateway shows of itself is behind the same keys as its answers, if there are any.

It refuses to know what is shown. A browser asks for a password: the key is one, for any user.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from speceyes.errors import InputError, KeyRefused, PageRefused
from speceyes.gateway.guard.keys import KeyRing
from speceyes.gateway.observing import AsgiApp, Receive, Scope, Send
from speceyes.gateway.wire.errors import error_body

_CHALLENGE: Final = (b"www-authenticate", b'Basic realm="speceyes", charset="UTF-8"')


@dataclass(frozen=True, slots=True)
class Locked:
    """An ASGI application that only those enter who show a key, as a bearer or as a password."""

    app: AsgiApp
    keys: KeyRing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or refuse it."""
        try:
            self.keys.find([_as_bearer(name, value) for name, value in scope["headers"]])
        except (KeyRefused, PageRefused) as error:
            await _refuse(send, error)
            return
        await self.app(scope, receive, send)


def _as_bearer(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    scheme, _, secret = value.partition(b" ")
    if name != b"authorization" or scheme.lower() != b"basic":
        return name, value
    try:
        _, _, password = base64.b64decode(secret, validate=True).partition(b":")
    except binascii.Error:
        return name, value
    return name, b"Bearer " + password


async def _refuse(send: Send, error: InputError) -> None:
    body = error_body(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if error.http_status == 401:
        headers.append(_CHALLENGE)
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
