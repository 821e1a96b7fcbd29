"""Records are summed up here: accuracy, speed, what the gate let pass, and how far the limit is.

It refuses to know how figures are shown, and runs nothing. Failures count as wrong everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, get_args

import numpy as np

from speceyes.bench.records import Method, Record, Speculation
from speceyes.bench.stats import (
    Interval,
    Share,
    auroc,
    mean,
    paired_difference,
    quantile,
    ratio_of_sums,
)
from speceyes.builtin.questions import SPLITS
from speceyes.events import Phase
from speceyes.gate import Aggregation
from speceyes.types import Box

ALL: Final = "all"
PHASES: Final[tuple[Phase, ...]] = ("screen", "speculate", "gate", "fall_back")
_BOOTSTRAP_SEED: Final = 20260323


@dataclass(frozen=True, slots=True)
class BlockTime:
    """How long one method took for all items of one block, by the wall clock."""

    block: int
    method: Literal["baseline", "speceyes"]
    items: int
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodFigures:
    """What one method came to on a set of items. Times and tokens are means per item."""

    accuracy: Share
    failed: int
    wall_s: float | None  # finished blocks only; None for a part of the items
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    phase_mean_s: Mapping[Phase, float]
    prompt_tokens: float | None
    completion_tokens: float | None
    depth: float | None
    depths: Mapping[int, int]  # items by number of tool calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both methods on the same items: one row of the table.

    `alpha`: accepted share of the screened; `beta`: share that was screened, so needs no tool.
    """

    name: str
    baseline: MethodFigures
    speceyes: MethodFigures
    difference: float | None
    difference_interval: Interval | None
    speedup: float | None
    speedup_interval: Interval | None
    alpha: Share
    beta: Share

    @property
    def limit(self) -> float | None:
        """The gain if screening and speculating were free: 1 / (1 - beta * alpha)."""
        alpha, beta = self.alpha.value, self.beta.value
        if beta is None:
            return None
        saved = beta * (alpha or 0.0)
        return None if saved == 1.0 else 1.0 / (1.0 - saved)

    @property
    def share_of_limit(self) -> float | None:
        """How much of that limit was reached."""
        return None if self.speedup is None or self.limit is None else self.speedup / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallFigures:
    """The small model alone on all items, and how well its scores tell right from wrong."""

    easy: Share
    hard: Share
    chance_hard: float | None  # what guessing would give on the hard items
    auroc: float | None  # by the gate's own score
    auroc_by: Mapping[int, Mapping[Aggregation, float | None]]  # by K, then aggregation


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFigures:
    """The agent alone: where it is right, and whether its zooms on hard items meet the target."""

    easy: Share
    hard: Share
    zooms_on_target: Share  # the box holds the centre of a thing asked about
    zooms_covering: Share  # the box holds all of it
    malformed: Mapping[str, int]
    forced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All figures of a run."""

    rows: tuple[Comparison, ...]  # the splits, then all
    small: SmallFigures
    agent: AgentFigures
    screened_right: Share  # sent to the agent if, and only if, hard
    routes: Mapping[str, int]
    reasons: Mapping[str, int]
    reject_reasons: Mapping[str, int]

    @property
    def overall(self) -> Comparison:
        """The row over all items."""
        return self.rows[-1]


def summarise(
    records: Sequence[Record], times: Sequence[BlockTime], *, concurrency: int
) -> Summary:
    """Sum up a run, whole or cut short: comparisons are over items that both methods ended."""
    by = by_method(records)
    paired = [item for item in by["baseline"] if item in by["speceyes"]]
    ours = [by["speceyes"][item] for item in paired]
    base = [by["baseline"][item] for item in paired]
    rows = [
        _compare(name, [r for r in base if r.split == name], [r for r in ours if r.split == name])
        for name in SPLITS
    ]
    elapsed_s = [r.elapsed_s for r in base], [r.elapsed_s for r in ours]
    whole = _timed(_compare(ALL, base, ours), times, elapsed_s if concurrency == 1 else None)
    return Summary(
        rows=(*rows, whole),
        small=_small(list(by["small"].values())),
        agent=_agent(list(by["baseline"].values())),
        screened_right=Share.of([r.needs_tool == r.is_hard for r in ours]),
        routes=Counter(record.route or "failed" for record in ours),
        reasons=Counter(record.reason for record in ours if record.reason),
        reject_reasons=Counter(
            r.speculation.reason for r in ours if r.speculation and not r.speculation.accepted
        ),
    )


def by_method(records: Iterable[Record]) -> dict[Method, dict[str, Record]]:
    """Sort records by method, then item, in the order in which they came."""
    found: dict[Method, dict[str, Record]] = {"baseline": {}, "speceyes": {}, "small": {}}
    for record in records:
        found[record.method][record.item_id] = record
    return found


def box_holds(box: Box, target: Box, *, whole: bool) -> bool:
    """Say if a box holds the centre of a target, or all of it."""
    if box.picture_index != target.picture_index:
        return False
    x, y = (target.left_px + target.right_px) / 2, (target.top_px + target.bottom_px) / 2
    if not whole:
        return box.left_px <= x < box.right_px and box.top_px <= y < box.bottom_px
    across = box.left_px <= target.left_px and target.right_px <= box.right_px
    return across and box.top_px <= target.top_px and target.bottom_px <= box.bottom_px


def _compare(name: str, base: Sequence[Record], ours: Sequence[Record]) -> Comparison:
    base_s, ours_s = [r.elapsed_s for r in base], [r.elapsed_s for r in ours]
    screened = [record for record in ours if record.needs_tool is False]
    base_right, ours_right = [r.is_right for r in base], [r.is_right for r in ours]
    return Comparison(
        name=name,
        baseline=_figures(base),
        speceyes=_figures(ours),
        difference=(sum(ours_right) - sum(base_right)) / len(ours) if ours else None,
        difference_interval=paired_difference(ours_right, base_right),
        speedup=sum(base_s) / sum(ours_s) if any(ours_s) else None,
        speedup_interval=_ratio(base_s, ours_s),
        alpha=Share.of([r.speculation is not None and r.speculation.accepted for r in screened]),
        beta=Share(len(screened), len(ours)),
    )


def _timed(
    row: Comparison,
    times: Sequence[BlockTime],
    elapsed_s: tuple[Sequence[float], Sequence[float]] | None,
) -> Comparison:
    # The wall clock decides, over blocks that both methods finished. Queries that overlap share
    # their time, so that then blocks, not items, are the units to resample.
    wall_s: dict[str, dict[int, float]] = {"baseline": {}, "speceyes": {}}
    for time in times:
        wall_s[time.method][time.block] = time.wall_s
    blocks = [block for block in wall_s["baseline"] if block in wall_s["speceyes"]]
    base_s = [wall_s["baseline"][block] for block in blocks]
    ours_s = [wall_s["speceyes"][block] for block in blocks]
    units = elapsed_s or (base_s, ours_s)
    return replace(
        row,
        baseline=replace(row.baseline, wall_s=sum(base_s) if blocks else None),
        speceyes=replace(row.speceyes, wall_s=sum(ours_s) if blocks else None),
        speedup=sum(base_s) / sum(ours_s) if any(ours_s) else None,
        speedup_interval=_ratio(*units) if blocks else None,
    )


def _ratio(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    return ratio_of_sums(above, below, rng=np.random.default_rng(_BOOTSTRAP_SEED))


def _figures(records: Sequence[Record]) -> MethodFigures:
    elapsed_s = [record.elapsed_s for record in records]
    usages = [record.usage for record in records]
    depths = [record.depth for record in records]
    return MethodFigures(
        accuracy=Share.of([record.is_right for record in records]),
        failed=sum(record.text is None for record in records),
        wall_s=None,
        latency_mean_s=mean(elapsed_s),
        latency_p50_s=quantile(elapsed_s, 0.5),
        latency_p95_s=quantile(elapsed_s, 0.95),
        phase_mean_s={
            phase: mean([record.phase_s.get(phase, 0.0) for record in records]) or 0.0
            for phase in PHASES
        },
        prompt_tokens=mean([usage.prompt_tokens for usage in usages]),
        completion_tokens=mean([usage.completion_tokens for usage in usages]),
        depth=mean(depths),
        depths=dict(sorted(Counter(depths).items())),
    )


def _small(records: Sequence[Record]) -> SmallFigures:
    hard = [record for record in records if record.is_hard]
    return SmallFigures(
        easy=Share.of([record.is_right for record in records if not record.is_hard]),
        hard=Share.of([record.is_right for record in hard]),
        chance_hard=mean([1 / (len(record.options) or 2) for record in hard]),
        auroc=_auroc(records, lambda said: said.score),
        auroc_by={
            k: {
                aggregation: _auroc(records, partial(_score_by, k=k, aggregation=aggregation))
                for aggregation in get_args(Aggregation)
            }
            for k in sorted({k for r in records if r.speculation for k in r.speculation.scores})
        },
    )


def _score_by(said: Speculation, *, k: int, aggregation: Aggregation) -> float | None:
    return said.scores.get(k, {}).get(aggregation)


def _auroc(records: Sequence[Record], score: Callable[[Speculation], float | None]) -> float | None:
    right: list[float] = []
    wrong: list[float] = []
    for record in records:
        value = None if record.speculation is None else score(record.speculation)
        if value is not None:
            (right if record.is_right else wrong).append(value)
    return auroc(right, wrong)


def _agent(records: Sequence[Record]) -> AgentFigures:
    hard = [record for record in records if record.is_hard]
    zooms = [(turn.boxes_px[0], r.targets_px) for r in hard for turn in r.turns if turn.boxes_px]
    return AgentFigures(
        easy=Share.of([record.is_right for record in records if not record.is_hard]),
        hard=Share.of([record.is_right for record in hard]),
        zooms_on_target=_hits(zooms, whole=False),
        zooms_covering=_hits(zooms, whole=True),
        malformed=Counter(
            turn.detail for r in records for turn in r.turns if turn.reply == "malformed"
        ),
        forced=sum(turn.forced for record in records for turn in record.turns),
    )


def _hits(zooms: Sequence[tuple[Box, tuple[Box, ...]]], *, whole: bool) -> Share:
    return Share.of(
        [any(box_holds(box, t, whole=whole) for t in targets) for box, targets in zooms]
    )
