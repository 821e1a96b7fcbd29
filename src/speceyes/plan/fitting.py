"""How calls slow each other is read here off a run under load: slowdown and crowding are fitted.

It refuses to know files. A run of one query after the other tells how long calls take alone, and
nothing of company; a second run of the same items, so many at once, tells the rest, and a third,
with more at once, how it bends. What is foretold is then other concurrencies, policies and items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from speceyes.bench.comparison import Comparison
from speceyes.bench.records import Record
from speceyes.config import PolicyName
from speceyes.errors import ConfigError
from speceyes.plan.drive import Closed, Scenario, simulate
from speceyes.plan.fates import Fate, InOrder
from speceyes.plan.station import Servers

_HALVINGS: Final = 10  # of 0..1: to a thousandth
_LEAST_BEND: Final = 0.2
_MOST_CROWDING: Final = 8.0  # as much as eight calls of one that shares nothing
_BEND_HALVINGS: Final = 5  # of that to 1: to a fortieth
_QUERIES: Final = 1500  # simulated for each try


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one policy was measured to take: seconds a query in the mean, so many at once.

    `block`: queries that came one upon the other before the engines were let run empty. `takes`:
    these queries in the order they came, once for each run that tells how long they take alone;
    without, they are whatever a scenario draws. `lasted_s`: from the first one's start to the last
    one's end.
    """

    policy: PolicyName
    callers: int
    block: int
    mean_s: float
    takes: tuple[InOrder, ...] = ()
    lasted_s: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What one policy was seen to take in one company, and what the plan gives of the same.

    Seconds of a query, in the mean, and queries a second.
    """

    policy: PolicyName
    callers: int
    queries: int
    seen_s: float
    found_s: float
    seen_per_s: float
    found_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Servers under which the plan gives what was seen, and how near it then comes."""

    small: Servers
    large: Servers
    found: tuple[Agreement, ...]


def seen_in(
    comparison: Comparison, policy: PolicyName, alone: Sequence[Sequence[Fate]]
) -> tuple[Seen, ...]:
    """Read off a run what the agent alone and SpecEyes, under its policy, took of each block.

    `alone`: the fates of the same items, from each run without company. Items that are missing in
    one of these are left out, and so are queries that failed.
    """
    policies: dict[str, PolicyName] = {"baseline": "agent_only", "speceyes": policy}
    known = [{fate.item_id: fate for fate in fates} for fates in alone]
    return tuple(
        _seen(list(block), known, policy=policies[entrant.method], callers=entrant.concurrency)
        for entrant in comparison.entrants
        if entrant.method in policies
        for _, block in groupby(
            sorted((r for r in entrant.records if _tells(r, known)), key=_came), _block
        )
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
        told = zip(measured, _foretold(tried, measured, queries=queries), strict=True)
        logs = [one.block * math.log(mean_s / one.mean_s) for one, (mean_s, _) in told]
        return math.fsum(logs) / sum(one.block for one in measured)

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
        found=agreements(scenario, seen, queries=queries),
    )


def agreements(
    scenario: Scenario, seen: Sequence[Seen], *, queries: int = _QUERIES
) -> tuple[Agreement, ...]:
    """Set what a scenario's servers give beside what was seen, by policy and company."""
    by: dict[tuple[PolicyName, int], list[tuple[Seen, tuple[float, float]]]] = {}
    for one, told in zip(seen, _foretold(scenario, seen, queries=queries), strict=True):
        by.setdefault((one.policy, one.callers), []).append((one, told))
    return tuple(_agreement(policy, callers, blocks) for (policy, callers), blocks in by.items())


def in_blocks(scenario: Scenario, seen: Seen, *, queries: int = _QUERIES) -> tuple[float, float]:
    """Foretell what is measured in blocks: mean seconds a query, and queries a second.

    The engines are empty at each block's start and run empty at its end, as when it was measured.
    Where it is known which queries came, it is these, and `queries` is of no account.
    """
    made = replace(
        scenario, policy=seen.policy, arrivals=Closed(seen.callers), queries=seen.block, warm_up=0
    )
    blocks = (
        [replace(made, draw=take) for take in seen.takes]
        if seen.takes
        else [replace(made, seed=made.seed + n) for n in range(-(-queries // seen.block))]
    )
    forecasts = [simulate(block) for block in blocks]
    mean_s = math.fsum(f.mean_s or 0.0 for f in forecasts) / len(blocks)
    all_s = math.fsum(seen.block / f.throughput for f in forecasts)
    return mean_s, len(blocks) * seen.block / all_s


def _foretold(
    scenario: Scenario, seen: Sequence[Seen], *, queries: int
) -> list[tuple[float, float]]:
    # What was measured several times is simulated once.
    kinds = [replace(one, mean_s=0.0, lasted_s=0.0) for one in seen]
    told = {kind: in_blocks(scenario, kind, queries=queries) for kind in dict.fromkeys(kinds)}
    return [told[kind] for kind in kinds]


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


def _agreement(
    policy: PolicyName, callers: int, blocks: Sequence[tuple[Seen, tuple[float, float]]]
) -> Agreement:
    queries = sum(one.block for one, _ in blocks)
    return Agreement(
        policy=policy,
        callers=callers,
        queries=queries,
        seen_s=math.fsum(one.block * one.mean_s for one, _ in blocks) / queries,
        found_s=math.fsum(one.block * mean_s for one, (mean_s, _) in blocks) / queries,
        seen_per_s=queries / math.fsum(one.lasted_s for one, _ in blocks),
        found_per_s=queries / math.fsum(one.block / per_s for one, (_, per_s) in blocks),
    )


def _seen(
    block: Sequence[Record],
    known: Sequence[Mapping[str, Fate]],
    *,
    policy: PolicyName,
    callers: int,
) -> Seen:
    return Seen(
        policy=policy,
        callers=callers,
        block=len(block),
        mean_s=math.fsum(record.elapsed_s for record in block) / len(block),
        takes=tuple(InOrder(tuple(of[r.item_id] for r in block)) for of in known),
        lasted_s=max(r.ended_s for r in block) - min(_began_s(r) for r in block),
    )


def _tells(record: Record, known: Sequence[Mapping[str, Fate]]) -> bool:
    return record.text is not None and all(record.item_id in of for of in known)


def _block(record: Record) -> tuple[int, int]:
    return record.part, record.block


def _came(record: Record) -> tuple[int, int, float]:
    return (*_block(record), _began_s(record))


def _began_s(record: Record) -> float:
    return record.ended_s - record.elapsed_s
