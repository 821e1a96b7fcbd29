"""`speceyes bench` and `speceyes sweep`: what is asked of whom, what is left, how runs go on."""

import json

import pytest

from speceyes.bench.folder import read_run
from speceyes.bench.records import Method
from speceyes.commands.bench import parse_concurrency, parse_methods, with_preset
from speceyes.config import Settings
from speceyes.engines.replay import ReplayEngine
from speceyes.errors import ConfigError
from speceyes.gate import PAPER, GateSpec
from speceyes.screen import PAPER_SCREEN, ScreenSpec
from speceyes.settings_file import Choices
from tests.command_line import call
from tests.scripted_pair import GATE
from tests.test_cli import interrupting
from tests.test_cli import pair as pair  # noqa: PLC0414 - a fixture

METHODS: tuple[Method, ...] = ("baseline", "speceyes", "specreason", "small")


def bench(tmp_path, *words):
    return call("bench", "builtin", "--out", tmp_path / "run", *words)


def test_all_methods_are_run_in_turns_unless_some_are_named(pair, tmp_path):
    done = bench(tmp_path)
    assert done.exit_code == 0, done.output
    run = read_run(tmp_path / "run")
    assert run.manifest.methods == METHODS
    assert run.missing == 0
    for word in ("agent alone", "SpecEyes", "SpecReason", "small alone", "proposals accepted"):
        assert word in done.output


def test_only_the_methods_named_are_run(pair, tmp_path):
    bench(tmp_path, "--method", "small", "--method", "baseline")
    assert read_run(tmp_path / "run").manifest.methods == ("baseline", "small")


def test_the_same_command_goes_on_with_a_run_that_was_cut_short(pair, tmp_path):
    answers = pair.large
    interrupting(pair, 30)
    assert bench(tmp_path).exit_code == 130
    before = read_run(tmp_path / "run")
    assert 0 < len(before.records) < 36
    pair.large = answers
    done = bench(tmp_path)
    assert done.exit_code == 0, done.output
    after = read_run(tmp_path / "run")
    assert after.missing == 0
    assert after.records[: len(before.records)] == before.records


def test_a_run_that_is_done_is_shown_again_and_nothing_is_asked(pair, tmp_path):
    bench(tmp_path)
    pair.large = ReplayEngine(lambda _: pytest.fail("asked again"), name="large")
    pair.small = ReplayEngine(lambda _: pytest.fail("asked again"), name="scripted small")
    again = bench(tmp_path)
    assert again.exit_code == 2  # another engine
    assert "large was 'scripted large', is 'large'" in again.stderr


def test_another_run_in_the_folder_is_refused_and_anew_replaces_it(pair, tmp_path):
    bench(tmp_path)
    other = bench(tmp_path, "--concurrency", 2)
    assert other.exit_code == 2
    assert "concurrency was 1, is 2" in other.stderr
    assert bench(tmp_path, "--concurrency", 2, "--anew").exit_code == 0
    assert read_run(tmp_path / "run").manifest.concurrency == 2


def test_several_concurrencies_are_a_run_each_and_one_report(pair, tmp_path):
    done = bench(tmp_path, "--concurrency", "1,3", "--method", "baseline", "--method", "speceyes")
    assert done.exit_code == 0, done.output
    for count in (1, 3):
        assert read_run(tmp_path / "run" / f"concurrency-{count}").manifest.concurrency == count
    made = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert "SpecEyes (concurrency 3)" in made["suites"][0]["methods"]


def test_the_threshold_alone_can_be_moved(pair, tmp_path):
    bench(tmp_path, "--threshold", 99, "--method", "speceyes")
    run = read_run(tmp_path / "run")
    assert run.manifest.gate == GateSpec(threshold=99.0, k=GATE.k)
    assert {record.route for record in run.records} == {"agentic"}


def test_the_preset_is_written_down_with_all_it_sets(pair, tmp_path):
    done = bench(tmp_path, "--preset", "paper")
    assert done.exit_code == 0, done.output
    made = read_run(tmp_path / "run").manifest
    assert (made.preset, made.concurrency, made.gate) == ("paper", 6, PAPER)
    asked = pair.asked
    assert asked["screen"] == PAPER_SCREEN
    assert (asked["settings"].max_turns, asked["settings"].max_tokens_per_turn) == (6, 512)
    assert asked["settings"].max_answer_tokens == 20


def test_json_is_one_document_last(pair, tmp_path):
    done = bench(tmp_path, "--json")
    made = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    parts = {"screening", "small", "agent", "accepted", "specreason"}
    assert set(made["suites"][0]["parts"]) == parts


@pytest.mark.parametrize(
    ("protocol", "budget"), [("deepeyes", (6, 512)), ("qwen3-vl", (None, None))]
)
def test_budgets_of_the_preset_are_those_of_the_reference_where_it_has_any(protocol, budget):
    made = with_preset(Choices(protocol=protocol), "paper")
    assert (made.settings.max_turns, made.settings.max_tokens_per_turn) == budget


