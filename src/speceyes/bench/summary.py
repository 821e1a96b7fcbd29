"""Records are summed up here: accuracy, speed, what the gate let pass, and how far the limit is.

It refuses to know how figures are shown, and runs nothing. Failures count as wrong everywhere, and
methods are compared on the items that all of them ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.records import Method, Record
from speceyes.bench.stats import (
    Interval,
    Share,
    mean,
    paired_difference,
    quantile,
    ratio_of_sums,
)
from speceyes.events import Phase
from speceyes.types import Usage

ALL: Final = "all"
PHASES: Final[tuple[Phase, ...]] = ("screen", "speculate", "gate", "fall_back")
_BOOTSTRAP_SEED: Final = 20260323


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One method's records of one run, under the label by which it is shown."""

    label: str
    method: Method
    records: Sequence[Record]
    concurrency: int = 1
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a number of seconds is spread over items."""

    mean_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one entrant came to on a set of items. Times and tokens are per item.

    `alpha`: accepted share of the screened; `beta`: share that was screened, so needs no tool;
    both None for methods without a funnel. `wall_s`: None where the set is a part of the run.
    """

    accuracy: Share
    failed: int
    undecided: int
    latency: Spread | None
    phases: Mapping[Phase, Spread]
    wall_s: float | None
    usage: Usage
    depth: float | None
    depths: Mapping[int, int]  # items by number of tool calls
    alpha: Share | None
    beta: Share | None

    @property
    def prompt_tokens(self) -> float | None:
        """Tokens read, per item."""
        return self._each(self.usage.prompt_tokens)

    @property
    def completion_tokens(self) -> float | None:
        """Tokens said, per item."""
        return self._each(self.usage.completion_tokens)

    @property
    def limit(self) -> float | None:
        """The gain if screening and speculating were free: 1 / (1 - beta * alpha)."""
        if self.alpha is None or self.beta is None or self.beta.value is None:
            return None
        saved = self.beta.value * (self.alpha.value or 0.0)
        return None if saved == 1.0 else 1.0 / (1.0 - saved)

    def _each(self, count: int) -> float | None:
        return count / self.accuracy.count if self.accuracy.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What an entrant gains on the same items: over its own run's baseline, or else the first."""

    difference: float | None
    difference_interval: Interval | None
    speedup: float | None
    speedup_interval: Interval | None
    share_of_limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All entrants on the items of one split, or on all; `gains` of all but baselines."""

    name: str
    figures: Mapping[str, Figures]
    gains: Mapping[str, Gain]


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """Means over the splits, each counting alike, as the paper averages."""

    accuracy: float | None
    speedup: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All figures of a comparison. `left_out`: records of items that not all entrants ended."""

    methods: Mapping[str, Method]  # by label
    baseline: str | None  # the label that the others are compared with
    rows: tuple[Row, ...]  # the splits, then all
    averages: Mapping[str, Average]
    routes: Mapping[str, Mapping[str, int]]
    reasons: Mapping[str, Mapping[str, int]]
    reject_reasons: Mapping[str, Mapping[str, int]]
    mishaps: Mapping[str, Mapping[str, int]]
    left_out: int

    @property
    def splits(self) -> tuple[Row, ...]:
        """The rows of single splits."""
        return self.rows[:-1]

    @property
    def overall(self) -> Row:
        """The row over all items."""
        return self.rows[-1]

    @property
    def compared(self) -> int:
        """How many items all entrants ended."""
        return next((f.accuracy.count for f in self.overall.figures.values()), 0)

    def label_of(self, method: Method) -> str | None:
        """Give the label of the first entrant that is of this method."""
        return next((label for label, found in self.methods.items() if found == method), None)


def in_common(entrants: Sequence[Entrant]) -> dict[str, list[Record]]:
    """Give each entrant's records, by label, of the items that all of them ended, in one order."""
    by = {entrant.label: {r.item_id: r for r in entrant.records} for entrant in entrants}
    first = next(iter(by.values()), {})
    shared = [item for item in first if all(item in found for found in by.values())]
    return {label: [found[item] for item in shared] for label, found in by.items()}


def summarise(entrants: Sequence[Entrant]) -> Summary:
    """Sum up what is compared, be the runs whole or cut short."""
    shared = in_common(entrants)
    methods = {entrant.label: entrant.method for entrant in entrants}
    baseline = next((label for label, method in methods.items() if method == "baseline"), None)
    names = dict.fromkeys(r.split for records in shared.values() for r in records)
    rows = [
        _row(
            name,
            entrants,
            {label: [r for r in rs if r.split == name] for label, rs in shared.items()},
        )
        for name in names
    ]
    whole = _row(ALL, entrants, shared, is_whole=True)
    return Summary(
        methods=methods,
        baseline=baseline,
        rows=(*rows, whole),
        averages={label: _average(label, rows) for label in methods},
        routes={label: Counter(r.route or "failed" for r in rs) for label, rs in shared.items()},
        reasons={label: Counter(r.reason for r in rs if r.reason) for label, rs in shared.items()},
        reject_reasons={
            label: Counter(
                r.speculation.reason for r in rs if r.speculation and not r.speculation.accepted
            )
            for label, rs in shared.items()
        },
        mishaps={
            label: Counter(r.mishap.name for r in rs if r.mishap) for label, rs in shared.items()
        },
        left_out=sum(len(e.records) for e in entrants) - sum(map(len, shared.values())),
    )


def _of_split(name: str, records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.split == name]


