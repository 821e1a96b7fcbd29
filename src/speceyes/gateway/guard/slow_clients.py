"""Connections whose request's head is too slow or too long end here, and so do those that stall.

It refuses to know what requests say. A body's time and length are held where it is read.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from speceyes.gateway.guard.bodies import ARRIVED
from speceyes.gateway.settings import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client may take, and how long its request's head may be.

    `header_timeout_s`: for a whole head, counted from the connection or from its first byte.
    `stall_timeout_s`: for taking in what waits to be sent, once that is more than the transport
    buffers (64 KiB).
    """

    header_timeout_s: float
    stall_timeout_s: float
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100


def patient_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Give what uvicorn takes for `http`: its own protocol, with an end to its patience."""
    patience = Patience(
        header_timeout_s=limits.header_timeout_s, stall_timeout_s=limits.body_timeout_s
    )
    make = partial(PatientProtocol, patience=patience)
    return cast("type[asyncio.Protocol]", make)  # uvicorn calls it, and asks no more of it


class PatientProtocol(HttpToolsProtocol):
    """Serve one connection. Bytes that trickle in gain a head no time.

    Between requests the server's own keep-alive timeout holds. A reply that is under way is not
    broken into: what is wrong with a request after it only makes it the connection's last one.
    """

    def __init__(self, *arguments: Any, patience: Patience, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience = patience
        self._in_head = True
        self._has_begun = False  # of a head, something has come
        self._has_moved = False  # a head or a body came to its end
        self._head_bytes = 0  # come so far, of a head that is not whole
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over():
            return
        self._has_moved = False
        super().data_received(data)
        if self._is_over() or not self._in_head or (self._has_moved and not self._has_begun):
            return
        self._limit_head()
        if not self._has_moved:
            self._head_bytes += len(data)
            if self._head_bytes > self._patience.max_head_bytes:
                self._refuse_long_head()

    def on_message_begin(self) -> None:
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._in_head, self._has_begun, self._has_moved, self._head_bytes = False, False, True, 0
        if self._is_refused:
            return
        most = self._patience
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head_bytes > most.max_head_bytes or len(self.headers) > most.max_headers:
            self._refuse_long_head()
        else:
            super().on_headers_complete()
            cycle = self.cycle
            self.scope["state"][ARRIVED] = lambda: not cycle.more_body

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._has_moved = True, True
        if not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            self._limit_head()  # the rest of a body that nobody waits for gets no longer than that

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(
                self._patience.stall_timeout_s, self.transport.abort
            )

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse("400 Bad Request", msg)

    def _is_over(self) -> bool:
        return self._is_refused

    def _limit_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self._patience.header_timeout_s, self._end_late_head
            )

    def _end_late_head(self) -> None:
        self._head_timer = None
        limit_s = self._patience.header_timeout_s
        message = f"the head was not whole within {limit_s:g} s"
        self._refuse("408 Request Timeout", message, in_silence=not self._has_begun)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _refuse_long_head(self) -> None:
        most = self._patience
        self._refuse(
            "431 Request Header Fields Too Large",
            f"the head is above {most.max_head_bytes} bytes or {most.max_headers} headers; send "
            "fewer and shorter ones",
        )

    def _refuse(self, status: str, message: str, *, in_silence: bool = False) -> None:
        self._is_refused = True
        if self.transport.is_closing():
            return
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            # What is wrong is the body of a request that is being answered already, or waits.
            in_silence = cycle.response_started or bool(self.pipeline)
        if not in_silence:
            self.transport.write(_reply(status, message))
        self.transport.close()


def _reply(status: str, message: str) -> bytes:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    body = json.dumps({"error": error})
    head = (
        f"HTTP/1.1 {status}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join([*head, "", body]).encode()
