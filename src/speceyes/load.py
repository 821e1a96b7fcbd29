"""How busy an engine is: the requests it serves now, and those that wait for it.

It refuses to know how that is found out, and what is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from speceyes.types import Engine


@dataclass(frozen=True, slots=True)
class Load:
    """Count the requests of all callers: served now, and waiting to be."""

    running: int
    waiting: int

    @property
    def queue_per_seat(self) -> float:
        """How long the queue is, in services: who comes last waits for so many to end."""
        return self.waiting / max(1, self.running)


@runtime_checkable
class Busy(Protocol):
    """An engine in this process, which knows at once how busy it is."""

    @property
    def present_load(self) -> Load:
        """How busy it is now."""
        ...


class LoadProbe(Protocol):
    """Ask how busy an engine is that stands elsewhere."""

    async def read(self) -> Load | None:
        """Find out; None if it does not tell. Raises nothing."""
        ...


@runtime_checkable
class Probed(Protocol):
    """An engine that stands elsewhere, where its load can be asked for."""

    def probe(self) -> LoadProbe:
        """Give who asks."""
        ...


@runtime_checkable
class StandIn(Protocol):
    """An engine that only stands before another, such as one behind a circuit breaker."""

    @property
    def stands_before(self) -> Engine:
        """The engine that is asked in the end, or the next one on the way to it."""
        ...


def behind(engine: Engine) -> Engine:
    """Give the engine that does the work: how busy that one is, is what counts."""
    while isinstance(engine, StandIn):
        engine = engine.stands_before
    return engine
