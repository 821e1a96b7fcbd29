"""Runs are set side by side here: which were made on the same items, and what each is called.

It refuses to know files and how figures are shown. Runs of different suites are never mixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from speceyes.bench.folder import Run
from speceyes.bench.insight import Insight, look_into
from speceyes.bench.items import SuiteFacts
from speceyes.bench.manifest import Manifest
from speceyes.bench.records import Method, Record
from speceyes.bench.rescore import Case, cases_of
from speceyes.bench.summary import Entrant, Summary, summarise
from speceyes.errors import RunFolderError

NAMES: Final[Mapping[Method, str]] = {
    "baseline": "agent alone",
    "speceyes": "SpecEyes",
    "specreason": "SpecReason",
    "small": "small alone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that was run on one suite: `runs` by their names, and who took part, by label."""

    suite: SuiteFacts
    runs: tuple[Run, ...]
    entrants: tuple[Entrant, ...]
    manifests: Mapping[str, Manifest]  # by the entrant's label
    summary: Summary
    insight: Insight
    cases: Sequence[Case]

    @property
    def missing(self) -> int:
        """How many records are still to come, in all runs."""
        return sum(run.missing for run in self.runs)


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Set runs side by side, suite by suite, in the order in which they are given.

    Raises: RunFolderError if there is no run, or if none has a record.
    """
    if not any(run.records for run in runs):
        raise RunFolderError("run", "nothing was answered yet; there is nothing to report")
    by: dict[str, list[Run]] = {}
    for run in runs:
        by.setdefault(run.manifest.suite.checksum, []).append(run)
    return [_compare(group) for group in by.values()]


def _compare(runs: Sequence[Run]) -> Comparison:
    parted = [(run, method, found) for run in runs for method, found in _by_method(run.records)]
    labels = _labels([(run, method) for run, method, _ in parted])
    entrants = tuple(
        Entrant(
            label=label,
            method=method,
            records=found,
            concurrency=run.manifest.concurrency,
            run=run.name,
        )
        for label, (run, method, found) in zip(labels, parted, strict=True)
    )
    return Comparison(
        suite=runs[0].manifest.suite,
        runs=tuple(runs),
        entrants=entrants,
        manifests={label: run.manifest for label, (run, _, _) in zip(labels, parted, strict=True)},
        summary=summarise(entrants),
        insight=look_into(entrants),
        cases=cases_of(entrants),
    )


def _by_method(records: Iterable[Record]) -> list[tuple[Method, list[Record]]]:
    by: dict[Method, list[Record]] = {}
    for record in records:
        by.setdefault(record.method, []).append(record)
    return [(method, by[method]) for method in NAMES if method in by]


def _labels(parted: Sequence[tuple[Run, Method]]) -> list[str]:
    # A method that is there more than once is told apart by what differs between its runs.
    counts = Counter(method for _, method in parted)
    labels = []
    for run, method in parted:
        name = NAMES[method]
        if counts[method] > 1:
            others = [other for other, found in parted if found == method]
            told = _difference(run, others)
            name = f"{name} ({told or run.name})"
        labels.append(name)
    if len(set(labels)) == len(labels):
        return labels
    return [f"{NAMES[method]} ({run.name or place})" for place, (run, method) in enumerate(parted)]


def _difference(run: Run, others: Sequence[Run]) -> str:
    told = {name: _settings(other.manifest) for name, other in enumerate(others)}
    mine = _settings(run.manifest)
    differing = [key for key in mine if len({entry[key] for entry in told.values()}) > 1]
    return ", ".join(f"{key} {mine[key]}" for key in differing)


def _settings(manifest: Manifest) -> dict[str, str]:
    gate = manifest.gate
    return {
        "threshold": f"{gate.threshold:.4g}",
        "K": str(gate.k),
        "aggregation": gate.aggregation,
        "definition": gate.definition,
        "policy": manifest.policy,
        "screen": manifest.settings.screen_by,
        "concurrency": str(manifest.concurrency),
        "protocol": manifest.protocol,
        "small": manifest.small,
        "large": manifest.large,
    }
