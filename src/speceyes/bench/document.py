"""A run's figures become one JSON document here: what `speceyes demo --json` prints.

It refuses to know terminals and pages. Shares come with their 95 % intervals as [low, high].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from speceyes.bench.grade import GRADER_VERSION
from speceyes.bench.machine import Machine
from speceyes.bench.records import RECORD_VERSION, Record
from speceyes.bench.stats import Interval, Share
from speceyes.bench.summary import ALL, BlockTime, Comparison, MethodFigures, Summary
from speceyes.gate import GateSpec
from speceyes.screen import ScreenSpec

DOCUMENT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run was to do, and with what: all that is known before its first item."""

    items: int
    seed: int
    concurrency: int
    small: str
    large: str
    protocol: str
    gate: GateSpec
    screen: ScreenSpec
    started_at: str  # ISO 8601, UTC
    commit: str | None
    versions: Mapping[str, str]
    machine: Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that a run left behind, be it whole or cut short."""

    setup: Setup
    records: Sequence[Record]
    times: Sequence[BlockTime]
    is_partial: bool


def document(run: Run, summary: Summary) -> dict[str, Any]:
    """Put everything known of a run into one document of plain values."""
    setup, whole = run.setup, summary.overall
    return {
        "items": setup.items,
        "seed": setup.seed,
        "concurrency": setup.concurrency,
        "is_partial": run.is_partial,
        "compared": whole.speceyes.accuracy.count,
        "speedup": whole.speedup,
        "speedup_interval": _pair(whole.speedup_interval),
        "limit": whole.limit,
        "share_of_limit": whole.share_of_limit,
        "accuracy_difference": whole.difference,
        "accuracy_difference_interval": _pair(whole.difference_interval),
        "baseline": {
            **_method(whole.baseline),
            "per_split": {row.name: _method(row.baseline) for row in _splits(summary)},
        },
        "speceyes": {
            **_method(whole.speceyes),
            **_funnel(whole),
            "per_split": {
                row.name: {**_method(row.speceyes), **_funnel(row), **_gain(row)}
                for row in _splits(summary)
            },
            "routes": dict(summary.routes),
            "reasons": dict(summary.reasons),
            "reject_reasons": dict(summary.reject_reasons),
        },
        "screening": _share("right", summary.screened_right),
        "small": {
            **_share("accuracy_easy", summary.small.easy),
            **_share("accuracy_hard", summary.small.hard),
            "chance_hard": summary.small.chance_hard,
            "auroc": summary.small.auroc,
            "auroc_by_k": {str(k): dict(by) for k, by in summary.small.auroc_by.items()},
        },
        "agent": {
            **_share("accuracy_easy", summary.agent.easy),
            **_share("accuracy_hard", summary.agent.hard),
            **_share("zooms_on_target", summary.agent.zooms_on_target),
            **_share("zooms_covering", summary.agent.zooms_covering),
            "malformed": dict(summary.agent.malformed),
            "forced_answers": summary.agent.forced,
        },
        "blocks": [asdict(time) for time in run.times],
        "settings": {
            "small": setup.small,
            "large": setup.large,
            "protocol": setup.protocol,
            "gate": asdict(setup.gate),
            "screen": asdict(setup.screen),
            "grader_version": GRADER_VERSION,
            "record_version": RECORD_VERSION,
            "document_version": DOCUMENT_VERSION,
        },
        "started_at": setup.started_at,
        "commit": setup.commit,
        "versions": dict(setup.versions),
        "machine": asdict(setup.machine),
    }


def _splits(summary: Summary) -> list[Comparison]:
    return [row for row in summary.rows if row.name != ALL]


def _method(figures: MethodFigures) -> dict[str, Any]:
    return {
        **_share("accuracy", figures.accuracy),
        "failed": figures.failed,
        "wall_s": figures.wall_s,
        "latency_s": {
            "mean": figures.latency_mean_s,
            "p50": figures.latency_p50_s,
            "p95": figures.latency_p95_s,
        },
        "phase_mean_s": dict(figures.phase_mean_s),
        "tokens": {"prompt": figures.prompt_tokens, "completion": figures.completion_tokens},
        "depth": figures.depth,
        "depths": {str(depth): count for depth, count in figures.depths.items()},
    }


def _funnel(row: Comparison) -> dict[str, Any]:
    return {**_share("alpha", row.alpha), **_share("beta", row.beta)}


def _gain(row: Comparison) -> dict[str, Any]:
    return {
        "accuracy_difference": row.difference,
        "accuracy_difference_interval": _pair(row.difference_interval),
        "speedup": row.speedup,
        "speedup_interval": _pair(row.speedup_interval),
        "limit": row.limit,
        "share_of_limit": row.share_of_limit,
    }


def _share(name: str, share: Share) -> dict[str, Any]:
    return {name: share.value, f"{name}_interval": _pair(share.interval), f"{name}_n": share.count}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
