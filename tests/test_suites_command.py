"""`speceyes suite`: what it shows of a suite, what it writes, how it refuses."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from speceyes.bench.suites.export import export_suite
from speceyes.bench.suites.opening import open_suite
from speceyes.commands.suite import add_suite, inspect_suite, split_names
from tests.suite_folders import hr_row, make_hrbench, make_vstar


def call(*words):
    app = typer.Typer()
    app.callback()(lambda: None)
    add_suite(app)
    return CliRunner().invoke(app, ["suite", *map(str, words)], env={"COLUMNS": "120"})


def broken_hrbench(root, *, broken=2):
    rows = [hr_row(index, answer="E" if index < broken else "A") for index in range(8)]
    return make_hrbench(root, rows=rows)


def test_show_tells_sizes_deviations_and_checksum(tmp_path):
    done = call("show", f"vstar:{make_vstar(tmp_path)}")
    assert done.exit_code == 0, done.output
    assert "6 entries in all" in done.output
    assert "direct_attributes has 3 entries where the release has 115" in done.output
    assert open_suite(f"vstar:{tmp_path}").facts.checksum in done.output
    assert "spoiled" not in done.output


def test_show_names_the_first_spoiled_rows_and_counts_the_others(tmp_path):
    done = call("show", f"hrbench:{broken_hrbench(tmp_path, broken=7)}", "--splits", "8k")
    assert done.exit_code == 0, done.output
    assert "7 spoiled, each of which counts as failed" in done.output
    assert "hr_bench_8k.tsv, row 5: answer 'E' is none of A, B, C, D" in done.output
    assert "row 6" not in done.output
    assert "and 2 more" in done.output


def test_show_json_is_one_document_and_nothing_else(tmp_path):
    done = call("show", f"hrbench:{broken_hrbench(tmp_path)}", "--splits", "8k,4k", "--json")
    assert done.stdout.count("\n") == 1
    made = json.loads(done.stdout)
    assert made["counts"] == {"4k": 8, "8k": 8}
    assert made["deviations"] == {"4k": [8, 800], "8k": [8, 800]}
    assert (made["total"], made["items"], len(made["spoiled"])) == (16, 12, 4)
    assert made["spoiled"][0]["item_id"] == "hrbench-4k@row 1"
    assert "answer 'E'" in made["spoiled"][0]["error"]
    assert made["checksum"] == open_suite(f"hrbench:{tmp_path}").facts.checksum


def test_show_takes_the_settings_that_decide_the_items(tmp_path):
    make_vstar(tmp_path)
    words = ("--seed", 3, "--per-split", 2, "--splits", "relative_position", "--as-released")
    made = json.loads(call("show", f"vstar:{tmp_path}", *words, "--json").stdout)
    assert (made["seed"], made["per_split"], made["as_released"]) == (3, 2, True)
    assert made["counts"] == {"relative_position": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "nosuite"), "suite: 'nosuite' is unknown"),
        (("show", "vstar:./lost"), "vstar:./lost: ./lost is no folder here"),
        (("show", "builtin", "--splits", "4k"), "splits: '4k' is unknown"),
        (("export", "--format", "vstar", "--out", "."), "out: . is not empty"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(words, told):
    done = call(*words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("form", ["vstar", "hrbench", "pope"])
def test_what_export_writes_show_reads(tmp_path, form):
    out = tmp_path / "out"
    done = call("export", "--format", form, "--out", out, "--per-split", 4, "--seed", 2)
    assert done.exit_code == 0, done.output
    assert f"open it as {form}:{out}" in done.output
    made = json.loads(call("show", f"{form}:{out}", "--json").stdout)
    assert set(made["counts"].values()) == {4}
    assert made["spoiled"] == []


def test_export_says_which_questions_it_took(tmp_path):
    done = call("export", "--format", "hrbench", "--out", tmp_path, "--per-split", 4, "--json")
    assert "questions with four options, each in four orders" in done.stderr
    made = json.loads(done.stdout)
    assert made["counts"] == {"4k": 4, "8k": 4}
    assert made["out"] == str(tmp_path)


def test_export_draws_by_the_seed(tmp_path):
    call("export", "--format", "hrbench", "--out", tmp_path / "a", "--per-split", 4, "--seed", 2)
    export_suite("hrbench", tmp_path / "b", per_split=4, seed=2)
    one, other = (open_suite(f"hrbench:{tmp_path / name}").facts for name in "ab")
    assert one.checksum == other.checksum


def test_inspecting_keeps_only_what_is_spoiled(tmp_path):
    found = inspect_suite(open_suite(f"hrbench:{broken_hrbench(tmp_path)}"))
    assert found.items + len(found.spoiled) == found.facts.total == 16
    assert [entry.split for entry in found.spoiled] == ["4k", "4k", "8k", "8k"]


@pytest.mark.parametrize(
    ("text", "names"), [("", ()), (" , ", ()), ("4k", ("4k",)), ("4k, 8k,", ("4k", "8k"))]
)
def test_splits_are_parted_by_commas(text, names):
    assert split_names(text) == names
