"""What the gateway has done is one value here: counts and spreads that add up in any order.

It refuses to know clocks, files and who shows it. Whatever is shown of the gateway, as metrics, as
JSON or as a page, is read from this value, so that the three cannot disagree.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from speceyes.gateway.series import MILLION, Series
from speceyes.gateway.steps import Step

Labels: TypeAlias = tuple[str, ...]
Cell: TypeAlias = tuple[str, ...]  # a series' name, then its labels' values
Spread: TypeAlias = tuple[int, ...]  # the sum in millionths, then the count in each bucket

LAST: Final = 50
"""How many requests are remembered one by one."""
MAX_CELLS: Final = 2_000
"""How many cells one series may have; all further ones are one, whose labels say `other`."""
_OTHER: Final = "other"


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request that ended, without a word of what was asked and said.

    `at_s` is when it ended, in seconds since 1970. Tokens are prompt and completion together.
    """

    request_id: str
    at_s: float
    model: str
    route: str
    reason: str
    status: int
    elapsed_s: float
    waited_s: float = 0.0
    first_byte_s: float | None = None
    is_stream: bool = False
    error: str | None = None
    p_tool: float | None = None
    score: float | None = None
    threshold: float | None = None
    depth: int = 0
    turns: int = 0
    small_tokens: int = 0
    large_tokens: int = 0
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """All that was counted, and the last requests, the newest last.

    Invariants: `merge` is associative and commutative, `Stats()` changes nothing, and the stats of
    two lists of requests, merged, are those of both lists together.
    """

    counts: Mapping[Cell, int] = field(default_factory=dict)
    spreads: Mapping[Cell, Spread] = field(default_factory=dict)
    last: tuple[Told, ...] = ()


class Tally:
    """Count in place, at the same small cost however much was counted before."""

    def __init__(self, before: Stats | None = None) -> None:
        before = before or Stats()
        self._counts = dict(before.counts)
        self._spreads = {cell: list(spread) for cell, spread in before.spreads.items()}
        self._last = list(before.last)
        self._cells = Counter(cell[0] for cell in (*self._counts, *self._spreads))

    def add(self, series: Series, labels: Labels = (), amount: int = 1) -> None:
        """Add to a counter."""
        cell = (series.name, *labels)
        if cell in self._counts:
            self._counts[cell] += amount
        else:
            cell = self._new(series, cell)
            self._counts[cell] = self._counts.get(cell, 0) + amount

    def observe(self, series: Series, value: float, labels: Labels = ()) -> None:
        """Put a value into a histogram; one that is no finite number is left out."""
        if not math.isfinite(value):
            return
        cell = (series.name, *labels)
        spread = self._spreads.get(cell)
        if spread is None:
            empty = [0] * (len(series.buckets) + 2)
            spread = self._spreads.setdefault(self._new(series, cell), empty)
        spread[0] += round(max(0.0, value) * MILLION)
        spread[1 + series.bucket(value)] += 1

    def remember(self, told: Told) -> None:
        """Keep one request among the last ones."""
        insort(self._last, told, key=_order)
        if len(self._last) > LAST:
            del self._last[0]

    def stats(self) -> Stats:
        """Give all that was counted so far, as a value of its own."""
        return Stats(
            dict(self._counts),
            {cell: tuple(spread) for cell, spread in self._spreads.items()},
            tuple(self._last),
        )

    def _new(self, series: Series, cell: Cell) -> Cell:
        if self._cells[series.name] >= MAX_CELLS:
            cell = (series.name, *[_OTHER] * len(series.labels))
        self._cells[series.name] += 1
        return cell


def merge(parts: Iterable[Stats]) -> Stats:
    """Add up what several workers counted."""
    counts: dict[Cell, int] = {}
    spreads: dict[Cell, Spread] = {}
    last: list[Told] = []
    for part in parts:
        for cell, count in part.counts.items():
            counts[cell] = counts.get(cell, 0) + count
        for cell, spread in part.spreads.items():
            mine = spreads.get(cell)
            added = spread if mine is None else tuple(map(sum, zip(mine, spread, strict=True)))
            spreads[cell] = added
        last += part.last
    return Stats(counts, spreads, tuple(sorted(last, key=_order)[-LAST:]))


def _order(told: Told) -> tuple[float, str]:
    return (told.at_s, told.request_id)
