"""How many may come in at once: a place, or a bounded queue for one, or a no that says until when.

It refuses to know requests and what is done with a place. What it counts, it counts in one worker.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import anyio

from speceyes.errors import NoRoom, RateExceeded
from speceyes.gateway.guard.buckets import Bucket, full_bucket, take, whole_seconds
from speceyes.gateway.settings import Key, Limits

_FIRST_GUESS_S: Final = 1.0  # how long a place is held, before any was
_NEW_SHARE: Final = 0.1  # of the last one, in the mean of how long places are held


@dataclass(slots=True, eq=False)
class _Caller:
    """What one key's owner has taken: places, also those waited for, and tokens."""

    held: int = 0
    bucket: Bucket | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody in the queue; `has_place` once one was handed over."""

    turn: anyio.Event
    has_place: bool = False


class Admission:
    """Hand out places, in order of arrival.

    Invariants: at most `max_in_flight` hold a place and at most `max_queue` wait for one; a place
    is given back however its holder ends; who is refused at once has taken nothing, and no token.
    `clock` gives seconds, from any start, going forward only.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._in_flight = 0
        self._queue: deque[_Waiter] = deque()
        self._callers: dict[str, _Caller] = {}
        self._mean_s = _FIRST_GUESS_S

    @property
    def in_flight(self) -> int:
        """How many hold a place."""
        return self._in_flight

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return len(self._queue)

    def admit(self, key: Key | None) -> Place:
        """Ask for a place, held within `async with`, which gives the seconds waited for it.

        Raises, on entering: RateExceeded for the key's own limits; NoRoom if the queue is full, or
        no place came within `queue_timeout_s`. Both say when to ask again.
        """
        return Place(self, key)

    async def _take(self, key: Key | None) -> _Caller:
        caller = self._caller(key)
        if key is not None and key.max_in_flight is not None and caller.held >= key.max_in_flight:
            raise RateExceeded(
                f"the key {key.name!r} has {caller.held} requests under way, its limit; wait for "
                "one to end",
                retry_after_s=self._mean_s / key.max_in_flight,
            )
        is_full = self._in_flight >= self._limits.max_in_flight
        if is_full and len(self._queue) >= self._limits.max_queue:
            raise self._no_room(f"{len(self._queue)} requests wait already")
        self._take_token(key, caller)
        caller.held += 1
        try:
            if is_full:
                await self._wait()
            else:
                self._in_flight += 1
        except BaseException:
            caller.held -= 1
            raise
        return caller

    def _give_back(self, caller: _Caller, held_s: float) -> None:
        caller.held -= 1
        self._mean_s += _NEW_SHARE * (held_s - self._mean_s)
        self._pass_on()

    def _pass_on(self) -> None:
        if self._queue:
            waiter = self._queue.popleft()
            waiter.has_place = True
            waiter.turn.set()
        else:
            self._in_flight -= 1

    async def _wait(self) -> None:
        waiter = _Waiter(anyio.Event())
        self._queue.append(waiter)
        limit_s = self._limits.queue_timeout_s
        try:
            with anyio.move_on_after(limit_s):
                await waiter.turn.wait()
        except BaseException:  # whoever waited has left
            if waiter.has_place:
                self._pass_on()
            else:
                self._queue.remove(waiter)
            raise
        if not waiter.has_place:
            self._queue.remove(waiter)
            raise self._no_room(f"no place came free within {limit_s:g} s")

    def _caller(self, key: Key | None) -> _Caller:
        name = "" if key is None else key.name
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = _Caller()
            if key is not None and key.requests_per_minute is not None:
                caller.bucket = full_bucket(key.requests_per_minute, now_s=self._clock())
        return caller

    def _take_token(self, key: Key | None, caller: _Caller) -> None:
        if key is None or caller.bucket is None:
            return
        caller.bucket, wait_s = take(caller.bucket, now_s=self._clock())
        if wait_s:
            raise RateExceeded(
                f"the key {key.name!r} has {key.requests_per_minute} requests a minute; ask again "
                f"in {whole_seconds(wait_s)} s",
                retry_after_s=wait_s,
            )

    def _no_room(self, why: str) -> NoRoom:
        wait_s = self._mean_s * (len(self._queue) + 1) / self._limits.max_in_flight
        return NoRoom(
            f"{self._in_flight} requests are under way and {why}; ask again in "
            f"{whole_seconds(wait_s)} s",
            retry_after_s=wait_s,
        )


class Place:
    """One place, held from entering to leaving."""

    __slots__ = ("_admission", "_caller", "_key", "_since_s")

    def __init__(self, admission: Admission, key: Key | None) -> None:
        self._admission = admission
        self._key = key
        self._caller: _Caller | None = None
        self._since_s = 0.0

    async def __aenter__(self) -> float:
        asked_s = self._admission._clock()
        self._caller = await self._admission._take(self._key)
        self._since_s = self._admission._clock()
        return self._since_s - asked_s

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        caller, self._caller = self._caller, None
        if caller is not None:
            held_s = self._admission._clock() - self._since_s
            self._admission._give_back(caller, held_s)
