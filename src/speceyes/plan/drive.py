"""A scenario is simulated here: queries come, policies take them through, and all is counted.

It refuses to know where fates come from. The policies are the real ones; `is_real` runs the real
funnel under them too, which is slower and gives the same times.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, islice
from typing import Final, TypeAlias

import anyio
import numpy as np

from speceyes.agent import Narrator
from speceyes.config import PolicyName, ScreenBy
from speceyes.errors import ConfigError
from speceyes.events import Answered, Event, Failed
from speceyes.funnel import Funnel
from speceyes.plan.clock import run_virtually
from speceyes.plan.fates import Draw, Fate, InOrder
from speceyes.plan.rehearsal import Stations, Troupe, unheard
from speceyes.plan.stage import make_parts, make_rules, query_named
from speceyes.plan.station import Servers, Station
from speceyes.plan.tally import Tally
from speceyes.policies.adaptive import DEFAULT_WASTE_BUDGET
from speceyes.policies.named import make_policy

_MOST_UNDER_WAY: Final = 20_000  # beyond it queries come faster than they are served
_WARM_UP_SHARE: Final = 0.05
_MOST_WARM_UP: Final = 1000


@dataclass(frozen=True, slots=True)
class Closed:
    """So many callers, each asking again as soon as it is answered."""

    callers: int

    def __post_init__(self) -> None:
        if self.callers < 1:
            raise ConfigError("concurrency", f"{self.callers} is below 1")


@dataclass(frozen=True, slots=True)
class Poisson:
    """Queries that come by themselves, so many a second in the mean."""

    rate: float

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < float("inf"):
            raise ConfigError("rate", f"{self.rate} is not a number above 0")


Arrivals: TypeAlias = Closed | Poisson


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated. The same seed gives the same queries to every policy.

    `depth`: how often the small model may look closer; the draw's fates say how often it does.
    """

    draw: Draw | InOrder
    policy: PolicyName
    arrivals: Arrivals
    small: Servers = field(default_factory=Servers)
    large: Servers = field(default_factory=Servers)
    queries: int = 10_000
    seed: int = 0
    screen_by: ScreenBy = "large"
    waste_budget: float = DEFAULT_WASTE_BUDGET
    warm_up: int | None = None
    is_real: bool = False
    depth: int = 0

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ConfigError("queries", f"{self.queries} is below 1")
        if self.screen_by == "agent":
            raise ConfigError("screen_by", "a plan knows large, small and none; take one of those")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one kind of server did: seconds it was busy, had been rented, and had wasted.

    Seconds are of all replicas together, for 1,000 queries. `company`: how many calls a busy one
    had at once.
    """

    busy_s: float
    rented_s: float
    wasted_s: float
    company: float | None
    seats: int

    @property
    def utilisation(self) -> float:
        """Share of its time in which a replica was busy."""
        return self.busy_s / self.rented_s if self.rented_s else 0.0

    @property
    def filled(self) -> float:
        """Share of all seats that were taken, on average over time."""
        return self.utilisation * (self.company or 0.0) / self.seats


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What to expect of a scenario. `cost` is for 1,000 queries, in the currency of the prices.

    `is_overloaded`: queries came faster than they were served, so the latencies mean nothing.
    """

    scenario: Scenario
    queries: int
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    throughput: float
    speculative: float
    accuracy: float | None
    small: Use
    large: Use
    cost: float
    is_overloaded: bool

    @property
    def gpu_s(self) -> float:
        """Seconds of servers that 1,000 queries kept busy."""
        return self.small.busy_s + self.large.busy_s


def simulate(scenario: Scenario) -> Forecast:
    """Run a scenario to its end on a virtual clock."""
    return run_virtually(partial(_simulate, scenario))


def trace_of(scenario: Scenario) -> list[tuple[float, str]]:
    """Give each query's latency and route, in the order of their ends: to compare simulations."""
    told: list[tuple[float, str]] = []
    run_virtually(partial(_simulate, scenario, told=told))
    return told


@dataclass(slots=True)
class _Show:
    """A simulation under way."""

    scenario: Scenario
    stations: Stations
    perform: Callable[[Fate, int], Awaitable[Answered]]
    told: list[tuple[float, str]] | None
    tally: Tally = field(default_factory=Tally)
    ended: int = 0
    under_way: int = 0
    counted_from_s: float = 0.0
    is_overloaded: bool = False

    @property
    def warm_up(self) -> int:
        own = self.scenario.warm_up
        return (
            min(_MOST_WARM_UP, int(_WARM_UP_SHARE * self.scenario.queries)) if own is None else own
        )

    async def one(self, fate: Fate, number: int) -> None:
        self.under_way += 1
        began_s = anyio.current_time()
        if fate.between_s:
            await anyio.sleep(fate.between_s)
        answered = await self.perform(fate, number)
        now_s = anyio.current_time()
        self.under_way -= 1
        self.ended += 1
        is_small = answered.route == "speculative"
        if self.told is not None:
            self.told.append((now_s - began_s, answered.route))
        if self.ended <= self.warm_up:
            self.counted_from_s = now_s
            return
        right = fate.small_is_right if is_small else fate.agent_is_right
        self.tally.add(now_s - began_s, is_speculative=is_small, is_right=right)


