"""The command plans: by hand, from a run, fitted to others, and the paper's tables."""

import json
from dataclasses import replace

import pytest

from speceyes.bench.page.published import tables
from speceyes.config import Settings
from speceyes.plan.papers import fit_batches, fit_pair, fit_published, mean_residual
from tests.command_line import call
from tests.scripted_pair import tiny_run
from tests.test_calibrating import kept


def test_the_papers_batches_follow_from_the_smallest_and_the_largest():
    batches, pairs = fit_published(tables())
    assert len(batches) == len(pairs) == 7
    for fit in batches:
        assert mean_residual(fit.points) < 0.03
        assert 0.0 < fit.front < 0.3
        assert 0.2 < fit.rest < 0.9
    for pair in pairs:
        assert mean_residual(pair.points) < 0.16


def test_fits_worked_out_by_hand():
    made = fit_batches("x", [0, 1, 2, 4], [1, 1 / 0.7, 1 / 0.6, 1 / 0.55])
    assert (made.rest, made.front) == pytest.approx((0.5, 0.2))
    assert mean_residual(made.points) is None
    pair = fit_pair("x", [3, 2, 1], ([1.0, 2.0, 4.0], [1 / 0.7, 1 / 0.45, 1 / 0.325]))
    assert (pair.slope, pair.start) == pytest.approx((0.5, 0.2))
    assert mean_residual(pair.points) == pytest.approx(0.0, abs=1e-9)


BY_HAND = [
    "--beta",
    ".6",
    "--alpha",
    ".9",
    "--screen-s",
    ".05",
    "--speculate-s",
    ".1",
    "--turn-s",
    "1",
    "--depth",
    "0:.4,1:.6",
]


def test_the_command_plans_by_hand(tmp_path):
    out = tmp_path / "plan.html"
    words = [*BY_HAND, "--queries", "150", "--rate", ".2", "--policy", "agent_only,race"]
    words += ["--target-rate", ".5", "--target-p95", "9", "--html", out, "--large-price", "3"]
    done = call("plan", *words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [f["policy"] for f in told["forecasts"]] == ["agent_only", "race"]
    assert told["forecasts"][0]["cost"] > 0.0
    assert told["sizes"][0]["found"]["servers"]["large"]["replicas"] == 1
    assert "limit 2.17x" in " ".join(done.stderr.split())
    assert out.exists()


def test_the_command_plans_from_a_run(tmp_path):
    folder = kept(tmp_path / "run", tiny_run(60))
    words = ("--queries", "100", "--concurrency", "1,2", "--threshold", "4,99")
    done = call("plan", folder, *words, "--policy", "agent_only,serial", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [cost["alpha"] > 0 for cost in told["costs"]] == [True, False]
    assert len(told["forecasts"]) == 2 * 3
    assert {(knee["policy"], knee["threshold"]) for knee in told["knees"]} == {
        ("agent_only", None),
        ("serial", 4.0),
        ("serial", 99.0),
    }


def test_the_command_fits_a_run_under_load(tmp_path):
    run = tiny_run(60)
    loaded = replace(
        run,
        manifest=replace(run.manifest, concurrency=4),
        records=[replace(r, elapsed_s=1.5 * r.elapsed_s) for r in run.records],
    )
    alone, under = kept(tmp_path / "run", run), kept(tmp_path / "loaded", loaded)
    words = ("--queries", "100", "--concurrency", "4", "--policy", "agent_only,serial", "--json")
    done = call("plan", alone, "--fit", under, *words)
    assert done.exit_code == 0, done.output
    assert "fitted   large: slowdown 0." in done.stderr
    assert "agent_only, 4 at once" in done.stderr
    told = json.loads(done.stdout)
    large = told["forecasts"][0]["servers"]["large"]
    assert 0.1 < large["slowdown"] < 0.5  # half as long again for at most three in company
    assert (
        told["forecasts"][0]["mean_s"]
        > json.loads(call("plan", alone, *words).stdout)["forecasts"][0]["mean_s"]
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, "fit: needs baseline and speceyes with several queries at once"),
        ({"concurrency": 4, "large": "other"}, "fit: its large model is other, not"),
    ],
)
def test_a_run_that_nothing_can_be_fitted_to_is_refused(tmp_path, change, complaint):
    run = tiny_run(60)
    folder = kept(tmp_path / "run", run)
    other = kept(tmp_path / "other", replace(run, manifest=replace(run.manifest, **change)))
    done = call("plan", folder, "--fit", other)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert call("plan", *BY_HAND, "--fit", other).exit_code == 2


def test_the_command_drives_the_real_funnel_too():
    words = [*BY_HAND, "--queries", "40", "--policy", "serial", "--concurrency", "3", "--json"]
    rehearsed, real = (json.loads(call("plan", *words, *more).stdout) for more in ((), ("--real",)))
    assert rehearsed["forecasts"][0]["mean_s"] == pytest.approx(real["forecasts"][0]["mean_s"])


def test_the_command_foretells_the_papers_tables():
    done = call("plan", "--published", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["batches"]) == 7


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "beta: is missing: give a run's folder, or --beta, --alpha"),
        (BY_HAND[2:], "beta: is missing"),
        ((*BY_HAND, "--policy", "hope"), "policy: 'hope' is unknown"),
        ((*BY_HAND, "--concurrency", "some"), "concurrency: 'some' holds what is no number"),
        ((*BY_HAND, "--target-rate", "2"), "target_rate: goes with --target-p95"),
        ((*BY_HAND[:-1], "deep"), "depth: 'deep' is no depth"),
        (("nowhere", "--beta", ".5"), "run: goes without figures by hand"),
    ],
)
def test_the_command_refuses(words, complaint):
    done = call("plan", *words)
    assert done.exit_code == 2
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"concurrency": 6}, "its queries overlapped (6 at once)"),
        ({"settings": Settings(depth=1), "policy": "race"}, "its policy is race, under which"),
    ],
)
def test_a_run_of_which_no_plan_can_be_made_is_refused(tmp_path, change, complaint):
    run = tiny_run(60)
    folder = kept(tmp_path / "run", replace(run, manifest=replace(run.manifest, **change)))
    done = call("plan", folder)
    assert done.exit_code == 2
    assert complaint in done.stderr
