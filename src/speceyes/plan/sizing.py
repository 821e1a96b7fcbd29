"""Where the knee is, and how many servers it takes for a rate at a latency: found by simulating.

It refuses to know how a scenario is simulated, and prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from speceyes.plan.drive import Closed, Forecast, Poisson, Scenario, simulate

_MOST_TRIES: Final = 60
_AMPLE: Final = 8  # times what the work alone asks for: if that is too slow, nothing will do
_SAMPLE: Final = 2000
_FULL: Final = 0.95  # of all seats: beyond it the queue grows, if slowly


@dataclass(frozen=True, slots=True)
class Sizing:
    """The fewest servers that were found to do, and what they give; `forecast` where they do.

    `best`: what even ample servers give, where no number does.
    """

    rate: float
    p95_s: float
    forecast: Forecast | None
    best: Forecast


def knee(forecasts: Sequence[Forecast]) -> Forecast | None:
    """Give the load at which throughput over latency is greatest; beyond it, more is mostly wait.

    Source: Kleinrock 1979, "Power and deterministic rules of thumb for probabilistic problems in
    computer communications" (power). None if there is nothing to choose from.
    """
    known = [f for f in forecasts if f.mean_s and not f.is_overloaded]
    return max(known, key=lambda f: f.throughput / (f.mean_s or math.inf), default=None)


def size(
    scenario: Scenario,
    *,
    rate: float,
    p95_s: float,
    run: Callable[[Scenario], Forecast] = simulate,
) -> Sizing:
    """Find the fewest replicas of each kind that serve a rate with this 95th percentile.

    From what the work alone asks for, one more where it is fullest, until it does; then each is
    taken away again that can be.
    """
    asked = replace(scenario, arrivals=Poisson(rate))
    small, large = _least(scenario, rate, run)
    best = run(_sized(asked, small * _AMPLE, large * _AMPLE))
    if not _does(best, p95_s):
        return Sizing(rate, p95_s, None, best)
    found = run(_sized(asked, small, large))
    for _ in range(_MOST_TRIES):
        if _does(found, p95_s):
            break
        if found.large.filled >= found.small.filled:
            large += 1
        else:
            small += 1
        found = run(_sized(asked, small, large))
    else:
        found = best
    return Sizing(rate, p95_s, _trimmed(found, p95_s, run), best)


def _least(scenario: Scenario, rate: float, run: Callable[[Scenario], Forecast]) -> tuple[int, int]:
    alone = run(replace(scenario, arrivals=Closed(1), queries=min(_SAMPLE, scenario.queries)))
    least = []
    for use, servers in ((alone.small, scenario.small), (alone.large, scenario.large)):
        work = use.busy_s / 1000.0 * rate  # seconds of lone work that come in each second
        each = servers.capacity / servers.replicas
        least.append(max(1, math.ceil(work / each - 1e-9)))
    return least[0], least[1]


def _trimmed(found: Forecast, p95_s: float, run: Callable[[Scenario], Forecast]) -> Forecast:
    for name in ("large", "small"):  # the dear one first
        while True:
            servers = getattr(found.scenario, name)
            if servers.replicas == 1:
                break
            fewer = replace(servers, replicas=servers.replicas - 1)
            tried = run(replace(found.scenario, **{name: fewer}))
            if not _does(tried, p95_s):
                break
            found = tried
    return found


def _sized(scenario: Scenario, small: int, large: int) -> Scenario:
    return replace(
        scenario,
        small=replace(scenario.small, replicas=small),
        large=replace(scenario.large, replicas=large),
    )


def _does(forecast: Forecast, p95_s: float) -> bool:
    return (
        not forecast.is_overloaded
        and forecast.p95_s is not None
        and forecast.p95_s <= p95_s
        and max(forecast.large.filled, forecast.small.filled) < _FULL
    )
