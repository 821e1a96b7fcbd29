"""Many gates tried on one run's evidence: grids of thresholds, K, aggregations and definitions.

It refuses to know files and how figures are shown, and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final, Literal, TypeAlias, assert_never

import numpy as np

from speceyes.bench.rescore import Case, Outlook, outlook, sweep
from speceyes.errors import ConfigError
from speceyes.gate import PAPER, Aggregation, Definition, GateSpec

Preset: TypeAlias = Literal["thresholds", "k", "aggregations", "definitions", "paper"]

# The grids of the published ablations; thresholds are on the squashed scale.
PAPER_THRESHOLDS: Final[tuple[float, ...]] = (0.995, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94)
POPE_THRESHOLDS: Final[tuple[float, ...]] = (0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93)
PAPER_KS: Final[tuple[int, ...]] = (32, 48, 64, 80, 96)
AGGREGATIONS: Final[tuple[Aggregation, ...]] = ("min", "mean", "bottom", "log")
DEFINITIONS: Final[tuple[Definition, ...]] = ("rivals", "all")
_STEPS: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which gates to try: every combination of what is given; what is not stays the run's own."""

    thresholds: tuple[float, ...] = ()
    ks: tuple[int, ...] = ()
    aggregations: tuple[Aggregation, ...] = ()
    definitions: tuple[Definition, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """What one gate would have given, on all items and on each split."""

    whole: Outlook
    splits: Mapping[str, Outlook]

    @property
    def spec(self) -> GateSpec:
        """The gate."""
        return self.whole.spec


def specs_of(grid: Grid, own: GateSpec) -> list[GateSpec]:
    """Make the gates of a grid. `log` is a probability already, so it is never squashed.

    Raises: ConfigError naming the field, if one of them is no gate.
    """
    made = []
    for definition, aggregation, k, threshold in product(
        grid.definitions or (own.definition,),
        grid.aggregations or (own.aggregation,),
        grid.ks or (own.k,),
        grid.thresholds or (own.threshold,),
    ):
        scale = "raw" if aggregation == "log" else own.scale
        made.append(
            replace(
                own,
                definition=definition,
                aggregation=aggregation,
                k=k,
                threshold=threshold,
                scale=scale,
            )
        )
    return made


def preset_specs(
    preset: Preset, own: GateSpec, cases: Sequence[Case], *, suite: str
) -> list[GateSpec]:
    """Make the gates of a preset: one setting moves, all others stay the run's own.

    "paper" has the published grids (its gate, with the thresholds of the suite, then its K), the
    others move one setting. Where another score needs another threshold, the one that accepts as
    many items as the run's own gate does stands for it.
    """
    match preset:
        case "thresholds":
            return specs_of(Grid(thresholds=own_steps(cases, own)), own)
        case "k":
            kept = [replace(own, k=k) for k in (*_lesser_ks(own), *PAPER_KS)]
            return [matched(cases, spec, own) for spec in kept]
        case "aggregations":
            made = specs_of(Grid(aggregations=AGGREGATIONS), own)
            return [matched(cases, spec, own) for spec in made]
        case "definitions":
            made = specs_of(Grid(definitions=DEFINITIONS), own)
            return [matched(cases, spec, own) for spec in made]
        case "paper":
            thresholds = POPE_THRESHOLDS if suite == "pope" else PAPER_THRESHOLDS
            by_threshold = specs_of(Grid(thresholds=thresholds), PAPER)
            return [*by_threshold, *specs_of(Grid(ks=PAPER_KS), PAPER)]
        case _:
            assert_never(preset)


def try_out(cases: Sequence[Case], specs: Sequence[GateSpec]) -> list[Point]:
    """Re-score a run with each gate. Raises: ConfigError if there is nothing to re-score."""
    if not cases:
        raise ConfigError("run", "needs the methods baseline and speceyes, on the same items")
    splits = {case.split: [c for c in cases if c.split == case.split] for case in cases}
    points = []
    for spec in specs:
        whole = outlook(cases, spec)
        parts = {name: outlook(found, spec) for name, found in splits.items()}
        if whole is not None:
            found = {name: part for name, part in parts.items() if part is not None}
            points.append(Point(whole, found))
    return points


def own_steps(cases: Sequence[Case], spec: GateSpec) -> tuple[float, ...]:
    """Choose thresholds that part a run's own scores evenly, the spec's among them; descending."""
    made = sweep(cases, spec)
    if made is None or not made.scored:
        return (spec.threshold,)
    shares = np.linspace(0.0, 1.0, _STEPS)
    chosen = np.quantile(made.thresholds[1:], shares)
    return tuple(sorted({*chosen.tolist(), spec.threshold}, reverse=True))


def matched(cases: Sequence[Case], spec: GateSpec, own: GateSpec) -> GateSpec:
    """Give a gate the threshold at which it accepts as many items as another one does."""
    wanted, made = outlook(cases, own), sweep(cases, spec)
    if wanted is None or made is None or not made.scored:
        return spec
    step = int(np.abs(made.accepted - wanted.accepted).argmin())
    return replace(spec, threshold=float(made.thresholds[step]))


def _lesser_ks(own: GateSpec) -> tuple[int, ...]:
    return tuple(k for k in sorted({4, 8, 16, own.k}) if k < PAPER_KS[0])
