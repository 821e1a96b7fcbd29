"""What a policy remembers of how calls went: means that forget, and seconds against company.

It refuses to know clocks and engines: numbers are told to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_LEAST_SAMPLES: Final = 8
_CHANCE: Final = 0.25  # calls squared: a spread of company that tells nothing yet
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

    Least squares in which old calls count less. The slope is drawn towards 0 where the company
    hardly varied, so that chance does not pass for crowding.
    """

    keep: float = 0.98
    _weight: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def add(self, company: float, seconds: float) -> None:
        """Take in one call."""
        terms = (1.0, company, seconds, company * company, company * seconds)
        kept = (self._weight, self._x, self._y, self._xx, self._xy)
        self._weight, self._x, self._y, self._xx, self._xy = (
            self.keep * old + new for old, new in zip(kept, terms, strict=True)
        )

    def delay(self, company: float) -> float | None:
        """Say by which share of its lone seconds a call is longer in this company.

        None before there is something to go by.

        >>> line = Line()
        >>> for company in (0, 1, 2, 3) * 6:
        ...     line.add(company, 2.0 + 1.0 * company)
        >>> 0.7 < line.delay(2) < 1.0
        True
        """
        if self._weight < _LEAST_SAMPLES * self.keep**_LEAST_SAMPLES:
            return None
        x, y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - x * x
        slope = max(0.0, (self._xy / self._weight - x * y) / (variance + _CHANCE))
        alone = max(y - slope * x, _LEAST_SHARE * y)
        return slope * company / alone if alone > 0.0 else 0.0