def was_screened(record: Record) -> bool:
    """Say if a query went to the small model: by the screen's word, for want of one, or to look."""
    said = record.speculation
    if record.needs_tool is None:
        return said is not None
    return not record.needs_tool or bool(said and said.looks)


def block_walls(records: Sequence[Record]) -> dict[int, float]:
    """Measure how long each block took by the clock, in seconds, from its records alone.

    What a run that was killed had under way is not counted, and neither are the pauses.
    """
    spans: dict[tuple[int, int], tuple[float, float]] = {}
    for record in records:
        place = (record.block, record.part)
        began_s, ended_s = record.ended_s - record.elapsed_s, record.ended_s
        low, high = spans.get(place, (began_s, ended_s))
        spans[place] = (min(low, began_s), max(high, ended_s))
    walls: dict[int, float] = {}
    for (block, _), (low, high) in spans.items():
        walls[block] = walls.get(block, 0.0) + high - low
    return walls


def _row(
    name: str,
    entrants: Sequence[Entrant],
    shared: Mapping[str, Sequence[Record]],
    *,
    is_whole: bool = False,
) -> Row:
    figures = {e.label: _figures(shared[e.label], e.method, is_whole=is_whole) for e in entrants}
    gains = {}
    for entrant in entrants:
        base = _base_of(entrant, entrants)
        if base is None:
            continue
        ours, theirs = shared[entrant.label], shared[base.label]
        right = [r.is_right for r in ours], [r.is_right for r in theirs]
        overlap = is_whole and max(entrant.concurrency, base.concurrency) > 1
        speedup, interval = _wall_speedup(base, entrant) if overlap else _own_speedup(theirs, ours)
        limit = figures[entrant.label].limit
        gains[entrant.label] = Gain(
            difference=(sum(right[0]) - sum(right[1])) / len(ours) if ours else None,
            difference_interval=paired_difference(*right),
            speedup=speedup,
            speedup_interval=interval,
            share_of_limit=None if speedup is None or limit is None else speedup / limit,
        )
    return Row(name=name, figures=figures, gains=gains)


def _base_of(entrant: Entrant, entrants: Sequence[Entrant]) -> Entrant | None:
    # The baseline of the same run, made in turns with it, goes before one of another run.
    bases = [other for other in entrants if other.method == "baseline"]
    beside = [base for base in bases if base.run == entrant.run]
    base = next(iter(beside or bases), None)
    return None if base is None or entrant.method == "baseline" else base


def _own_speedup(
    base: Sequence[Record], ours: Sequence[Record]
) -> tuple[float | None, Interval | None]:
    # By the queries' own seconds: one after the other, they are the wall clock's.
    base_s, ours_s = [r.elapsed_s for r in base], [r.elapsed_s for r in ours]
    return (sum(base_s) / sum(ours_s) if any(ours_s) else None), _ratio(base_s, ours_s)


def _wall_speedup(base: Entrant, ours: Entrant) -> tuple[float | None, Interval | None]:
    # Queries that overlap share their time: the wall clock decides, over blocks that both ended,
    # and blocks are the units to resample.
    counts = [Counter(r.block for r in e.records) for e in (base, ours)]
    walls = [block_walls(e.records) for e in (base, ours)]
    if base.run == ours.run:
        blocks = [b for b, n in counts[0].items() if counts[1].get(b) == n]
        base_s, ours_s = ([wall[block] for block in blocks] for wall in walls)
        interval = _ratio(base_s, ours_s)
    else:
        each = [
            sum(w.values()) / max(1, len(e.records))
            for w, e in zip(walls, (base, ours), strict=True)
        ]
        base_s, ours_s, interval = [each[0]], [each[1]], None
    return (sum(base_s) / sum(ours_s) if any(ours_s) else None), interval


def _ratio(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    return ratio_of_sums(above, below, rng=np.random.default_rng(_BOOTSTRAP_SEED))


def _figures(records: Sequence[Record], method: Method, *, is_whole: bool) -> Figures:
    depths = [record.depth for record in records]
    screened = [record for record in records if was_screened(record)]
    has_funnel = method == "speceyes"
    accepted = [r.speculation is not None and r.speculation.accepted for r in screened]
    return Figures(
        accuracy=Share.of([record.is_right for record in records]),
        failed=sum(record.text is None for record in records),
        undecided=sum(record.grade.is_undecided for record in records),
        latency=_spread([record.elapsed_s for record in records]),
        phases={
            phase: spread
            for phase in PHASES
            if (spread := _spread([record.phase_s.get(phase, 0.0) for record in records]))
        },
        wall_s=sum(block_walls(records).values()) if is_whole and records else None,
        usage=sum((record.usage for record in records), Usage.zero),
        depth=mean(depths),
        depths=dict(sorted(Counter(depths).items())),
        alpha=Share.of(accepted) if has_funnel else None,
        beta=Share(len(screened), len(records)) if has_funnel else None,
    )


def _spread(seconds: Sequence[float]) -> Spread | None:
    average, middle, high = mean(seconds), quantile(seconds, 0.5), quantile(seconds, 0.95)
    if average is None or middle is None or high is None:
        return None
    return Spread(mean_s=average, p50_s=middle, p95_s=high)


def _average(label: str, rows: Sequence[Row]) -> Average:
    accuracies = [v for row in rows if (v := row.figures[label].accuracy.value) is not None]
    speedups = [
        gain.speedup
        for row in rows
        if (gain := row.gains.get(label)) is not None and gain.speedup is not None
    ]
    return Average(accuracy=mean(accuracies), speedup=mean(speedups))
