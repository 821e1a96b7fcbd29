"""Which score ranks the small model's answers best, on each slice of a suite?

It refuses to know how figures are shown, and runs nothing. The gate's own score stays the paper's;
what beats it here is offered, not taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from speceyes.bench.candidates import ScoreName, candidate_columns, read_candidates
from speceyes.bench.selective import Curve, Quality, compare_scores, curve_of
from speceyes.bench.trials import Trial
from speceyes.gate import GateSpec

REFERENCE: Final[ScoreName] = "min"
ALL: Final = "all answers"
SCREENED: Final = "screened"
_SEED: Final = 20260323


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The answers of one slice: how many, how many wrong, and what each score is worth on them."""

    name: str
    count: int
    wrong: int
    qualities: Mapping[str, Quality]

    @property
    def better(self) -> tuple[str, ...]:
        """The scores that are better than the paper's beyond chance, the best first."""
        found = [n for n, q in self.qualities.items() if n != REFERENCE and q.gain_interval.low > 0]
        return tuple(sorted(found, key=lambda name: -self.qualities[name].gain))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All slices of one suite's answers, and the curves over all of them."""

    slices: tuple[Slice, ...]
    curves: Mapping[str, Curve]


def rank_scores(trials: Sequence[Trial], spec: GateSpec) -> Ranking | None:
    """Compare all candidates on what a suite's runs kept; None if nothing could be scored.

    Slices: all answers that could be scored, those screened, and each split. The combined score is
    fitted on all of them, each fifth on the others.
    """
    scored = [
        (trial, found)
        for trial in trials
        if trial.said is not None and (found := read_candidates(trial.said, spec)) is not None
    ]
    if not scored:
        return None
    wrong = np.array([not trial.small_right for trial, _ in scored])
    columns = candidate_columns([found for _, found in scored], wrong.tolist())
    whole = np.ones(len(scored), dtype=np.bool_)
    screened = np.array([trial.is_screened for trial, _ in scored])
    parts = {ALL: whole, SCREENED: screened}
    splits = dict.fromkeys(trial.split for trial, _ in scored)
    if len(splits) > 1:
        parts |= {name: np.array([t.split == name for t, _ in scored]) for name in splits}
    rng = np.random.default_rng(_SEED)
    slices = tuple(
        Slice(
            name=name,
            count=int(part.sum()),
            wrong=int(wrong[part].sum()),
            qualities=compare_scores(
                {score: values[part] for score, values in columns.items()},
                wrong[part],
                reference=REFERENCE,
                rng=rng,
            ),
        )
        for name, part in parts.items()
        if part.any()
    )
    return Ranking(
        slices=slices,
        curves={name: curve_of(values, wrong) for name, values in columns.items()},
    )
