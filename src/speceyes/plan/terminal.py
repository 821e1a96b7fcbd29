"""A plan is shown on a terminal here, and put into one document of plain values.

It refuses to know how it was simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from speceyes.plan.drive import Arrivals, Closed, Forecast
from speceyes.plan.fitting import Fit
from speceyes.plan.formulas import Costs
from speceyes.plan.papers import BatchFit, PairFit, mean_residual
from speceyes.plan.sizing import Sizing, knee

_MISSING: Final = "–"
_BASELINE: Final = "agent_only"
_COLUMNS: Final = ("mean", "p95", "per s", "gain", "right", "GPU s", "busy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One forecast under its threshold, with its speedup over the agent alone in the same load."""

    threshold: float | None
    forecast: Forecast
    speedup: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """All that a plan came to: `costs` by threshold, for one query after the other."""

    source: str
    costs: tuple[tuple[float | None, Costs], ...]
    rows: tuple[Row, ...]
    sizings: tuple[tuple[float | None, str, Sizing], ...]  # threshold, policy


def rows_of(forecasts: Sequence[tuple[float | None, Forecast]]) -> tuple[Row, ...]:
    """Put forecasts beside the agent alone under the same load.

    The gain is in mean latency where queries come by themselves, in throughput where callers wait.
    """
    bases = {
        load_of(found.scenario.arrivals): found
        for _, found in forecasts
        if found.scenario.policy == _BASELINE
    }
    return tuple(
        Row(
            threshold=None if found.scenario.policy == _BASELINE else threshold,
            forecast=found,
            speedup=_speedup(bases.get(load_of(found.scenario.arrivals)), found),
        )
        for threshold, found in forecasts
    )


def load_of(arrivals: Arrivals) -> str:
    """Name a load."""
    return f"{arrivals.callers} at once" if isinstance(arrivals, Closed) else f"{arrivals.rate:g}/s"


def knees_of(planned: Planned) -> dict[tuple[str, float | None], Forecast]:
    """Give the knee of each policy at each threshold, where several loads were tried."""
    by: dict[tuple[str, float | None], list[Forecast]] = {}
    for row in planned.rows:
        by.setdefault((row.forecast.scenario.policy, row.threshold), []).append(row.forecast)
    made = {key: knee(found) for key, found in by.items() if len(found) > 1}
    return {key: found for key, found in made.items() if found is not None}


def show_plan(console: Console, planned: Planned) -> None:
    """Show formulas, forecasts, knees and sizes."""
    for threshold, costs in planned.costs:
        at = "" if threshold is None else f" at threshold {threshold:.4g}"
        limit = _MISSING if costs.limit is None else f"{costs.limit:.2f}x"
        looked = ""
        if costs.looked is not None:
            looked = f"looks {costs.looks_s:.4g} s, {costs.looked:.3f} accepted after one, "
        told = (
            f"{planned.source}{at}: beta {costs.beta:.3f}, alpha {costs.alpha:.3f}, "
            f"c_J {costs.screen_s:.4g} s, c_S {costs.speculate_s:.4g} s, {looked}agent "
            f"{costs.agent_s:.4g} s; one after the other {costs.seconds:.4g} s a query, "
            f"limit {limit}"
        )
        console.print(told, highlight=False, markup=False)
    _show_rows(console, planned)
    for (policy, threshold), found in knees_of(planned).items():
        at = "" if threshold is None else f" at {threshold:.4g}"
        console.print(
            f"knee of {policy}{at}: {load_of(found.scenario.arrivals)}, "
            f"{found.throughput:.3g} queries/s at {_seconds(found.mean_s)}",
            highlight=False,
            markup=False,
        )
    for threshold, policy, sizing in planned.sizings:
        at = "" if threshold is None else f" at {threshold:.4g}"
        console.print(f"{policy}{at}: {told_size(sizing)}", highlight=False, markup=False)


def told_size(sizing: Sizing) -> str:
    """Say how many servers a rate takes."""
    asked = f"{sizing.rate:g} queries/s within {sizing.p95_s:g} s for 95 %"
    found = sizing.forecast
    if found is None:
        best = "queries pile up" if sizing.best.is_overloaded else _seconds(sizing.best.p95_s)
        return f"no number of servers does {asked}: with ample ones {best}"
    small, large = found.scenario.small.replicas, found.scenario.large.replicas
    return (
        f"{asked} takes {large} large and {small} small: p95 {_seconds(found.p95_s)}, busy "
        f"{found.large.utilisation:.0%} and {found.small.utilisation:.0%}"
    )


def document(planned: Planned) -> dict[str, Any]:
    """Put a plan into one document of plain values."""
    return {
        "source": planned.source,
        "costs": [
            {"threshold": t, **asdict(c), "seconds": c.seconds, "limit": c.limit}
            for t, c in planned.costs
        ],
        "forecasts": [
            {"threshold": row.threshold, "speedup": row.speedup, **plain(row.forecast)}
            for row in planned.rows
        ],
        "knees": [
            {"policy": policy, "threshold": threshold, "load": load_of(found.scenario.arrivals)}
            for (policy, threshold), found in knees_of(planned).items()
        ],
        "sizes": [
            {
                "threshold": threshold,
                "policy": policy,
                "rate": sizing.rate,
                "p95_s": sizing.p95_s,
                "found": None if sizing.forecast is None else plain(sizing.forecast),
                "best": plain(sizing.best),
            }
            for threshold, policy, sizing in planned.sizings
        ],
    }


