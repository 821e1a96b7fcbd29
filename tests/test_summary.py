"""Figures of a run: hand-made records whose sums are known."""

from dataclasses import replace

import pytest

from speceyes.bench.document import Run, document
from speceyes.bench.grade import Grade
from speceyes.bench.records import Record, Speculation, Turn
from speceyes.bench.summary import BlockTime, box_holds, summarise
from speceyes.types import Box, Usage
from tests.scripted_pair import setup, tiny_items, tiny_run

RIGHT, WRONG = Grade("right", "star", "says so"), Grade("wrong", "ring", "says so")
TARGET = Box(100, 100, 112, 112)
SURE = Speculation("star", True, 9.0, "accepted", {16: {"min": 9.0, "mean": 9.5}})
UNSURE = Speculation("ring", False, 2.0, "below_threshold", {16: {"min": 2.0, "mean": 9.6}})


def a_record(item_id, method="baseline", **more):
    fields = {
        "method": method,
        "block": 0,
        "item_id": item_id,
        "split": "attribute",
        "kind": "shape",
        "is_hard": False,
        "question": "What?",
        "options": ("star", "ring", "disc", "cross"),
        "truth": "star",
        "targets_px": (TARGET,),
        "text": "star",
        "mishap": None,
        "grade": RIGHT,
        "route": "agentic",
        "reason": "agent_only",
        "p_tool": None,
        "needs_tool": None,
        "speculation": None,
        "turns": (),
        "depth": 1,
        "usage_by_phase": {"fall_back": Usage(100, 0, 50, 1)},
        "phase_s": {"fall_back": 3.5},
        "elapsed_s": 4.0,
    }
    return Record(**(fields | more))


def accepted(item_id, **more):
    fields = {
        "route": "speculative",
        "reason": "accepted",
        "needs_tool": False,
        "p_tool": 0.1,
        "speculation": SURE,
        "depth": 0,
        "usage_by_phase": {"screen": Usage(80, 0, 1, 1), "speculate": Usage(80, 0, 2, 1)},
        "phase_s": {"screen": 0.2, "speculate": 0.3},
        "elapsed_s": 1.0,
    }
    return a_record(item_id, "speceyes", **(fields | more))


def sent_on(item_id, **more):
    fields = {"needs_tool": True, "p_tool": 0.9, "reason": "needs_tool", "elapsed_s": 4.0}
    return a_record(item_id, "speceyes", **(fields | more))


def rejected(item_id, **more):
    return accepted(
        item_id,
        route="agentic",
        reason="below_threshold",
        speculation=UNSURE,
        elapsed_s=5.0,
        **more,
    )


# Four items: two accepted, one rejected, one sent on. beta = 3/4, alpha = 2/3, limit = 2.
FOUR = [
    *(a_record(i) for i in "abcd"),
    accepted("a"),
    accepted("b"),
    rejected("c"),
    sent_on("d"),
]
TIMES = [BlockTime(0, "baseline", 4, 18.0), BlockTime(0, "speceyes", 4, 12.0)]


def test_alpha_beta_limit_and_speedup():
    whole = summarise(FOUR, TIMES, concurrency=1).overall
    assert (whole.beta.successes, whole.beta.count) == (3, 4)
    assert (whole.alpha.successes, whole.alpha.count) == (2, 3)
    assert whole.limit == pytest.approx(2.0)
    assert whole.speedup == pytest.approx(18.0 / 12.0)
    assert whole.share_of_limit == pytest.approx(0.75)
    assert (whole.baseline.wall_s, whole.speceyes.wall_s) == (18.0, 12.0)


def test_a_split_is_timed_by_its_own_queries():
    row = summarise(FOUR, TIMES, concurrency=1).rows[0]
    assert (row.name, row.speedup) == ("attribute", pytest.approx(16.0 / 11.0))
    assert row.baseline.wall_s is None


def test_only_finished_blocks_are_timed_and_only_common_items_compared():
    cut = [r for r in FOUR if (r.method, r.item_id) != ("speceyes", "d")]
    whole = summarise(cut, TIMES[:1], concurrency=1).overall
    assert (whole.speedup, whole.speedup_interval, whole.speceyes.wall_s) == (None, None, None)
    assert whole.baseline.accuracy.count == whole.speceyes.accuracy.count == 3


def test_with_concurrency_blocks_are_the_units_of_the_interval():
    times = [
        BlockTime(b, m, 2, s) for b in range(4) for m, s in (("baseline", 9.0), ("speceyes", 6.0))
    ]
    interval = summarise(FOUR, times, concurrency=6).overall.speedup_interval
    assert (interval.low, interval.high) == pytest.approx((1.5, 1.5))


