"""Where the parts of a pair are good and where not, as far as a suite knows its hard items.

It refuses to know how figures are shown. What a suite does not say (hard or not, where to look) is
left out, not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from speceyes.bench.records import Record, Speculation
from speceyes.bench.stats import Share, auroc, mean
from speceyes.bench.summary import Entrant, in_common
from speceyes.gate import Aggregation
from speceyes.types import Box


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
class AcceptedFigures:
    """SpecEyes' answers that the gate let pass: of which items, after how many looks, how right."""

    easy: Share
    hard: Share
    right: Share
    by_looks: Mapping[int, int]  # accepted answers by how often the small model had looked closer


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposingFigures:
    """SpecReason's proposals: how many turns there were, and how many were the small model's."""

    accepted: Share
    unscored: int
    scores: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """What the parts came to; None where nobody ran them."""

    small: SmallFigures | None
    agent: AgentFigures | None
    accepted: AcceptedFigures | None
    proposing: ProposingFigures | None
    screened_right: Share | None  # sent to the agent if, and only if, hard


def look_into(entrants: Sequence[Entrant]) -> Insight:
    """Look into the parts, on the items that all entrants ended."""
    shared = in_common(entrants)
    by = {entrant.method: shared[entrant.label] for entrant in reversed(entrants)}
    judged = [
        r for r in by.get("speceyes", []) if r.is_hard is not None and r.needs_tool is not None
    ]
    right = [record.needs_tool == record.is_hard for record in judged]
    return Insight(
        small=_small(by.get("small", [])),
        agent=_agent(by.get("baseline", [])),
        accepted=_accepted(by.get("speceyes", [])),
        proposing=_proposing(by.get("specreason", [])),
        screened_right=Share.of(right) if judged else None,
    )


def box_holds(box: Box, target: Box, *, whole: bool) -> bool:
    """Say if a box holds the centre of a target, or all of it."""
    if box.picture_index != target.picture_index:
        return False
    x, y = (target.left_px + target.right_px) / 2, (target.top_px + target.bottom_px) / 2
    if not whole:
        return box.left_px <= x < box.right_px and box.top_px <= y < box.bottom_px
    across = box.left_px <= target.left_px and target.right_px <= box.right_px
    return across and box.top_px <= target.top_px and target.bottom_px <= box.bottom_px


def _small(records: Sequence[Record]) -> SmallFigures | None:
    if not records:
        return None
    hard = [record for record in records if record.is_hard]
    return SmallFigures(
        easy=Share.of([record.is_right for record in records if record.is_hard is False]),
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


def _agent(records: Sequence[Record]) -> AgentFigures | None:
    if not records:
        return None
    hard = [record for record in records if record.is_hard]
    zooms = [(turn.boxes_px[0], r.targets_px) for r in hard for turn in r.turns if turn.boxes_px]
    return AgentFigures(
        easy=Share.of([record.is_right for record in records if record.is_hard is False]),
        hard=Share.of([record.is_right for record in hard]),
        zooms_on_target=_hits(zooms, whole=False),
        zooms_covering=_hits(zooms, whole=True),
        malformed=Counter(
            turn.detail for r in records for turn in r.turns if turn.reply == "malformed"
        ),
        forced=sum(turn.forced for record in records for turn in record.turns),
    )


def _accepted(records: Sequence[Record]) -> AcceptedFigures | None:
    passed = [(r, said) for r in records if (said := r.speculation) is not None and said.accepted]
    if not passed:
        return None
    taken = {record.item_id for record, _ in passed}
    return AcceptedFigures(
        easy=Share.of([r.item_id in taken for r in records if r.is_hard is False]),
        hard=Share.of([r.item_id in taken for r in records if r.is_hard]),
        right=Share.of([record.is_right for record, _ in passed]),
        by_looks=dict(sorted(Counter(len(said.looks) for _, said in passed).items())),
    )


def _proposing(records: Sequence[Record]) -> ProposingFigures | None:
    made = [turn.proposal for r in records for turn in r.turns if turn.proposal is not None]
    if not made:
        return None
    scores = Counter(proposal.score for proposal in made if proposal.score is not None)
    return ProposingFigures(
        accepted=Share.of([proposal.accepted for proposal in made]),
        unscored=sum(proposal.score is None for proposal in made),
        scores=dict(sorted(scores.items())),
    )


def _hits(zooms: Sequence[tuple[Box, tuple[Box, ...]]], *, whole: bool) -> Share:
    return Share.of(
        [any(box_holds(box, t, whole=whole) for t in targets) for box, targets in zooms]
    )