def plain(found: Forecast) -> dict[str, Any]:
    """Put a forecast into plain values."""
    scenario = found.scenario
    return {
        "policy": scenario.policy,
        "load": load_of(scenario.arrivals),
        "arrivals": asdict(scenario.arrivals),
        "screen_by": scenario.screen_by,
        "seed": scenario.seed,
        "servers": {"small": asdict(scenario.small), "large": asdict(scenario.large)},
        **{
            name: getattr(found, name)
            for name in (
                "queries",
                "mean_s",
                "p50_s",
                "p95_s",
                "p99_s",
                "throughput",
                "speculative",
                "accuracy",
                "gpu_s",
                "cost",
                "is_overloaded",
            )
        },
        "small": {**asdict(found.small), "utilisation": found.small.utilisation},
        "large": {**asdict(found.large), "utilisation": found.large.utilisation},
    }


def show_fit(console: Console, fit: Fit) -> None:
    """Show how much calls slow each other, and how near the plan comes to what that is from."""
    for name, servers in (("large", fit.large), ("small", fit.small)):
        console.print(
            f"fitted   {name}: slowdown {servers.slowdown:.3f}, crowding {servers.crowding:.3f}, "
            f"bend {servers.bend:.2f}",
            highlight=False,
        )
    for one in fit.found:
        console.print(
            f"         {one.policy}, {one.callers} at once: {one.seen_s:.3g} s seen, "
            f"{one.found_s:.3g} s with it",
            highlight=False,
        )


def show_published(console: Console, batches: Sequence[BatchFit], pairs: Sequence[PairFit]) -> None:
    """Show what the formula makes of the paper's tables."""
    table = Table(box=SIMPLE_HEAD, title="1 / speedup = rest + front / batch", pad_edge=False)
    for name in ("", "rest", "front", "foretold, published", "mean off"):
        table.add_column(name, justify="right" if name else "left")
    for fit in batches:
        told = ", ".join(
            f"{p.foretold:.2f} {p.published:.2f}" for p in fit.points if not p.is_fitted
        )
        table.add_row(fit.name, f"{fit.rest:.3f}", f"{fit.front:.3f}", told, _share(fit.points))
    console.print(table, highlight=False, markup=False)
    table = Table(
        box=SIMPLE_HEAD, title="Thyme's from DeepEyes', threshold by threshold", pad_edge=False
    )
    for name in ("", "slope", "foretold, published", "mean off"):
        table.add_column(name, justify="right" if name else "left")
    for pair in pairs:
        told = ", ".join(f"{p.foretold:.2f} {p.published:.2f}" for p in pair.points)
        table.add_row(pair.name, f"{pair.slope:.2f}", told, _share(pair.points))
    console.print(table, highlight=False, markup=False)


def _show_rows(console: Console, planned: Planned) -> None:
    loads = dict.fromkeys(load_of(row.forecast.scenario.arrivals) for row in planned.rows)
    has_cost = any(row.forecast.cost for row in planned.rows)
    for load in loads:
        table = Table(box=SIMPLE_HEAD, title=load, title_justify="left", pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in (*_COLUMNS, *(("cost",) if has_cost else ())):
            table.add_column(name, justify="right", no_wrap=True)
        for row in planned.rows:
            if load_of(row.forecast.scenario.arrivals) == load:
                table.add_row(*_cells(row, has_cost=has_cost))
        console.print(table, highlight=False, markup=False)
    console.print(
        "Seconds; GPU seconds and cost are of 1,000 queries; busy: percent, large and small.",
        style="dim",
        highlight=False,
    )


def _cells(row: Row, *, has_cost: bool) -> list[str]:
    found, late = row.forecast, row.forecast.is_overloaded
    at = "" if row.threshold is None else f" {row.threshold:.4g}"
    times = (found.mean_s, found.p95_s)
    cells = [
        f"{found.scenario.policy}{at}",
        *("piles up" if late else _MISSING if s is None else f"{s:.3g}" for s in times),
        f"{found.throughput:.3g}",
        _MISSING if row.speedup is None or late else f"{row.speedup:.2f}x",
        _MISSING if found.accuracy is None else f"{100 * found.accuracy:.1f}",
        f"{found.gpu_s:.3g}",
        f"{100 * found.large.utilisation:.0f},{100 * found.small.utilisation:.0f}",
    ]
    return [*cells, f"{found.cost:.3g}"] if has_cost else cells


def _share(points: Sequence[Any]) -> str:
    off = mean_residual(points)
    return _MISSING if off is None else f"{off:.1%}"


def _speedup(base: Forecast | None, found: Forecast) -> float | None:
    if base is None or base is found or base.is_overloaded or not base.mean_s or not found.mean_s:
        return None
    if isinstance(found.scenario.arrivals, Closed):
        return found.throughput / base.throughput
    return base.mean_s / found.mean_s


def _seconds(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3g} s"