def test_a_thinking_small_model_gets_room_to_think():
    assert with_preset(Choices(), "paper-thinking").settings.max_answer_tokens == 1024


def test_what_was_chosen_goes_before_the_preset():
    own = Choices(
        gate=GateSpec(threshold=3.0, k=16),
        screen=ScreenSpec(threshold=0.2),
        settings=Settings(max_turns=2, max_answer_tokens=7),
    )
    made = with_preset(own, "paper")
    assert (made.gate, made.screen) == (own.gate, own.screen)
    assert (made.settings.max_turns, made.settings.max_tokens_per_turn) == (2, 512)
    assert made.settings.max_answer_tokens == 7


def test_without_a_preset_nothing_is_touched():
    assert with_preset(Choices(), None) == Choices()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--method", "best"), "method: 'best' is unknown; choose from baseline, speceyes"),
        (("--preset", "pepper"), "preset: 'pepper' is unknown; choose from paper"),
        (("--screen", "both"), "screen: 'both' is unknown; choose from large, small, none"),
        (("--concurrency", "1,x"), "concurrency: '1,x' is no number"),
        (("--concurrency", "0"), "concurrency: '0' is to be of different numbers above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(pair, tmp_path, words, complaint):
    done = bench(tmp_path, *words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"speceyes: {complaint}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suite", ["mmmu", "vstar:/nowhere", "jsonl:", "builtin:none"])
def test_a_suite_that_is_none_is_refused(suite, tmp_path):
    done = call("bench", suite, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert done.stderr.startswith("speceyes: ")
    assert not (tmp_path / "run").exists()


def test_methods_come_in_their_own_order():
    assert parse_methods(["small", "baseline"]) == ("baseline", "small")
    assert parse_methods(None) == METHODS


def test_concurrency_is_one_or_the_papers():
    assert parse_concurrency("", None, suite="pope") == (1,)
    assert parse_concurrency("", "paper", suite="pope") == (6,)
    assert parse_concurrency("1,2, 4", "paper", suite="pope") == (1, 2, 4)
    assert parse_concurrency("paper", None, suite="hrbench") == (1, 2, 4)
    for text, suite in (("2,2", "pope"), ("paper", "builtin")):
        with pytest.raises(ConfigError):
            parse_concurrency(text, None, suite=suite)


def test_a_sweep_tries_other_gates_on_what_was_kept(pair, tmp_path):
    bench(tmp_path)
    done = call("sweep", tmp_path / "run", "--k", "8,16", "--thresholds", "4,99", "--json")
    assert done.exit_code == 0, done.output
    (suite,) = json.loads(done.stdout)["suites"]
    gates = [(point["gate"]["k"], point["gate"]["threshold"]) for point in suite["points"]]
    assert gates == [(8, 4.0), (8, 99.0), (16, 4.0), (16, 99.0)]
    assert [point["accepted"] for point in suite["points"]][1::2] == [0.0, 0.0]
    assert set(suite["points"][0]["splits"]) == {"attribute", "position", "existence"}
    assert json.loads((tmp_path / "run" / "sweep.json").read_text(encoding="utf-8"))["suites"]


@pytest.mark.parametrize("preset", ["thresholds", "k", "aggregations", "definitions", "paper"])
def test_every_preset_of_a_sweep_has_its_gates(pair, tmp_path, preset):
    bench(tmp_path)
    done = call("sweep", tmp_path / "run", "--preset", preset, "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["suites"][0]["points"]) >= 2
    assert "agent alone:" in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--preset", "all"), "preset: 'all' is unknown"),
        (("--preset", "k", "--k", "8"), "preset: goes without other settings"),
        (("--k", "eight"), "k: 'eight' holds what is no number"),
        (("--k", "1"), "gate.k: 1 is below 3"),
        (("--aggregations", "max"), "aggregations: 'max' is unknown; choose from min"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(pair, tmp_path, words, complaint):
    bench(tmp_path)
    done = call("sweep", tmp_path / "run", *words)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"speceyes: {complaint}")


def test_a_sweep_of_a_run_whose_small_model_looked_closer_is_refused(pair, tmp_path):
    bench(tmp_path, "--depth", "1")
    done = call("sweep", tmp_path / "run")
    assert done.exit_code == 2
    assert "give runs made with depth 0" in done.stderr


def test_a_sweep_needs_both_methods(pair, tmp_path):
    bench(tmp_path, "--method", "small")
    done = call("sweep", tmp_path / "run")
    assert done.exit_code == 2
    assert "needs the methods baseline and speceyes" in done.stderr


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    done = call("sweep", tmp_path)
    assert done.exit_code == 2
    assert "holds no run" in done.stderr
