"""A clock that costs no time: whoever waits is woken at once, and the clock says that time passed.

It refuses to know who waits for what. It is an event loop of asyncio, so that whatever runs on
anyio runs on it unchanged; worker threads have no place here.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar

import anyio

from speceyes.errors import SpecEyesError

_T = TypeVar("_T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock moves to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        super().__init__(_Skipping(self._pass))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._passed_s

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer; one that is set for never does not keep others from being missed."""
        if when == math.inf:
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def _pass(self, seconds: float | None) -> None:
        if seconds is None:
            raise SpecEyesError(
                "the simulation waits for something that never comes; a defect, report it"
            )
        self._passed_s += max(0.0, seconds)


class _Skipping(selectors.SelectSelector):
    """Wait for nothing: where the loop would sleep, its clock is moved on."""

    def __init__(self, skip: Callable[[float | None], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[Any]:
        self._skip(timeout)
        return []


def run_virtually(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run async work on a virtual clock to its end."""
    return anyio.run(work, backend="asyncio", backend_options={"loop_factory": VirtualLoop})