def test_failures_count_as_wrong_and_are_shown():
    lost = replace(sent_on("d"), text=None, route=None, reason=None, grade=WRONG)
    summary = summarise([*FOUR[:-1], lost], TIMES, concurrency=1)
    assert summary.overall.speceyes.failed == 1
    assert summary.overall.speceyes.accuracy.successes == 3
    assert summary.routes == {"speculative": 2, "agentic": 1, "failed": 1}
    assert summary.overall.difference == pytest.approx(-0.25)


def test_routes_and_reasons_are_counted():
    summary = summarise(FOUR, TIMES, concurrency=1)
    assert summary.routes == {"speculative": 2, "agentic": 2}
    assert summary.reasons == {"accepted": 2, "below_threshold": 1, "needs_tool": 1}
    assert summary.reject_reasons == {"below_threshold": 1}


def test_the_screen_is_right_when_it_sends_the_hard_ones_only():
    records = [
        *FOUR,
        a_record("e"),
        sent_on("e", is_hard=True),
        a_record("f"),
        accepted("f", is_hard=True),
    ]
    screened = summarise(records, TIMES, concurrency=1).screened_right
    assert (screened.successes, screened.count) == (4, 6)  # d is easy, f is hard


def test_the_small_model_alone():
    small = [
        a_record("a", "small", speculation=SURE),
        a_record("b", "small", speculation=UNSURE, grade=WRONG, is_hard=True),
        a_record("c", "small", speculation=None, grade=WRONG, text=None, is_hard=True, options=()),
    ]
    figures = summarise([*FOUR, *small], TIMES, concurrency=1).small
    assert (figures.easy.value, figures.hard.value) == (1.0, 0.0)
    assert figures.chance_hard == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert figures.auroc == 1.0
    assert figures.auroc_by == {16: {"min": 1.0, "mean": 0.0, "bottom": None, "log": None}}


def test_zooms_of_hard_items_that_meet_their_target():
    on, part, off = Box(90, 90, 130, 130), Box(90, 90, 108, 108), Box(0, 0, 50, 50)
    turns = [
        Turn(n, "", "call", "zoom", forced=False, boxes_px=(box,))
        for n, box in enumerate((on, part, off), 1)
    ]
    bad = Turn(4, "", "malformed", "bad_json", forced=True)
    hard = a_record("e", is_hard=True, turns=(*turns, bad))
    agent = summarise([*FOUR, hard, a_record("f", turns=(turns[2],))], TIMES, concurrency=1).agent
    assert (agent.zooms_on_target.successes, agent.zooms_on_target.count) == (2, 3)
    assert (agent.zooms_covering.successes, agent.zooms_covering.count) == (1, 3)
    assert (agent.malformed, agent.forced) == ({"bad_json": 1}, 1)


def test_a_box_of_another_picture_holds_nothing():
    assert box_holds(Box(0, 0, 200, 200), TARGET, whole=True)
    assert not box_holds(Box(0, 0, 200, 200, picture_index=1), TARGET, whole=False)


def test_times_and_tokens_are_means_per_item():
    base = summarise(FOUR, TIMES, concurrency=1).overall.baseline
    assert (base.latency_mean_s, base.latency_p50_s) == (4.0, 4.0)
    assert base.phase_mean_s == {"screen": 0.0, "speculate": 0.0, "gate": 0.0, "fall_back": 3.5}
    assert (base.prompt_tokens, base.completion_tokens, base.depth) == (100.0, 50.0, 1.0)
    assert base.depths == {1: 4}


def test_nothing_at_all_has_a_summary_without_figures():
    whole = summarise([], [], concurrency=1).overall
    assert (whole.speedup, whole.limit, whole.difference) == (None, None, None)
    assert whole.speceyes.accuracy.value is None


def test_the_document_has_what_is_promised():
    run = tiny_run()
    made = document(run, summarise(run.records, run.times, concurrency=1))
    assert made["items"] == 60
    for field in (
        "seed",
        "concurrency",
        "speedup",
        "limit",
        "share_of_limit",
        "commit",
        "versions",
    ):
        assert field in made
    assert {"accuracy", "wall_s", "per_split"} <= set(made["baseline"])
    promised = {"accuracy", "wall_s", "alpha", "beta", "per_split", "routes", "reject_reasons"}
    assert promised <= set(made["speceyes"])
    assert {"accuracy_easy", "accuracy_hard", "auroc"} <= set(made["small"])
    assert sum(made["speceyes"]["routes"].values()) == 60
    assert made["settings"]["gate"]["threshold"] == run.setup.gate.threshold
    assert set(made["speceyes"]["per_split"]) == {"attribute", "position", "existence"}


def test_the_document_of_an_empty_run_is_plain_too():
    run = Run(setup=setup(tiny_items(3)), records=[], times=[], is_partial=True)
    made = document(run, summarise([], [], concurrency=1))
    assert made["is_partial"]
    assert made["speedup"] is None
