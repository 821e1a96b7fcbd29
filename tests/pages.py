"""Comparisons to make pages of: whole and partial runs, several runs, several suites, failures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from speceyes.bench.comparison import NAMES, compare
from speceyes.bench.grade import grade
from speceyes.bench.records import Look, Mishap
from speceyes.types import Box
from tests.scripted_pair import ListSuite, drawn_run, tiny_run

ALL = tuple(NAMES)
VSTAR = {
    "attribute": "direct_attributes",
    "position": "relative_position",
    "existence": "relative_position",
}


def only(run, *methods):
    """Give a run in which only these methods took part."""
    kept = tuple(record for record in run.records if record.method in methods)
    return replace(run, records=kept, manifest=replace(run.manifest, methods=methods))


def with_records(run, change):
    """Give a run whose records are changed one by one."""
    return replace(run, records=tuple(change(record) for record in run.records))


def failed(record):
    """Give a record of the same item that ended in an error."""
    told = Mishap("EngineTimeout", "the engine did not answer within 30 s; ask it for less")
    lost = grade(None, record.truth, record.options)
    return replace(record, text=None, mishap=told, grade=lost, route=None, speculation=None)


def squashed(run):
    """Give a run as if its gate had been the paper's, but for K."""
    gate = replace(run.manifest.gate, scale="squashed", threshold=0.98)
    return replace(run, manifest=replace(run.manifest, gate=gate))


def as_vstar(run):
    """Give a run as if it had been made on a part of V*."""
    suite = replace(
        run.manifest.suite,
        name="vstar",
        source="vstar:data/vstar",
        checksum="vstar",
        counts={"direct_attributes": 2, "relative_position": 4},
        released={"direct_attributes": 115, "relative_position": 76},
    )
    moved = with_records(run, lambda record: replace(record, split=VSTAR[record.split]))
    return replace(moved, name="on V*", manifest=replace(run.manifest, suite=suite))


def more_at_once(run, concurrency, name):
    """Give a run as if so many queries had been under way at once."""
    manifest = replace(run.manifest, concurrency=concurrency)
    return replace(only(run, "baseline", "speceyes"), name=name, manifest=manifest)


@cache
def drawn(count=6):
    """Compare all four methods over scenes; gives (comparisons, suites by checksum)."""
    run, items = drawn_run(count, pace=0.02, methods=ALL)
    return compare([run]), {run.manifest.suite.checksum: ListSuite(items)}


@cache
def crowded(count=6):
    """Compare several runs on two suites; gives (comparisons, suites by checksum)."""
    run, items = drawn_run(count, pace=0.02, methods=ALL)
    runs = [
        run,
        more_at_once(run, 4, "four"),
        more_at_once(run, 8, "eight"),
        as_vstar(squashed(run)),
    ]
    return compare(runs), {run.manifest.suite.checksum: ListSuite(items)}


@cache
def tiny(count=60):
    """Compare all four methods over tiny pictures, without a suite."""
    return compare([tiny_run(count, methods=ALL)])


@cache
def looking(count=6):
    """Compare runs whose small model looked closer; gives (comparisons, suites by checksum)."""
    run, items = drawn_run(count, pace=0.02, methods=("baseline", "speceyes"))
    settings = replace(run.manifest.settings, depth=1)
    manifest = replace(
        run.manifest,
        settings=settings,
        closer_gate=replace(run.manifest.gate, threshold=run.manifest.gate.threshold / 2),
    )
    looked = with_records(replace(run, manifest=manifest), _looked)
    return compare([looked]), {run.manifest.suite.checksum: ListSuite(items)}


def _looked(record):
    said = record.speculation
    if record.method != "speceyes" or said is None:
        return record
    look = Look("in doubt", "[8, 8, 24, 24]", Box(96, 96, 288, 288))
    return replace(record, speculation=replace(said, looks=(look,)))
