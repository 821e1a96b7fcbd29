"""What the stats come to is worked out here: shares, quantiles, the speedup and its limit, as JSON.

It refuses to know how figures are drawn, and where the stats come from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from speceyes.gateway import series
from speceyes.gateway.calibrated import Calibrated
from speceyes.gateway.series import MILLION, Series
from speceyes.gateway.stats import Labels, Spread, Stats

Scale: TypeAlias = Literal["raw", "share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One name that clients may ask for. `threshold` None: no gate, all goes to the large engine.

    `scale` "share": the gate's scores lie within 0 and 1; "raw": they are separabilities.
    `calibrated`: what is certain of the gate; None: it came without a certificate.
    """

    name: str
    threshold: float | None = None
    scale: Scale = "raw"
    calibrated: Calibrated | None = None


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """How a number of seconds is spread; quantiles are read off a histogram, so they are rough."""

    count: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers the gate scored in each bucket, by verdict; beyond the last bound is one."""

    scale: Scale
    threshold: float | None
    bounds: tuple[float, ...]
    accepted: tuple[int, ...]
    rejected: tuple[int, ...]


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one engine's work."""

    prompt: int
    cached: int
    completion: int


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What the funnel gains. None: nothing to tell yet.

    `alone_s`: the agent's mean time, over the queries that fell back to it and were answered.
    `ours_s`: the mean time of all answers of the funnel, accepted ones and others.
    `estimate` = alone_s / ours_s. It takes the agent's time on queries that fell back for its time
    on all: where those are the harder ones, it is too high. `limit` = 1 / (1 - beta * alpha).
    """

    alone_s: float | None
    ours_s: float | None
    estimate: float | None
    limit: float | None
    share_of_limit: float | None


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of error, and how often an engine or tool came to it."""

    engine: str
    kind: str
    count: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one model, or of all together."""

    requests: int
    routes: dict[str, int]
    reasons: dict[str, dict[str, int]]  # by route
    decided: int
    passed: int
    accepted: int
    alpha: float | None
    beta: float | None
    speed: Speed
    phases: dict[str, Spent]  # those that finished
    answers: dict[str, Spent]  # by route, the funnel's own time
    times: dict[str, Spent]  # by route, the whole request's
    first_byte: dict[str, Spent]
    overhead: dict[str, Spent]
    queue: Spent | None
    scores: Scores | None
    tokens: dict[str, Tokens]
    turns: int
    tool_calls: dict[str, int]
    errors: tuple[Trouble, ...]
    received_bytes: int
    sent_bytes: int


class View:
    """The stats of some models (None: of all), to be asked for counts and spreads."""

    def __init__(self, stats: Stats, models: Collection[str] | None = None) -> None:
        self._counts: dict[str, list[tuple[Labels, int]]] = {}
        self._spreads: dict[str, list[tuple[Labels, Spread]]] = {}
        for (name, *labels), count in stats.counts.items():
            if models is None or labels[0] in models:
                self._counts.setdefault(name, []).append((tuple(labels), count))
        for (name, *labels), spread in stats.spreads.items():
            if models is None or labels[0] in models:
                self._spreads.setdefault(name, []).append((tuple(labels), spread))

    def count(self, what: Series, **only: str) -> int:
        """Add up a counter, over all labels that are not given."""
        return sum(n for labels, n in self._counts.get(what.name, ()) if _fits(what, labels, only))

    def counts(self, what: Series, label: str, **only: str) -> dict[str, int]:
        """Add up a counter for each value of one label."""
        at, found = what.labels.index(label), dict[str, int]()
        for labels, n in self._counts.get(what.name, ()):
            if _fits(what, labels, only):
                found[labels[at]] = found.get(labels[at], 0) + n
        return found

    def spread(self, what: Series, **only: str) -> Spread:
        """Add up a histogram, over all labels that are not given."""
        cells = self._spreads.get(what.name, ())
        return add_up(what, (s for labels, s in cells if _fits(what, labels, only)))

    def spreads(self, what: Series, label: str, **only: str) -> dict[str, Spread]:
        """Add up a histogram for each value of one label."""
        at, found = what.labels.index(label), dict[str, list[Spread]]()
        for labels, spread in self._spreads.get(what.name, ()):
            if _fits(what, labels, only):
                found.setdefault(labels[at], []).append(spread)
        return {value: add_up(what, spreads) for value, spreads in found.items()}


def add_up(what: Series, spreads: Iterable[Spread]) -> Spread:
    """Add spreads of one series."""
    empty: Spread = (0,) * (len(what.buckets) + 2)
    return tuple(map(sum, zip(empty, *spreads, strict=True)))


def quantile(what: Series, spread: Spread, share: float) -> float | None:
    """Read a quantile off a histogram, as if values were spread evenly within each bucket.

    None with no value at all. What lies beyond the last bound is taken for that bound.
    """
    counts = spread[1:]
    total = sum(counts)
    if not total:
        return None
    wanted, below, low = share * total, 0, 0.0
    for bound, count in zip(what.buckets, counts, strict=False):
        if count and below + count >= wanted:
            return low + (bound - low) * max(0.0, wanted - below) / count
        below, low = below + count, bound
    return low


def mean_of(spread: Spread) -> float | None:
    """Give the mean of what a histogram was told; None with no value at all."""
    total = sum(spread[1:])
    return spread[0] / MILLION / total if total else None


def figures_of(stats: Stats, models: Sequence[Model], chosen: Model | None = None) -> Figures:
    """Work out the figures of one model, or of all together."""
    view = View(stats, None if chosen is None else (chosen.name,))
    routes = view.counts(series.REQUESTS, "route")
    stage = view.counts(series.FUNNEL, "stage")
    decided, passed, accepted = (stage.get(s, 0) for s in ("decided", "passed", "accepted"))
    whole = {"outcome": "finished"}
    return Figures(
        requests=sum(routes.values()),
        routes=routes,
        reasons={route: view.counts(series.REQUESTS, "reason", route=route) for route in routes},
        decided=decided,
        passed=passed,
        accepted=accepted,
        alpha=_share(accepted, passed),
        beta=_share(passed, decided),
        speed=speed_of(stats, models if chosen is None else [chosen]),
        phases=_spent(series.PHASE_S, view.spreads(series.PHASE_S, "phase", **whole)),
        answers=_spent(series.ANSWER_S, view.spreads(series.ANSWER_S, "route")),
        times=_spent(series.REQUEST_S, view.spreads(series.REQUEST_S, "route")),
        first_byte=_spent(series.FIRST_BYTE_S, view.spreads(series.FIRST_BYTE_S, "route")),
        overhead=_spent(series.OVERHEAD_S, view.spreads(series.OVERHEAD_S, "route")),
        queue=_spent_of(series.QUEUE_S, view.spread(series.QUEUE_S)),
        scores=_scores(view, models if chosen is None else [chosen]),
        tokens={
            engine: Tokens(
                **{
                    kind: view.count(series.TOKENS, engine=engine, kind=kind)
                    for kind in ("prompt", "cached", "completion")
                }
            )
            for engine in ("small", "large")
        },
        turns=view.count(series.TURNS),
        tool_calls=view.counts(series.TOOLS, "outcome"),
        errors=tuple(
            Trouble(engine=engine, kind=kind, count=count)
            for engine in view.counts(series.ERRORS, "engine")
            for kind, count in view.counts(series.ERRORS, "kind", engine=engine).items()
        ),
        received_bytes=view.count(series.RECEIVED),
        sent_bytes=view.count(series.SENT),
    )


def speed_of(stats: Stats, models: Iterable[Model]) -> Speed:
    """Estimate what the funnel gains, over the models that have one: see `Speed`."""
    decided = View(stats).counts(series.FUNNEL, "model", stage="decided")
    view = View(stats, [model.name for model in models if decided.get(model.name)])
    stage = view.counts(series.FUNNEL, "stage")
    saved = _share(stage.get("accepted", 0), stage.get("decided", 0))  # alpha * beta
    alone_s = mean_of(view.spread(series.PHASE_S, phase="fall_back", outcome="finished"))
    ours_s = mean_of(view.spread(series.ANSWER_S))
    estimate = alone_s / ours_s if alone_s and ours_s else None
    limit = None if saved is None or saved == 1.0 else 1.0 / (1.0 - saved)
    return Speed(
        alone_s=alone_s,
        ours_s=ours_s,
        estimate=estimate,
        limit=limit,
        share_of_limit=None if estimate is None or limit is None else estimate / limit,
    )


def _scores(view: View, models: Sequence[Model]) -> Scores | None:
    gated = [model for model in models if model.threshold is not None]
    scales = {model.scale for model in gated}
    if len(scales) != 1:
        return None  # no gate at all, or scores that are not of one scale
    thresholds = {model.threshold for model in gated}
    return Scores(
        scale=scales.pop(),
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        bounds=series.SCORE.buckets,
        accepted=view.spread(series.SCORE, verdict="accepted")[1:],
        rejected=view.spread(series.SCORE, verdict="rejected")[1:],
    )


def _spent(what: Series, spreads: dict[str, Spread]) -> dict[str, Spent]:
    return {
        name: spent
        for name, spread in spreads.items()
        if (spent := _spent_of(what, spread)) is not None
    }


def _spent_of(what: Series, spread: Spread) -> Spent | None:
    mean_s = mean_of(spread)
    if mean_s is None:
        return None
    p50_s, p95_s, p99_s = (quantile(what, spread, share) or 0.0 for share in (0.5, 0.95, 0.99))
    return Spent(count=sum(spread[1:]), mean_s=mean_s, p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _fits(what: Series, labels: Labels, only: dict[str, str]) -> bool:
    return all(labels[what.labels.index(label)] == value for label, value in only.items())
