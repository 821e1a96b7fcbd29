"""What a policy remembers of how calls went: means that forget, and seconds against company.

It refuses to know clocks and engines: numbers are told to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_LEAST_SAMPLES: Final = 8
_CHANCE: Final = 0.05  # calls squared: a spread of company that tells nothing yet
_LEAST_SHARE: Final = 0.05  # of the mean, that a call without company takes at least


@dataclass(slots=True)
class Mean:
    """A mean in which each value counts less by `keep` with every one after it.

    `value` starts as a guess that weighs as much as `guess_weight` observations.
    """

    value: float
    guess_weight: float = 4.0
    keep: float = 0.97

    def add(self, value: float) -> None:
        """Take in one value."""
        weight = self.guess_weight = self.guess_weight * self.keep + 1.0
        self.value += (value - self.value) / weight


@dataclass(slots=True)
class Line:
    """How many seconds a call takes against how many were under way beside it: a straight line.

    Least squares in which old calls count less. What could be chance is not taken for crowding: the
    slope is lowered by its standard error, and drawn towards 0 where the company hardly varied.
    """

    keep: float = 0.99
    _weight: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0
    _yy: float = 0.0

    def add(self, company: float, seconds: float) -> None:
        """Take in one call."""
        x, y = company, seconds
        kept = (self._weight, self._x, self._y, self._xx, self._xy, self._yy)
        terms = (1.0, x, y, x * x, x * y, y * y)
        self._weight, self._x, self._y, self._xx, self._xy, self._yy = (
            self.keep * old + new for old, new in zip(kept, terms, strict=True)
        )

    def delay(self, company: float) -> float | None:
        """Say by which share of its lone seconds a call is longer in this company.

        None before there is something to go by.

        >>> line = Line()
        >>> for company in (0, 1, 2, 3) * 6:
        ...     line.add(company, 2.0 + 1.0 * company)
        >>> 0.8 < line.delay(2) < 1.0
        True
        """
        weight = self._weight
        if weight < _LEAST_SAMPLES * self.keep**_LEAST_SAMPLES:
            return None
        x, y = self._x / weight, self._y / weight
        varied = self._xx / weight - x * x + _CHANCE
        slope = (self._xy / weight - x * y) / varied
        left = max(0.0, self._yy / weight - y * y - slope * slope * varied)
        slope = max(0.0, slope - math.sqrt(left / (weight * varied)))
        alone = max(y - slope * x, _LEAST_SHARE * y)
        return slope * company / alone if alone > 0.0 else 0.0
