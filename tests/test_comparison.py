"""Runs side by side: what is compared with what, what each is called, and their document."""

import json
from dataclasses import replace

import pytest

from speceyes.bench.comparison import NAMES, compare
from speceyes.bench.document import demo_document, document
from speceyes.errors import RunFolderError
from tests.scripted_pair import GATE, tiny_run

RUN = tiny_run(12)
ALL = tiny_run(12, methods=tuple(NAMES))


def another(run, name, **more):
    return replace(run, name=name, manifest=replace(run.manifest, **more))


def only(run, method):
    return replace(run, records=tuple(r for r in run.records if r.method == method))


def test_methods_of_one_run_go_by_their_names():
    (made,) = compare([ALL])
    assert list(made.summary.methods) == ["agent alone", "SpecEyes", "SpecReason", "small alone"]
    assert made.summary.baseline == "agent alone"
    assert set(made.summary.overall.gains) == {"SpecEyes", "SpecReason", "small alone"}


def test_runs_of_one_method_are_told_apart_by_what_differs():
    strict = another(only(RUN, "speceyes"), "two", gate=replace(GATE, threshold=6.0, k=32))
    (made,) = compare([only(RUN, "baseline"), another(only(RUN, "speceyes"), "one"), strict])
    assert list(made.summary.methods) == [
        "agent alone",
        "SpecEyes (threshold 5, K 16)",
        "SpecEyes (threshold 6, K 32)",
    ]
    assert made.manifests["SpecEyes (threshold 6, K 32)"].gate.threshold == 6.0


def test_runs_that_do_not_differ_go_by_their_folders():
    (made,) = compare([another(RUN, "one"), another(RUN, "two")])
    assert "SpecEyes (one)" in made.summary.methods
    assert "SpecEyes (two)" in made.summary.methods


def test_suites_are_never_mixed():
    other = another(RUN, "other", suite=replace(RUN.manifest.suite, checksum="other"))
    made = compare([RUN, other, another(RUN, "again")])
    assert [[run.name for run in one.runs] for one in made] == [["scripted", "again"], ["other"]]


@pytest.mark.parametrize("runs", [[], [replace(RUN, records=())]])
def test_without_a_record_there_is_nothing_to_compare(runs):
    with pytest.raises(RunFolderError, match="nothing was answered yet"):
        compare(runs)


def test_what_is_still_to_come_is_counted():
    assert compare([replace(RUN, records=RUN.records[:-5])])[0].missing == 5
    assert compare([RUN])[0].missing == 0


def test_the_document_has_every_entrant_with_its_figures():
    made = json.loads(json.dumps(document(compare([ALL]))))
    (suite,) = made["suites"]
    assert set(suite["methods"]) == set(NAMES.values())
    ours = suite["methods"]["SpecEyes"]
    assert {"accuracy", "accuracy_interval", "alpha", "beta", "limit", "speedup"} <= set(
        ours["all"]
    )
    assert set(ours["splits"]) == {"attribute", "position", "existence"}
    assert sum(ours["routes"].values()) == 12
    assert suite["parts"]["specreason"]["accepted_n"] > 0
    assert suite["runs"][0]["manifest"]["gate"]["threshold"] == GATE.threshold
    assert suite["suite"]["checksum"] == RUN.manifest.suite.checksum


def test_a_demos_document_has_what_is_promised():
    made = json.loads(json.dumps(demo_document(compare([RUN]))))
    promised = {"items", "seed", "concurrency", "speedup", "limit", "share_of_limit", "commit"}
    assert promised | {"versions", "machine", "is_partial", "compared"} <= set(made)
    assert (made["items"], made["seed"], made["concurrency"]) == (12, 7, 1)
    assert {"accuracy", "wall_s", "per_split"} <= set(made["baseline"])
    of_ours = {"accuracy", "wall_s", "alpha", "beta", "per_split", "routes", "reject_reasons"}
    assert of_ours <= set(made["speceyes"])
    assert {"accuracy_easy", "accuracy_hard", "auroc", "accuracy"} <= set(made["small"])
    assert sum(made["speceyes"]["routes"].values()) == 12
    assert made["settings"]["gate"]["threshold"] == GATE.threshold
    assert set(made["speceyes"]["per_split"]) == {"attribute", "position", "existence"}


def test_a_demo_cut_short_before_its_second_method_is_plain_too():
    made = demo_document(compare([only(RUN, "baseline")]))
    assert made["is_partial"]
    assert made["speedup"] is None
    assert "speceyes" not in made
