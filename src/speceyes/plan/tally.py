"""A simulation's queries are counted here, however many: memory does not grow with their number.

It refuses to know who simulates. Latencies fall into bins one half of a percent wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

_LEAST_S: Final = 1e-6
_STEP: Final = math.log(1.005)


@dataclass(slots=True)
class Latencies:
    """How latencies are spread; quantiles to within .5 %, the mean exactly."""

    count: int = 0
    total_s: float = 0.0
    bins: dict[int, int] = field(default_factory=dict)

    def add(self, seconds: float) -> None:
        """Count one in."""
        self.count += 1
        self.total_s += seconds
        place = math.floor(math.log(max(seconds, _LEAST_S) / _LEAST_S) / _STEP)
        self.bins[place] = self.bins.get(place, 0) + 1

    @property
    def mean_s(self) -> float | None:
        """The mean; None if nothing was counted."""
        return self.total_s / self.count if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """The latency that a share of all stays below; None if nothing was counted."""
        left = share * self.count
        for place in sorted(self.bins):
            left -= self.bins[place]
            if left <= 0:
                return _LEAST_S * math.exp((place + 0.5) * _STEP)
        return None


@dataclass(slots=True)
class Tally:
    """What is counted of the queries that ended after the first ones, which find all idle."""

    latencies: Latencies = field(default_factory=Latencies)
    speculative: int = 0
    right: int = 0
    known: int = 0

    def add(self, seconds: float, *, is_speculative: bool, is_right: bool | None) -> None:
        """Count one query in."""
        self.latencies.add(seconds)
        self.speculative += is_speculative
        if is_right is not None:
            self.known += 1
            self.right += is_right