async def _simulate(scenario: Scenario, *, told: list[tuple[float, str]] | None = None) -> Forecast:
    screens = {"large": True, "small": False}.get(scenario.screen_by)
    stations = Stations(Station(scenario.small), Station(scenario.large), screens)
    stations.small.stand_beside(stations.large)
    fates: dict[str, Fate] = {}
    parts, rules = make_parts(stations, fates), make_rules(depth=scenario.depth)
    policy = make_policy(scenario.policy, parts.agent.engine, waste_budget=scenario.waste_budget)
    troupe = Troupe(parts, rules, stations)
    funnel = Funnel(parts, rules, policy)

    async def rehearse(fate: Fate, _: int) -> Answered:
        return await policy(troupe.passage(fate, Narrator("", anyio.current_time(), unheard)))

    async def play(fate: Fate, number: int) -> Answered:
        query = query_named(str(number))
        fates[query.query_id] = fate
        events: list[Event] = []
        await funnel.run(query, events.append)
        del fates[query.query_id]
        end = events[-1]
        if isinstance(end, Failed):
            raise end.error
        if not isinstance(end, Answered):
            raise TypeError(f"a story that ends in {end}")
        return end

    show = _Show(scenario, stations, play if scenario.is_real else rehearse, told)
    async with anyio.create_task_group() as tasks:
        match scenario.arrivals:
            case Closed(callers=callers):
                source = _fates(scenario)
                for _ in range(min(callers, scenario.queries)):
                    tasks.start_soon(_ask_on, show, source)
            case Poisson(rate=rate):
                await _arrive(show, rate, tasks.start_soon)
    return _forecast(show)


def _fates(scenario: Scenario) -> Iterator[tuple[int, Fate]]:
    draw, rng = scenario.draw, np.random.default_rng([scenario.seed, 0])
    fates = cycle(draw.fates) if isinstance(draw, InOrder) else (draw(rng) for _ in count())
    drawn = enumerate(islice(fates, scenario.queries))
    if scenario.policy == "agent_only":
        return ((number, fate.alone) for number, fate in drawn)
    return drawn


async def _ask_on(show: _Show, source: Iterator[tuple[int, Fate]]) -> None:
    for number, fate in source:
        await show.one(fate, number)


async def _arrive(show: _Show, rate: float, start: Callable[..., object]) -> None:
    rng = np.random.default_rng([show.scenario.seed, 1])
    for number, fate in _fates(show.scenario):
        await anyio.sleep(float(rng.exponential(1.0 / rate)))
        if show.under_way >= _MOST_UNDER_WAY:
            show.is_overloaded = True
            return
        start(show.one, fate, number)


def _forecast(show: _Show) -> Forecast:
    tally, passed_s = show.tally, anyio.current_time()
    latencies, scenario = tally.latencies, show.scenario
    counted_s = passed_s - show.counted_from_s
    uses = {
        name: _use(station, passed_s, show.ended)
        for name, station in (("small", show.stations.small), ("large", show.stations.large))
    }
    is_overloaded = show.is_overloaded or (
        isinstance(scenario.arrivals, Poisson)
        and show.ended / max(passed_s, 1e-12) < 0.95 * scenario.arrivals.rate
        and show.ended >= _MOST_WARM_UP
    )
    return Forecast(
        scenario=scenario,
        queries=latencies.count,
        mean_s=latencies.mean_s,
        p50_s=latencies.quantile_s(0.5),
        p95_s=latencies.quantile_s(0.95),
        p99_s=latencies.quantile_s(0.99),
        throughput=latencies.count / counted_s if counted_s > 0.0 else 0.0,
        speculative=tally.speculative / max(1, latencies.count),
        accuracy=tally.right / tally.known if tally.known else None,
        small=uses["small"],
        large=uses["large"],
        cost=sum(
            uses[name].rented_s * servers.price / 3600.0
            for name, servers in (("small", scenario.small), ("large", scenario.large))
        ),
        is_overloaded=is_overloaded,
    )


def _use(station: Station, passed_s: float, queries: int) -> Use:
    each = 1000.0 / max(1, queries)
    return Use(
        busy_s=station.busy_s * each,
        rented_s=station.servers.replicas * passed_s * each,
        wasted_s=station.wasted_s * each,
        company=station.company,
        seats=station.servers.seats,
    )
