"""How large can a share really be, of which so many of so many were counted? Exactly, no normals.

It refuses to know what was counted. All bounds are Clopper and Pearson's, by the incomplete beta
function, so that they hold at any count and any share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from speceyes.errors import ConfigError

_TINY: Final = 1e-300
_PRECISION: Final = 1e-15
_MOST_TERMS: Final = 100_000
_BISECTIONS: Final = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share that was counted, and the range that holds the true one with this confidence."""

    count: int
    of: int
    low: float
    high: float
    confidence: float

    @property
    def value(self) -> float | None:
        """The share itself, or None if nothing was counted."""
        return self.count / self.of if self.of else None


def estimate(count: int, of: int, *, confidence: float = 0.95) -> Estimate:
    """Bound a share from both sides. Source: Clopper and Pearson 1934, Biometrika 26.

    Of nothing counted nothing is known: the range is 0..1.

    >>> found = estimate(4, 20)
    >>> round(found.low, 4), round(found.high, 4)
    (0.0573, 0.4366)
    """
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if count == 0 else _where(lambda p: _at_least(count, of, p), tail)
    high = upper_bound(count, of, confidence=1.0 - tail)
    return Estimate(count, of, low, high, confidence)


def upper_bound(count: int, of: int, *, confidence: float) -> float:
    """Bound a share from above: the p at which so few would have probability 1 - confidence.

    >>> round(upper_bound(0, 299, confidence=0.95), 5)
    0.00997
    """
    check_share("confidence", confidence)
    if count >= of:
        return 1.0
    return _where(lambda p: -at_most(count, of, p), confidence - 1.0)


def at_most(count: int, of: int, share: float) -> float:
    """Give P(at most `count` of `of`) where each has probability `share`: the binomial CDF."""
    if count >= of:
        return 1.0
    if count < 0:
        return 0.0
    return incomplete_beta(of - count, count + 1.0, 1.0 - share)


@lru_cache(maxsize=1024)
def most_failures(of: int, *, max_share: float, confidence: float) -> int | None:
    """Say how many of so many may fail for the share to be below `max_share`, confidently.

    None: not even none at all would do; there are too few.
    """
    risk = 1.0 - confidence
    if at_most(0, of, max_share) > risk:
        return None
    low, high = 0, of
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(middle, of, max_share) <= risk else (low, middle)
    return low


def least_count(max_share: float, *, confidence: float, share: float = 0.0) -> int | None:
    """Say how many must be counted to show a share below `max_share`, if `share` of them fail.

    None: no number would do, for `share` is not below it.

    >>> least_count(0.01, confidence=0.95)
    299
    """
    check_share("max_loss", max_share)
    check_share("confidence", confidence)
    if share >= max_share:
        return None
    first = math.ceil(math.log(1.0 - confidence) / math.log1p(-max_share) - 1e-9)
    high = max(1, first)
    while not _suffices(high, share, max_share=max_share, confidence=confidence):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = _suffices(middle, share, max_share=max_share, confidence=confidence)
        low, high = (low, middle) if enough else (middle, high)
    return max(high, first)


def check_share(field: str, share: float) -> None:
    """See that a share lies between 0 and 1. Raises: ConfigError naming the field."""
    if not 0.0 < share < 1.0:
        raise ConfigError(field, f"{share} is not between 0 and 1; give a share, such as .05")


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Give the regularised incomplete beta function I_x(a, b), by its continued fraction.

    Range: 0..1. Source: DLMF 8.17.22, summed after Lentz.

    >>> round(incomplete_beta(2.0, 3.0, 0.4), 4)
    0.5248
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):  # the fraction converges fast only below its mean
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    logged = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logged + a * math.log(x) + b * math.log1p(-x)) / a
    return min(1.0, front * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _away(1.0 + even * d), _away(1.0 + even / c)
        value *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _away(1.0 + odd * d), _away(1.0 + odd / c)
        value *= c * d
        if abs(c * d - 1.0) < _PRECISION:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _at_least(count: int, of: int, share: float) -> float:
    return 1.0 - at_most(count - 1, of, share)


def _suffices(of: int, share: float, *, max_share: float, confidence: float) -> bool:
    return at_most(math.ceil(share * of), of, max_share) <= 1.0 - confidence


def _where(rising: Callable[[float], float], level: float) -> float:
    # The p at which a function of p that rises reaches a level.
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if middle in {low, high}:
            break
        low, high = (middle, high) if rising(middle) < level else (low, middle)
    return (low + high) / 2.0
