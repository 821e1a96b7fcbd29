"""A request's place in a distributed trace is read and written here, as W3C's traceparent has it.

It refuses to know spans, exporters and sockets. Ids are digests of the request's own id, so whoever
knows that id knows them, and nothing has to be handed on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 0x01
_ID_SPACE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Say which trace a request is part of, and under which id its own span stands in it.

    `parent_id` None: the trace begins here. Ids are whole numbers of 128 and 64 bits, never 0.
    """

    trace_id: int
    span_id: int
    parent_id: int | None
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """What calls made for this request carry on."""
        flags = _SAMPLED if self.is_sampled else 0
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{flags:02x}"

    def child_id(self, index: int) -> int:
        """Give the id of one of the spans within the request's own."""
        return _digest(f"{self.trace_id:032x}/{self.span_id:016x}/{index}", 8)


def context_of(request_id: str, traceparent: str | None, *, share: float) -> TraceContext:
    """Place a request: in its caller's trace if that names one soundly, else in one of its own.

    The caller's word on whether to record is kept; of the others a `share` is recorded.

    >>> caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    >>> context_of("r-1", caller, share=0.0).traceparent[:36]
    '00-4bf92f3577b34da6a3ce929d0e0e4736-'
    """
    parent = read_traceparent(traceparent)
    if parent is not None:
        trace_id, parent_id, is_sampled = parent
        span_id = _digest(f"{trace_id:032x}/{parent_id:016x}/{request_id}", 8)
        return TraceContext(trace_id, span_id, parent_id, is_sampled)
    trace_id = _digest(f"trace/{request_id}", 16)
    is_sampled = trace_id % _ID_SPACE < share * _ID_SPACE
    return TraceContext(trace_id, _digest(f"span/{request_id}", 8), None, is_sampled)


def onward(request_id: str, headers: Mapping[str, str], *, share: float | None) -> dict[str, str]:
    """Give the headers that calls made for a request carry on; `share` None: nothing is traced.

    Without traces of our own the caller's place is passed on as it came, if it is sound.
    """
    parent = headers.get("traceparent")
    is_sound = read_traceparent(parent) is not None
    state = {"tracestate": headers["tracestate"]} if is_sound and "tracestate" in headers else {}
    if share is not None:
        return {"traceparent": context_of(request_id, parent, share=share).traceparent, **state}
    return {"traceparent": parent, **state} if parent is not None and is_sound else {}


def read_traceparent(header: str | None) -> tuple[int, int, bool] | None:
    """Read (trace id, parent's id, whether it is recorded); None if it is not sound.

    Source: W3C Trace Context, section 3.2: unknown versions are read as far as they are known.
    """
    found = _TRACEPARENT.fullmatch(header or "")
    if found is None:
        return None
    version, trace, parent, flags, rest = found.groups()
    trace_id, parent_id = int(trace, 16), int(parent, 16)
    if version == "ff" or (version == "00" and rest) or not trace_id or not parent_id:
        return None
    return trace_id, parent_id, bool(int(flags, 16) & _SAMPLED)


def _digest(text: str, size: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=size).digest()
    return int.from_bytes(digest, "big") or 1
