"""One request's visit, from its headers to its end: what is learnt of it on the way.

It refuses to know what is done with the request. However it ends, it is told to have ended once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from speceyes.errors import (
    InputError,
    KeyRefused,
    NoRoom,
    PageRefused,
    PictureTooLarge,
    PictureUnknown,
    RateExceeded,
    RequestTooLarge,
    RequestTooSlow,
    RouteUnknown,
    SpecEyesError,
)
from speceyes.events import Answer
from speceyes.gateway.observing import (
    NO_ROUTE,
    Ended,
    EndedReason,
    EndedRoute,
    Observer,
    RefusedReason,
    Scope,
    Seen,
    Send,
)
from speceyes.gateway.outgoing import Outgoing

_LEFT: Final = 499  # what servers note for a client that did not wait
_REFUSALS: Final[tuple[tuple[type[SpecEyesError], RefusedReason], ...]] = (
    (KeyRefused, "unauthorized"),
    (PageRefused, "unauthorized"),
    (RouteUnknown, "unknown_route"),
    (RequestTooSlow, "timeout"),
    (RequestTooLarge, "too_large"),
    (PictureTooLarge, "too_large"),
    (PictureUnknown, "unsupported_image"),
    (RateExceeded, "rate"),
    (NoRoom, "busy"),
    (InputError, "malformed"),
)


@dataclass(slots=True, kw_only=True)
class Visit:
    """Keep what is known of one request under way. `clock` gives seconds, going forward only."""

    request_id: str
    out: Outgoing
    observer: Observer
    clock: Callable[[], float]
    began_at_s: float
    traceparent: str | None = None
    key_name: str | None = None
    route_name: str = NO_ROUTE
    bytes_in: int = 0
    is_stream: bool = False
    waited_s: float = 0.0
    upstream_s: float | None = None
    answer: Answer | None = None
    route: EndedRoute = "cancelled"
    reason: EndedReason = "client_left"
    error: SpecEyesError | None = None
    _is_seen: bool = field(default=False)

    def see(self, question: str | None = None) -> None:
        """Tell that it is here, with what is known of it by now."""
        self._is_seen = True
        self.observer.began(
            Seen(
                request_id=self.request_id,
                route_name=self.route_name,
                is_stream=self.is_stream,
                bytes_in=self.bytes_in,
                key_name=self.key_name,
                question=question,
                traceparent=self.traceparent,
            )
        )

    def admit(self, waited_s: float) -> None:
        """Tell that it is let in."""
        self.waited_s = waited_s
        self.observer.admitted(self.request_id)

    def settle(self, answer: Answer) -> None:
        """Note its answer."""
        self.answer, self.route, self.reason = answer, answer.route, answer.reason

    def fail(self, error: SpecEyesError, reason: EndedReason) -> None:
        """Note what went wrong: the client's part in it is a refusal, all else a failure."""
        self.error, self.route, self.reason = error, "failed", reason
        for kind, refused in _REFUSALS:
            if isinstance(error, kind):
                self.route, self.reason = "refused", refused
                return
        if reason == "large_down":
            self.route = "refused"

    def leave(self, reason: EndedReason = "client_left") -> None:
        """Note that it was cancelled: its client has left, or there is no time to go on."""
        self.route, self.reason = "cancelled", reason

    def end(self) -> None:
        """Tell that it has ended."""
        if not self._is_seen:
            self.see()
        first_at_s = self.out.first_byte_at_s
        self.observer.ended(
            Ended(
                request_id=self.request_id,
                route_name=self.route_name,
                route=self.route,
                reason=self.reason,
                status=_LEFT if self.out.status is None else self.out.status,
                elapsed_s=self.clock() - self.began_at_s,
                waited_s=self.waited_s,
                first_byte_s=None if first_at_s is None else first_at_s - self.began_at_s,
                upstream_s=self.upstream_s,
                answer=self.answer,
                error_kind=None if self.error is None else type(self.error).__name__,
                bytes_in=self.bytes_in,
                bytes_out=self.out.bytes_out,
                is_stream=self.is_stream,
                key_name=self.key_name,
            )
        )


def visit_of(scope: Scope, send: Send, *, observer: Observer, clock: Callable[[], float]) -> Visit:
    """Begin a visit."""
    request_id = uuid.uuid4().hex
    headers = scope["headers"]
    parent = next((value for name, value in headers if name == b"traceparent"), None)
    return Visit(
        request_id=request_id,
        out=Outgoing(send, request_id, clock),
        observer=observer,
        clock=clock,
        began_at_s=clock(),
        traceparent=None if parent is None else parent.decode("latin-1"),
    )
