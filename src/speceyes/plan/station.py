"""A station serves calls as an inference server does: many at once, each the slower for the others.

It refuses to know what the calls are. Calls that find no seat wait in order; a call that is
cancelled gives up its seat at once, and what it had of the server counts as wasted. Two stations
on one machine may stand beside each other: then the calls of one are slower for the other's, too.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from speceyes.errors import ConfigError

_ALMOST: Final = 1e-9  # of a call's work: rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What stands at a station: `replicas`, of each `seats` at once, `slowdown` for every one more.

    With b calls in a replica, and o served at the station beside it, each runs at
    1 / (1 + slowdown * (b - 1)**bend + crowding * o**bend) of its lone speed: slowdown 0 is perfect
    batching, 1 is none; crowding 0 is a machine of its own, as much as the slowdown one processor
    for both stations, and more than that one on which only a station's own calls share batches.
    With bend 1 each call more costs as much as the one before it; below 1 the first ones cost most.
    `price` is what an hour of one replica costs.
    Raises: ConfigError naming the field.
    """

    replicas: int = 1
    seats: int = 16
    slowdown: float = 0.0
    crowding: float = 0.0
    bend: float = 1.0
    price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("replicas", "seats"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"{getattr(self, name)} is below 1")
        if not 0.0 <= self.slowdown <= 1.0:
            raise ConfigError("slowdown", f"{self.slowdown} is not in 0..1")
        if not 0.0 <= self.crowding < math.inf:
            raise ConfigError("crowding", f"{self.crowding} is not a number from 0 on")
        if not 0.0 < self.bend <= 1.0:
            raise ConfigError("bend", f"{self.bend} is not above 0 and at most 1")
        if self.price < 0.0:
            raise ConfigError("price", f"{self.price} is below 0")

    @property
    def capacity(self) -> float:
        """Seconds of lone work that all do in a second, with every seat taken, none beside them."""
        return self.replicas * self.seats * self.speed(self.seats)

    def speed(self, calls: int, beside: int = 0) -> float:
        """Seconds of lone work a second, of each of `calls`, while `beside` are served beside."""
        slower = 1.0 + self.slowdown * math.pow(calls - 1, self.bend)
        if beside:
            slower += self.crowding * math.pow(beside, self.bend)
        return 1.0 / slower


