"""A bucket of tokens says whether a caller may ask now, and if not, how long to wait.

It refuses to know callers and clocks: the time is an argument, in seconds of any clock that only
goes forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_ONE: Final = 1.0 - 1e-6  # a token, but for what rounding takes from it


@dataclass(frozen=True, slots=True)
class Bucket:
    """Hold up to `capacity` tokens, of which `per_s` come back each second.

    `tokens` is how many there were at `at_s`.
    """

    capacity: float
    per_s: float
    tokens: float
    at_s: float


def full_bucket(requests_per_minute: int, *, now_s: float) -> Bucket:
    """Make a full bucket: a tenth of a minute's requests, or one, may come at once.

    >>> full_bucket(60, now_s=0.0)
    Bucket(capacity=6.0, per_s=1.0, tokens=6.0, at_s=0.0)
    """
    capacity = max(1.0, requests_per_minute / 10.0)
    return Bucket(capacity, requests_per_minute / 60.0, capacity, now_s)


def take(bucket: Bucket, *, now_s: float) -> tuple[Bucket, float]:
    """Take one token, and give 0; or take none, and give how many seconds until there is one.

    Invariants: within any t seconds at most `capacity + t * per_s` tokens are taken; a clock that
    stands still or goes back brings no token.
    """
    elapsed_s = max(0.0, now_s - bucket.at_s)
    tokens = min(bucket.capacity, bucket.tokens + elapsed_s * bucket.per_s)
    wait_s = 0.0 if tokens >= _ONE else (1.0 - tokens) / bucket.per_s
    left = tokens if wait_s else max(0.0, tokens - 1.0)
    return Bucket(bucket.capacity, bucket.per_s, left, max(now_s, bucket.at_s)), wait_s


def whole_seconds(wait_s: float) -> int:
    """Give what `Retry-After` says: whole seconds, rounded up, and at least one."""
    return max(1, math.ceil(wait_s))
