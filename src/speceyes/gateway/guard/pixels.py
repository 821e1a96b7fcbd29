"""How many pixels may be worked on at once: a small file can hold a hundred million of them.

It refuses to know pictures and what is done with them. What it counts, it counts in one worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from speceyes.errors import NoRoom

_RETRY_AFTER_S: Final = 2.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for room for so many pixels."""

    pixels: int
    turn: anyio.Event = field(default_factory=anyio.Event)
    has_room: bool = False


class PixelRoom:
    """Hand out room for pixels, in order of arrival.

    Invariants: no more than `most` are held, unless by one who holds them alone; what was handed
    out comes back however its holder ends.
    """

    def __init__(self, most: int, *, timeout_s: float) -> None:
        self._most = most
        self._timeout_s = timeout_s
        self._held = 0
        self._queue: deque[_Waiter] = deque()

    @property
    def held(self) -> int:
        """How many are worked on."""
        return self._held

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Hold room for so many. Raises: NoRoom if there was none in time."""
        await self._take(pixels)
        try:
            yield
        finally:
            self._held -= pixels
            self._hand_out()

    async def _take(self, pixels: int) -> None:
        if not self._queue and self._fits(pixels):
            self._held += pixels
            return
        waiter = _Waiter(pixels)
        self._queue.append(waiter)
        try:
            with anyio.move_on_after(self._timeout_s):
                await waiter.turn.wait()
        except BaseException:  # whoever waited has left
            self._leave(waiter)
            raise
        if not waiter.has_room:
            self._leave(waiter)
            raise NoRoom(
                f"pictures of {self._held} pixels are worked on already, and these have {pixels}; "
                "send smaller ones, or ask again",
                retry_after_s=_RETRY_AFTER_S,
            )

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.has_room:
            self._held -= waiter.pixels
        else:
            self._queue.remove(waiter)
        self._hand_out()

    def _fits(self, pixels: int) -> bool:
        return self._held == 0 or self._held + pixels <= self._most

    def _hand_out(self) -> None:
        while self._queue and self._fits(self._queue[0].pixels):
            waiter = self._queue.popleft()
            waiter.has_room = True
            self._held += waiter.pixels
            waiter.turn.set()