@dataclass(slots=True, eq=False)
class _Call:
    """One call: the work it takes, and, while it is served, where its replica's meter ends it."""

    number: int  # as they came: of those that end together the first is first
    work_s: float
    done: asyncio.Future[None]
    replica: _Replica | None = None
    ends_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Replica:
    """One server. `meter` counts the seconds of work that each of its calls has been given."""

    count: int = 0
    meter: float = 0.0
    since_s: float = 0.0
    busy_s: float = 0.0
    served_s: float = 0.0  # summed over calls: seats that were taken
    heap: list[tuple[float, int, _Call]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Station:
    """Serve calls on the running event loop's clock; first come, first served."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.calls = 0
        self.wasted_s = 0.0  # of work, given to calls that were cancelled
        self.worked_s = 0.0  # of work, given to calls that ended
        self._loop = asyncio.get_running_loop()
        self._replicas = [_Replica() for _ in range(servers.replicas)]
        self._waiting: deque[_Call] = deque()
        self._beside: Station | None = None

    def stand_beside(self, other: Station) -> None:
        """Let the calls of either station crowd those of the other from now on."""
        self._beside, other._beside = other, self

    @property
    def running(self) -> int:
        """How many calls are served now."""
        return sum(replica.count for replica in self._replicas)

    @property
    def waiting(self) -> int:
        """How many calls wait for a seat."""
        return sum(not call.done.done() for call in self._waiting)

    @property
    def busy_s(self) -> float:
        """Seconds, summed over replicas, in which one had at least one call."""
        now_s = self._loop.time()
        return sum(r.busy_s + (now_s - r.since_s if r.count else 0.0) for r in self._replicas)

    @property
    def company(self) -> float | None:
        """How many calls a busy replica had, on average over time; None if none was ever busy."""
        for replica in self._replicas:
            self._read(replica)
        busy_s = self.busy_s
        return sum(r.served_s for r in self._replicas) / busy_s if busy_s else None

    async def serve(self, work_s: float, *, lost: Callable[[float], object] | None = None) -> None:
        """Take a seat when there is one, and keep it until so much work is done.

        `lost` is told how many of these seconds a call had been given when it was cancelled.
        """
        self.calls += 1
        call = _Call(self.calls, work_s, self._loop.create_future())
        replica = min(self._replicas, key=_count)
        if replica.count < self.servers.seats:
            self._seat(call, replica)
        else:
            self._waiting.append(call)
        try:
            await call.done
        except asyncio.CancelledError:
            given_s = self._give_up(call)
            if lost is not None:
                lost(given_s)
            raise

    def _rate(self, count: int) -> float:
        return self.servers.speed(count, self._beside.running if self._beside else 0)

    def _read(self, replica: _Replica) -> None:
        # Bring a replica's meter up to now.
        now_s = self._loop.time()
        if replica.count:
            passed_s = now_s - replica.since_s
            replica.meter += passed_s * self._rate(replica.count)
            replica.busy_s += passed_s
            replica.served_s += passed_s * replica.count
        replica.since_s = now_s

    def _seat(self, call: _Call, replica: _Replica) -> None:
        with self._changing(replica):
            if not replica.count:
                replica.meter = 0.0  # nobody's; a meter that only grows loses digits
                replica.heap.clear()
            replica.count += 1
            call.replica, call.ends_at = replica, replica.meter + call.work_s
            heappush(replica.heap, (call.ends_at, call.number, call))

    @contextmanager
    def _changing(self, replica: _Replica) -> Iterator[None]:
        # Meters are brought up to now before the company of their calls changes, timers set after.
        beside = self._beside
        crowded = beside if beside is not None and beside.servers.crowding else None
        self._read(replica)
        if crowded is not None:
            for other in crowded._replicas:
                crowded._read(other)
        yield
        self._set_timer(replica)
        if crowded is not None:
            for other in crowded._replicas:
                crowded._set_timer(other)

    def _set_timer(self, replica: _Replica) -> None:
        heap = replica.heap
        while heap and heap[0][2].done.done():
            heappop(heap)
        if replica.timer is not None:
            replica.timer.cancel()
            replica.timer = None
        if heap:
            left_s = max(0.0, heap[0][0] - replica.meter) / self._rate(replica.count)
            replica.timer = self._loop.call_at(replica.since_s + left_s, self._ring, replica)

    def _ring(self, replica: _Replica) -> None:
        replica.timer = None
        with self._changing(replica):
            heap = replica.heap
            reached = replica.meter + _ALMOST * max(1.0, replica.meter)
            while heap and (heap[0][2].done.done() or heap[0][0] <= reached):
                call = heappop(heap)[2]
                if not call.done.done():
                    call.done.set_result(None)
                    self.worked_s += call.work_s
                    replica.count -= 1
        self._refill(replica)

    def _refill(self, replica: _Replica) -> None:
        while self._waiting and replica.count < self.servers.seats:
            call = self._waiting.popleft()
            if not call.done.done():
                self._seat(call, replica)

    def _give_up(self, call: _Call) -> float:
        # Gives the seconds of work that it had been given.
        replica = call.replica
        if replica is None:
            return 0.0  # it never had a seat
        if call.done.done() and not call.done.cancelled():
            return call.work_s  # it had ended just then
        with self._changing(replica):
            given_s = max(0.0, call.work_s - max(0.0, call.ends_at - replica.meter))
            self.wasted_s += given_s
            replica.count -= 1
        self._refill(replica)
        return given_s


def _count(replica: _Replica) -> int:
    return replica.count
