"""A comparison is laid out as a section of a page here: which tables and charts it has.

It refuses to know markup, and runs nothing. A part that was not measured is None or empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Final, get_args

import numpy as np

from speceyes.bench.comparison import Comparison
from speceyes.bench.grade import grade
from speceyes.bench.items import Suite
from speceyes.bench.manifest import Manifest
from speceyes.bench.page.calibrated import Holding, holding_of
from speceyes.bench.page.charts import Bars, Densities, draw_counts, draw_densities, draw_phases
from speceyes.bench.page.curves import (
    Chart,
    Contender,
    Front,
    draw_front,
    over_concurrency,
    over_k,
    over_ranks,
    over_thresholds,
    rolling_window,
)
from speceyes.bench.page.gallery import Card, cards, foremost
from speceyes.bench.page.published import Published, published
from speceyes.bench.page.scores import ScoreCharts, draw_scores
from speceyes.bench.ranking import rank_scores
from speceyes.bench.records import Method, Record
from speceyes.bench.rescore import Case, Sweep, at, outlook, sweep
from speceyes.bench.stats import mean, quantile
from speceyes.bench.summary import PHASES, Entrant, Figures, Gain, Spread, in_common
from speceyes.bench.trials import trials_of
from speceyes.calibration.certificate import Certified
from speceyes.events import Phase
from speceyes.gate import Aggregation, GateSpec, scores_all, squash
from speceyes.types import Generation

KS: Final = (8, 12, 16, 24, 32, 48, 64, 80, 96)  # looked at, as far as the evidence reaches
_TONES: Final = 6  # of entrants whose method is there already
_MOST_STEPS: Final = 600
_SCORES: Final = range(10)  # that SpecReason may give
_SHOWN_SPOILED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a phase took of the queries that went through it; `phase` None: all of a query."""

    phase: Phase | None
    count: int
    spread: Spread
    share: float  # of all seconds that this entrant took


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One kind of error that an entrant's items ended in: how often, and one of its messages."""

    label: str
    name: str
    count: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One entrant on one split: as measured here, and as the paper has its method."""

    split: str
    label: str
    figures: Figures
    gain: Gain | None
    paper: Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoils:
    """The rows of a suite that could not be asked: how many, and the first of them."""

    count: int
    first: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """All that a page shows of one suite. `gate` is that of whoever is gated, if anyone is.

    `looked`: where the gate was in doubt a small model looked closer, with `closer_gate` from then
    on, so that nothing can be said of other gates.
    """

    comparison: Comparison
    tones: Mapping[str, str]  # by label
    letters: Mapping[str, str]  # by label
    gate: GateSpec | None
    closer_gate: GateSpec | None
    looked: bool
    timings: Mapping[str, list[Timing]]
    phases: Bars | None
    depths: Bars
    densities: Mapping[Aggregation, Densities]
    scored: int
    sweep: Sweep | None
    curves: Chart | None
    ks: Chart | None
    concurrencies: Chart | None
    ranks: Chart | None
    window: int
    front: Front | None
    scores: ScoreCharts | None
    holdings: tuple[Holding, ...]
    proposals: Bars | None
    least_score: int | None
    beside: list[Beside]
    failures: list[Failure]
    spoils: Spoils
    cards: list[Card]
    reach: float  # the end of the gallery's score meters: what nearly all scores are below

    @property
    def steps(self) -> dict[str, list[float]] | None:
        """What re-scoring gave, as plain numbers."""
        made = self.sweep
        if made is None:
            return None
        return {
            "thresholds": np.round(made.thresholds, 5).tolist(),
            "accuracy": np.round(made.accuracy, 5).tolist(),
            "speedup": np.round(made.speedup, 4).tolist(),
            "accepted": np.round(made.accepted, 4).tolist(),
        }


def lay_out(
    comparison: Comparison,
    suite: Suite | None,
    *,
    absent: str,
    shown: int,
    gates: Sequence[Certified] = (),
) -> Section:
    """Lay out a comparison, with the suite for its pictures, or the reason why there is none."""
    entrants, summary = comparison.entrants, comparison.summary
    tones, gated = _tones(entrants), _gated(comparison)
    gate = None if gated is None else gated.gate
    looked = any(manifest.settings.depth > 0 for manifest in comparison.manifests.values())
    judged = None if looked else gate  # what other gates would have said can be told of this one
    answers = _scored(_said(comparison), judged)
    ours = [] if judged is None else answers.get(judged.aggregation, [])
    rescored = None if judged is None else _few(sweep(comparison.cases, judged))
    contenders = _contenders(comparison, tones)
    front = list(contenders.values())
    depths = {label: figures.depths for label, figures in summary.overall.figures.items()}
    deepest = max((depth for counts in depths.values() for depth in counts), default=0)
    scores = [score for score, _ in ours] or _last_scores(entrants)
    return Section(
        comparison=comparison,
        tones=tones,
        letters=_letters(entrants),
        gate=gate,
        closer_gate=None if gated is None else gated.closer_gate,
        looked=looked,
        timings={label: _timings(records) for label, records in in_common(entrants).items()},
        phases=draw_phases(summary.overall.figures),
        depths=draw_counts(depths, range(deepest + 1)),
        densities={} if judged is None else _densities(answers, judged),
        scored=len(ours),
        sweep=rescored,
        curves=None if rescored is None else over_thresholds(rescored, rescored.spec.threshold),
        ks=_over_k(comparison.cases, judged),
        concurrencies=over_concurrency(_families(entrants, contenders)),
        ranks=None if judged is None else over_ranks(ours, judged.threshold),
        window=rolling_window(len(ours)),
        front=draw_front(front, rescored),
        scores=_scores(comparison, judged),
        holdings=holding_of(comparison, gates),
        proposals=_proposals(comparison),
        least_score=_least_score(comparison),
        beside=_beside(comparison),
        failures=_failures(entrants),
        spoils=_spoils(entrants),
        cards=cards(entrants, suite, absent=absent, count=shown),
        reach=(quantile(scores, 0.95) or 1.0) * 1.1,
    )


def _tones(entrants: Sequence[Entrant]) -> dict[str, str]:
    # The first of each method has the method's own tone, the others one of a few more in turn.
    tones: dict[str, str] = {}
    more = 0
    for entrant in entrants:
        if entrant.method in tones.values():
            tones[entrant.label] = f"more-{more % _TONES}"
            more += 1
        else:
            tones[entrant.label] = entrant.method
    return tones


def _letters(entrants: Sequence[Entrant]) -> dict[str, str]:
    return {e.label: ascii_lowercase[n % len(ascii_lowercase)] for n, e in enumerate(entrants)}


def _gated(comparison: Comparison) -> Manifest | None:
    # Whoever is gated goes first; the small model's scores are looked at even where nobody is.
    ranked = [m for wanted in ("speceyes", "small") for m in [comparison.summary.label_of(wanted)]]
    return next((comparison.manifests[label] for label in ranked if label is not None), None)


def _last_scores(entrants: Sequence[Entrant]) -> list[float]:
    said = [record.speculation for entrant in entrants for record in entrant.records]
    return [each.score for each in said if each is not None and each.score is not None]


def _said(comparison: Comparison) -> list[tuple[Generation, bool]]:
    # What the small model said, and whether it was right: of all items if it was run alone.
    if comparison.cases:
        return [(c.said, c.small_right) for c in comparison.cases if c.said is not None]
    by = {entrant.method: entrant.records for entrant in reversed(comparison.entrants)}
    return [
        (said.generation, grade(said.text.strip() or None, r.truth, r.options).is_right)
        for r in by.get("small") or by.get("speceyes") or ()
        if (said := r.speculation) is not None and said.generation is not None
    ]


def _scored(
    said: Iterable[tuple[Generation, bool]], gate: GateSpec | None
) -> dict[Aggregation, list[tuple[float, bool]]]:
    # By every aggregation, on the gate's scale; what the gate could not score is left out.
    found: dict[Aggregation, list[tuple[float, bool]]] = {}
    if gate is None:
        return found
    for generation, is_right in said:
        scores = scores_all(
            generation, k=gate.k, definition=gate.definition, bottom_share=gate.bottom_share
        )
        for aggregation, score in (scores or {}).items():
            is_pressed = gate.scale == "squashed" and aggregation != "log"
            value = squash(score) if is_pressed else score
            found.setdefault(aggregation, []).append((value, is_right))
    return found


def _densities(
    answers: Mapping[Aggregation, Sequence[tuple[float, bool]]], gate: GateSpec
) -> dict[Aggregation, Densities]:
    made = {
        aggregation: draw_densities(
            [score for score, is_right in answers.get(aggregation, ()) if is_right],
            [score for score, is_right in answers.get(aggregation, ()) if not is_right],
            threshold=gate.threshold if aggregation == gate.aggregation else None,
            is_share=gate.scale == "squashed" or aggregation == "log",
        )
        for aggregation in get_args(Aggregation)
    }
    return {aggregation: found for aggregation, found in made.items() if found is not None}


def _scores(comparison: Comparison, gate: GateSpec | None) -> ScoreCharts | None:
    if gate is None or comparison.summary.label_of("speceyes") is None:
        return None
    ranking = rank_scores(trials_of([comparison]), gate)
    return None if ranking is None else draw_scores(ranking)


def _few(made: Sweep | None) -> Sweep | None:
    # Of thousands of steps a page shows some hundred, the gate's own among them.
    if made is None or len(made.thresholds) <= _MOST_STEPS:
        return made
    places = np.linspace(0, len(made.thresholds) - 1, _MOST_STEPS).round().astype(int)
    kept = np.unique([*places, at(made, made.spec.threshold)])
    return replace(
        made,
        thresholds=made.thresholds[kept],
        accuracy=made.accuracy[kept],
        speedup=made.speedup[kept],
        accepted=made.accepted[kept],
    )


def _over_k(cases: Sequence[Case], gate: GateSpec | None) -> Chart | None:
    kept = [c.said.evidence for c in cases if c.is_screened and c.said is not None]
    widths = [e.logp_topk.shape[1] for e in kept if e is not None and e.logp_topk.ndim == 2]
    if gate is None or not widths:
        return None
    reached = [k for k in sorted({*KS, gate.k}) if k <= min(widths)]
    outlooks = [outlook(cases, replace(gate, k=k)) for k in reached]
    agent = float(np.mean([case.agent_right for case in cases]))
    return over_k([o for o in outlooks if o is not None], agent_accuracy=agent, k=gate.k)


def _contenders(comparison: Comparison, tones: Mapping[str, str]) -> dict[str, Contender]:
    row, letters = comparison.summary.overall, _letters(comparison.entrants)
    found: dict[str, Contender] = {}
    for entrant in comparison.entrants:
        accuracy, gain = row.figures[entrant.label].accuracy, row.gains.get(entrant.label)
        speedup = 1.0 if entrant.method == "baseline" else None if gain is None else gain.speedup
        if speedup is not None and accuracy.value is not None:
            found[entrant.label] = Contender(
                tone=tones[entrant.label],
                letter=letters[entrant.label],
                accuracy=accuracy.value,
                accuracy_interval=accuracy.interval,
                speedup=speedup,
                speedup_interval=None if gain is None else gain.speedup_interval,
            )
    return found


def _families(
    entrants: Sequence[Entrant], contenders: Mapping[str, Contender]
) -> list[list[tuple[int, Contender]]]:
    by: dict[Method, list[tuple[int, Contender]]] = {}
    for entrant in entrants:
        if entrant.method != "baseline" and entrant.label in contenders:
            point = (entrant.concurrency, contenders[entrant.label])
            by.setdefault(entrant.method, []).append(point)
    return list(by.values())


def _timings(records: Sequence[Record]) -> list[Timing]:
    all_s = sum(record.elapsed_s for record in records) or 1.0
    found = [
        _timing(phase, [r.phase_s[phase] for r in records if phase in r.phase_s], all_s)
        for phase in PHASES
    ]
    found.append(_timing(None, [record.elapsed_s for record in records], all_s))
    return [timing for timing in found if timing is not None]


def _timing(phase: Phase | None, seconds: Sequence[float], all_s: float) -> Timing | None:
    average, middle, high = mean(seconds), quantile(seconds, 0.5), quantile(seconds, 0.95)
    if average is None or middle is None or high is None:
        return None
    spread = Spread(mean_s=average, p50_s=middle, p95_s=high)
    return Timing(phase=phase, count=len(seconds), spread=spread, share=sum(seconds) / all_s)


def _proposals(comparison: Comparison) -> Bars | None:
    proposing, label = comparison.insight.proposing, comparison.summary.label_of("specreason")
    if proposing is None or label is None or not proposing.scores:
        return None
    return draw_counts({label: proposing.scores}, _SCORES)


def _least_score(comparison: Comparison) -> int | None:
    label = comparison.summary.label_of("specreason")
    return None if label is None else comparison.manifests[label].least_score


def _beside(comparison: Comparison) -> list[Beside]:
    found = []
    for row in comparison.summary.splits:
        for entrant in comparison.entrants:
            protocol = comparison.manifests[entrant.label].protocol
            paper = published(comparison.suite.name, protocol).get(row.name, {})
            if entrant.method in paper:
                found.append(
                    Beside(
                        split=row.name,
                        label=entrant.label,
                        figures=row.figures[entrant.label],
                        gain=row.gains.get(entrant.label),
                        paper=paper[entrant.method],
                    )
                )
    return found


def _failures(entrants: Sequence[Entrant]) -> list[Failure]:
    found = []
    for entrant in entrants:
        by: dict[str, list[str]] = {}
        for record in entrant.records:
            if record.mishap is not None:
                by.setdefault(record.mishap.name, []).append(record.mishap.message)
        found += [
            Failure(label=entrant.label, name=name, count=len(told), message=told[0])
            for name, told in by.items()
        ]
    return found


def _spoils(entrants: Sequence[Entrant]) -> Spoils:
    # A row that could not be asked has no question; every item has one.
    ours = foremost(entrants)
    spoiled = [] if ours is None else [r for r in ours.records if not r.question]
    return Spoils(count=len(spoiled), first=tuple(spoiled[:_SHOWN_SPOILED]))
