"""How calls slow each other is read here off a run under load: slowdown and crowding are fitted.

It refuses to know files. A run of one query after the other tells how long calls take alone, and
nothing of company; a second run of the same items, so many at once, tells the rest, and a third,
with more at once, how it bends. What is foretold is then other concurrencies, policies and items.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from speceyes.bench.comparison import Comparison
from speceyes.bench.records import Record
from speceyes.config import PolicyName
from speceyes.errors import ConfigError
from speceyes.plan.drive import Closed, Scenario, simulate
from speceyes.plan.station import Servers

_HALVINGS: Final = 10  # of 0..1: to a thousandth
_LEAST_BEND: Final = 0.2
_MOST_CROWDING: Final = 8.0  # as much as eight calls of one that shares nothing
_BEND_HALVINGS: Final = 5  # of that to 1: to a fortieth
_QUERIES: Final = 1500  # simulated for each try


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one policy was measured to take: seconds a query in the mean, so many at once.

    `block`: queries that came one upon the other before the engines were let run empty.
    """

    policy: PolicyName
    callers: int
    block: int
    mean_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Servers under which the plan gives what was seen, and what it then gives of each."""

    small: Servers
    large: Servers
    found: tuple[tuple[Seen, float], ...]  # seconds a query, in the mean


def seen_in(comparison: Comparison, policy: PolicyName) -> tuple[Seen, ...]:
    """Read off a run what the agent alone and SpecEyes, under its policy, took in whole blocks."""
    policies: dict[str, PolicyName] = {"baseline": "agent_only", "speceyes": policy}
    return tuple(
        _seen(entrant.records, policies[entrant.method], entrant.concurrency)
        for entrant in comparison.entrants
        if entrant.method in policies
    )


def fit_servers(scenario: Scenario, seen: Sequence[Seen], *, queries: int = _QUERIES) -> Fit:
    """Find the servers that agree with what was seen.

    The large ones' slowdown makes the agent alone as slow as it was seen to be; where it was seen
    with more and with fewer companions, the bend makes it as slow with the most as with the fewest.
    What the other policies took beyond that is the crowding, of each station by the other, since
    calls of the small model overlap each other too rarely to tell: their slowdown and bend are
    taken to be the large ones'. Slowdown and crowding are each the one number that makes the
    geometric mean of foretold over seen 1, or the end of what they can be that comes nearest.
    Seats, replicas and prices are the scenario's; so is the bend with the agent seen in one company
    only. `queries` are simulated for each number tried.
    Raises: ConfigError where the agent alone, or any other policy, was not seen in company.
    """
    alone = [one for one in seen if one.policy == "agent_only" and one.callers > 1]
    others = [one for one in seen if one.policy != "agent_only" and one.callers > 1]
    if not alone or not others:
        raise ConfigError("fit", "needs baseline and speceyes with several queries at once")

    def log_off(tried: Scenario, measured: Sequence[Seen]) -> float:
        logs = [math.log(in_blocks(tried, m, queries=queries)[0] / m.mean_s) for m in measured]
        return math.fsum(logs) / len(logs)

    def slowed(tried: Scenario) -> Scenario:
        return _solved(tried, "slowdown", lambda made: log_off(made, alone))

    companies = sorted(one.callers for one in alone)
    if companies[0] < companies[-1]:
        fewest = [one for one in alone if one.callers == companies[0]]
        most = [one for one in alone if one.callers == companies[-1]]

        def too_bent(tried: Scenario) -> float:
            made = slowed(tried)
            return log_off(made, most) - log_off(made, fewest)

        scenario = _solved(scenario, "bend", too_bent, least=_LEAST_BEND, halvings=_BEND_HALVINGS)
    scenario = slowed(scenario)
    scenario = _solved(
        scenario, "crowding", lambda made: log_off(made, others), most=_MOST_CROWDING
    )
    return Fit(
        small=scenario.small,
        large=scenario.large,
        found=tuple((one, in_blocks(scenario, one, queries=queries)[0]) for one in seen),
    )


def in_blocks(scenario: Scenario, seen: Seen, *, queries: int = _QUERIES) -> tuple[float, float]:
    """Foretell what is measured in blocks: mean seconds a query, and queries a second.

    The engines are empty at each block's start and run empty at its end, as when it was measured.
    """
    made = replace(
        scenario, policy=seen.policy, arrivals=Closed(seen.callers), queries=seen.block, warm_up=0
    )
    repeats = -(-queries // seen.block)
    forecasts = [simulate(replace(made, seed=scenario.seed + n)) for n in range(repeats)]
    mean_s = math.fsum(f.mean_s or 0.0 for f in forecasts) / repeats
    all_s = math.fsum(seen.block / f.throughput for f in forecasts)
    return mean_s, repeats * seen.block / all_s


def _solved(
    scenario: Scenario,
    name: str,
    off: Callable[[Scenario], float],
    *,
    least: float = 0.0,
    most: float = 1.0,
    halvings: int = _HALVINGS,
) -> Scenario:
    # Give both stations the number at which a rising function is zero, or the nearer end.
    def made(at: float) -> Scenario:
        given: dict[str, Any] = {name: at}
        return replace(
            scenario,
            small=replace(scenario.small, **given),
            large=replace(scenario.large, **given),
        )

    low, high = least, most
    if off(made(low)) >= 0.0:
        return made(low)
    if off(made(high)) <= 0.0:
        return made(high)
    for _ in range(halvings):
        middle = (low + high) / 2.0
        low, high = (low, middle) if off(made(middle)) > 0.0 else (middle, high)
    return made((low + high) / 2.0)


def _seen(records: Sequence[Record], policy: PolicyName, callers: int) -> Seen:
    # A last block may be shorter: a run's end counts for more in it, so it is left out.
    sizes = Counter((record.part, record.block) for record in records)
    block = max(sizes.values())
    taken_s = [r.elapsed_s for r in records if sizes[r.part, r.block] == block]
    mean_s = math.fsum(taken_s) / len(taken_s)
    return Seen(policy=policy, callers=callers, block=block, mean_s=mean_s)
