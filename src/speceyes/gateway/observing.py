"""What the gateway tells of every request it gets, from its arrival to its one end.

It refuses to know who listens: metrics, traces, a log and a page are folds of what is told here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from speceyes.events import Answer, Event, Reason

BypassReason: TypeAlias = Literal[
    "route",  # the route sends everything untouched
    "no_image",
    "last_turn",  # the last message is not the user's
    "no_question",  # pictures without a word
    "tools",  # the client's own, or their traces in the conversation
    "choices",  # n > 1
    "sampling",
    "stop",
    "response_format",
    "logprobs",
    "modalities",
    "reasoning",  # how long the model is to think
    "system_turn",  # a system message in the middle
    "content_part",  # a part that is neither text nor image
    "unknown_field",
]
RefusedReason: TypeAlias = Literal[
    "malformed",  # 400
    "unauthorized",  # 401, or 403 for a web page from elsewhere
    "unknown_route",  # 404
    "timeout",  # 408: the request itself came too slowly
    "too_large",  # 413
    "unsupported_image",  # 415
    "rate",  # 429: this key's limits
    "busy",  # 429: the queue is full, or waiting in it took too long
    "large_down",  # 503
    "draining",  # 503
]
EndedRoute: TypeAlias = Literal[
    "speculative", "agentic", "degraded", "bypass", "refused", "failed", "cancelled"
]
EndedReason: TypeAlias = (
    Reason | BypassReason | RefusedReason | Literal["client_left", "deadline", "upstream", "defect"]
)
EngineRole: TypeAlias = Literal["small", "large"]
BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

NO_ROUTE: Final = "none"  # the route's name where a request named none that there is

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request whose body has been read, or that was refused before.

    `route_name` is one from the settings, or NO_ROUTE. `question` is the last turn's text, for a
    log that was asked to hold it. `traceparent` is the client's W3C header, unchecked.
    """

    request_id: str
    route_name: str
    is_stream: bool = False
    bytes_in: int = 0
    key_name: str | None = None
    question: str | None = field(default=None, repr=False)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a request ended. Exactly one for each `Seen`.

    `status` is the one that was sent, or would have been (499: the client left before any was).
    `answer` is the funnel's. `error_kind` is the name of the error's class, from `errors`.
    `elapsed_s` counts from the arrival of the headers; `waited_s` is the part in the queue;
    `first_byte_s` is when the first content was sent; `upstream_s` is the part in which a bypassed
    request waited for its engine (what the funnel waits for is in its events).
    """

    request_id: str
    route_name: str
    route: EndedRoute
    reason: EndedReason
    status: int
    elapsed_s: float
    waited_s: float = 0.0
    first_byte_s: float | None = None
    upstream_s: float | None = None
    answer: Answer | None = None
    error_kind: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    is_stream: bool = False
    key_name: str | None = None


class Observer(Protocol):
    """Listen to all that the gateway does in one worker. No call may raise or wait."""

    @property
    def views(self) -> Mapping[str, AsgiApp]:
        """Give what is shown, by its path: `/`, `/metrics`, `/v1/stats`."""
        ...

    def open(self) -> AbstractAsyncContextManager[object]:
        """Begin and end with the worker: files, exporters, snapshots."""
        ...

    def began(self, seen: Seen) -> None:
        """Hear of a request, before it is let in."""
        ...

    def admitted(self, request_id: str) -> None:
        """Hear that it is let in: it waits in no queue any more."""
        ...

    def event(self, request_id: str, event: Event) -> None:
        """Hear what happens in the funnel."""
        ...

    def ended(self, ended: Ended) -> None:
        """Hear of its end."""
        ...

    def breaker(self, route_name: str, role: EngineRole, state: BreakerState) -> None:
        """Hear that a route's engine went down, is tried again, or is back."""
        ...
