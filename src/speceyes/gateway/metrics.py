"""The stats are put as Prometheus reads them here: every declared series, and no other.

It refuses to know how anything is counted. Nothing is kept between two readings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from speceyes.gateway import series
from speceyes.gateway.figures import Model, figures_of
from speceyes.gateway.reports import Whole
from speceyes.gateway.series import MILLION, Series
from speceyes.gateway.shadowing import Shadowed
from speceyes.gateway.stats import Labels, Spread

_Value = tuple[Labels, float]


def expose(whole: Whole, models: Sequence[Model], *, accept: str = "") -> tuple[bytes, str]:
    """Give the metrics as text, in the format that a client accepts, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(lambda: families(whole, models)))
    encode, content_type = choose_encoder(accept)
    text: bytes = encode(registry)
    return text, content_type


def families(whole: Whole, models: Sequence[Model]) -> Iterator[Metric]:
    """Give every series, also those that counted nothing yet, in the order of their table."""
    stats = whole.stats
    for what in series.COUNTERS:
        cells = ((c[1:], float(n)) for c, n in sorted(stats.counts.items()) if c[0] == what.name)
        yield _plain(CounterMetricFamily(what.name, what.help, labels=what.labels), cells)
    for what in series.HISTOGRAMS:
        family = HistogramMetricFamily(what.name, what.help, labels=what.labels)
        for cell, spread in sorted(stats.spreads.items()):
            if cell[0] == what.name:
                family.add_metric(list(cell[1:]), _buckets(what, spread), spread[0] / MILLION)
        yield family
    values = _gauges(whole, models)
    for what in series.GAUGES:
        gauge = GaugeMetricFamily(what.name, what.help, labels=what.labels)
        yield _plain(gauge, values[what.name])


class _Given(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def _plain(
    family: CounterMetricFamily | GaugeMetricFamily, values: Iterable[_Value]
) -> CounterMetricFamily | GaugeMetricFamily:
    for labels, value in values:
        family.add_metric(list(labels), value)
    return family


def _buckets(what: Series, spread: Spread) -> list[tuple[str, float]]:
    # Prometheus wants each bucket to hold those before it, too.
    below, found = 0, []
    for bound, count in zip((*map(_bound, what.buckets), "+Inf"), spread[1:], strict=True):
        below += count
        found.append((bound, float(below)))
    return found


def _bound(value: float) -> str:
    return str(float(value))


def _gauges(whole: Whole, models: Sequence[Model]) -> Mapping[str, Iterable[_Value]]:
    now = whole.now
    shown = {model.name: figures_of(whole.stats, models, model) for model in models}
    return {
        series.IN_FLIGHT.name: [((), now.in_flight)],
        series.QUEUED.name: [((), now.queued)],
        series.WORKERS.name: [((), now.workers)],
        series.STARTED.name: [((), whole.since_s)],
        series.BREAKER.name: [
            ((model, engine, state), count)
            for model, engines in now.breakers.items()
            for engine, states in engines.items()
            for state, count in states.items()
        ],
        series.THRESHOLD.name: _measured({m.name: m.threshold for m in models}),
        series.ALPHA.name: _measured({name: f.alpha for name, f in shown.items()}),
        series.BETA.name: _measured({name: f.beta for name, f in shown.items()}),
        series.SPEEDUP.name: _measured({name: f.speed.estimate for name, f in shown.items()}),
        series.LIMIT.name: _measured({name: f.speed.limit for name, f in shown.items()}),
        **_shadow_gauges(now.shadows),
    }


def _shadow_gauges(shadows: Mapping[str, Shadowed]) -> Mapping[str, Iterable[_Value]]:
    told = shadows.items()
    return {
        series.SHADOW_STATE.name: [
            ((model, state), count) for model, one in told for state, count in one.states.items()
        ],
        series.SHADOW_THRESHOLD.name: [((model,), one.threshold) for model, one in told],
        series.DISAGREEMENT.name: [
            ((model, bound), value)
            for model, one in told
            for bound, value in msgspec.structs.asdict(one.disagreement).items()
            if value is not None
        ],
        series.SHADOW_RISK.name: [
            ((model, bound), value)
            for model, one in told
            for bound, value in (("value", one.risk), ("limit", one.max_loss))
            if value is not None
        ],
        series.DRIFT.name: _measured({model: one.psi for model, one in told}),
        series.DRIFTED.name: [((model,), one.drifted) for model, one in told],
    }


def _measured(by_model: Mapping[str, float | None]) -> list[_Value]:
    return [((name,), value) for name, value in by_model.items() if value is not None]
