"""What runs came to, as one JSON document: what `--json` prints.

It refuses to know terminals and pages. Shares come with their 95 % intervals as [low, high].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from speceyes.bench.comparison import Comparison
from speceyes.bench.insight import Insight
from speceyes.bench.stats import Interval, Share
from speceyes.bench.summary import Figures, Gain, Row

DOCUMENT_VERSION: Final = 2
_GAINS: Final = (
    "accuracy_difference",
    "accuracy_difference_interval",
    "speedup",
    "speedup_interval",
    "share_of_limit",
)


def document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Put all that is known of some runs into one document of plain values."""
    return {
        "document_version": DOCUMENT_VERSION,
        "suites": [_comparison(comparison) for comparison in comparisons],
    }


def demo_document(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Put a demo's figures into one document: those of its one run on top, each by its method."""
    (comparison,) = comparisons
    (run,) = comparison.runs
    manifest, summary = run.manifest, comparison.summary
    made = _comparison(comparison)
    methods = {entrant.method: entrant.label for entrant in comparison.entrants}
    ours = methods.get("speceyes")
    gain = None if ours is None else summary.overall.gains.get(ours)
    funnel = None if ours is None else summary.overall.figures[ours]
    by_method = {method: _flat(made["methods"][label]) for method, label in methods.items()}
    return {
        "document_version": DOCUMENT_VERSION,
        "items": manifest.suite.total,
        "seed": manifest.suite.seed,
        "concurrency": manifest.concurrency,
        "is_partial": comparison.missing > 0,
        "compared": summary.compared,
        "limit": None if funnel is None else funnel.limit,
        **(dict.fromkeys(_GAINS) if gain is None else _gain(gain)),
        **made["parts"],
        **by_method,
        "small": {**by_method.get("small", {}), **made["parts"].get("small", {})},
        "settings": asdict(manifest),
        "started_at": manifest.started_at,
        "commit": manifest.commit,
        "versions": dict(manifest.versions),
        "machine": asdict(manifest.machine),
    }


def _flat(method: Mapping[str, Any]) -> dict[str, Any]:
    counted = ("routes", "reasons", "reject_reasons", "mishaps")
    return {
        **method["all"],
        "per_split": method["splits"],
        **{name: method[name] for name in counted},
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    summary, insight = comparison.summary, comparison.insight
    return {
        "suite": {**asdict(comparison.suite), "deviations": dict(comparison.suite.deviations)},
        "compared": summary.compared,
        "missing": comparison.missing,
        "left_out": summary.left_out,
        "baseline": summary.baseline,
        "methods": {
            entrant.label: {
                "method": entrant.method,
                "run": entrant.run,
                "concurrency": entrant.concurrency,
                "all": _row(summary.overall, entrant.label),
                "splits": {row.name: _row(row, entrant.label) for row in summary.splits},
                "average": asdict(summary.averages[entrant.label]),
                "routes": dict(summary.routes[entrant.label]),
                "reasons": dict(summary.reasons[entrant.label]),
                "reject_reasons": dict(summary.reject_reasons[entrant.label]),
                "mishaps": dict(summary.mishaps[entrant.label]),
            }
            for entrant in comparison.entrants
        },
        "parts": _parts(insight),
        "runs": [{"name": run.name, "manifest": asdict(run.manifest)} for run in comparison.runs],
    }


def _row(row: Row, label: str) -> dict[str, Any]:
    gain = row.gains.get(label)
    return {**_figures(row.figures[label]), **({} if gain is None else _gain(gain))}


def _figures(figures: Figures) -> dict[str, Any]:
    found = {
        **_share("accuracy", figures.accuracy),
        "failed": figures.failed,
        "undecided": figures.undecided,
        "wall_s": figures.wall_s,
        "latency": None if figures.latency is None else asdict(figures.latency),
        "phases": {phase: asdict(spread) for phase, spread in figures.phases.items()},
        "usage": asdict(figures.usage),
        "prompt_tokens_each": figures.prompt_tokens,
        "completion_tokens_each": figures.completion_tokens,
        "depth": figures.depth,
        "depths": {str(depth): count for depth, count in figures.depths.items()},
    }
    if figures.alpha is not None and figures.beta is not None:
        found |= {**_share("alpha", figures.alpha), **_share("beta", figures.beta)}
        found["limit"] = figures.limit
    return found


def _gain(gain: Gain) -> dict[str, Any]:
    return {
        "accuracy_difference": gain.difference,
        "accuracy_difference_interval": _pair(gain.difference_interval),
        "speedup": gain.speedup,
        "speedup_interval": _pair(gain.speedup_interval),
        "share_of_limit": gain.share_of_limit,
    }


def _parts(insight: Insight) -> dict[str, Any]:
    small, agent, proposing = insight.small, insight.agent, insight.proposing
    found: dict[str, Any] = {}
    if insight.screened_right is not None:
        found["screening"] = _share("right", insight.screened_right)
    if small is not None:
        found["small"] = {
            **_share("accuracy_easy", small.easy),
            **_share("accuracy_hard", small.hard),
            "chance_hard": small.chance_hard,
            "auroc": small.auroc,
            "auroc_by_k": {str(k): dict(by) for k, by in small.auroc_by.items()},
        }
    if agent is not None:
        found["agent"] = {
            **_share("accuracy_easy", agent.easy),
            **_share("accuracy_hard", agent.hard),
            **_share("zooms_on_target", agent.zooms_on_target),
            **_share("zooms_covering", agent.zooms_covering),
            "malformed": dict(agent.malformed),
            "forced_answers": agent.forced,
        }
    if insight.accepted is not None:
        found["accepted"] = {
            **_share("easy", insight.accepted.easy),
            **_share("hard", insight.accepted.hard),
            **_share("right", insight.accepted.right),
            "by_looks": _keyed(insight.accepted.by_looks),
        }
    if proposing is not None:
        found["specreason"] = {
            **_share("accepted", proposing.accepted),
            "unscored": proposing.unscored,
            "scores": _keyed(proposing.scores),
        }
    return found


def _keyed(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items()}


def _share(name: str, share: Share) -> dict[str, Any]:
    return {name: share.value, f"{name}_interval": _pair(share.interval), f"{name}_n": share.count}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
