"""Figures of a run: hand-made records whose sums are known."""

from dataclasses import replace

import pytest

from speceyes.bench.grade import Grade
from speceyes.bench.insight import box_holds, look_into
from speceyes.bench.records import Look, Proposal, Record, Speculation, Turn
from speceyes.bench.summary import Entrant, block_walls, summarise
from speceyes.types import Box, Usage

RIGHT, WRONG = Grade("right", "star", "says so"), Grade("wrong", "ring", "says so")
TARGET = Box(100, 100, 112, 112)
SURE = Speculation("star", True, 9.0, "accepted", {16: {"min": 9.0, "mean": 9.5}})
UNSURE = Speculation("ring", False, 2.0, "below_threshold", {16: {"min": 2.0, "mean": 9.6}})


def a_record(item_id, method="baseline", **more):
    fields = {
        "method": method,
        "block": 0,
        "part": 0,
        "ended_s": 0.0,
        "item_id": item_id,
        "split": "attribute",
        "kind": "shape",
        "is_hard": False,
        "question": "What?",
        "options": ("star", "ring", "disc", "cross"),
        "truth": "star",
        "released_order": (),
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
BASE = [a_record(i) for i in "abcd"]
OURS = [accepted("a"), accepted("b"), rejected("c"), sent_on("d")]


def entrants(*, concurrency=1, **by_method):
    """Put records into entrants, labelled by their methods."""
    return [
        Entrant(label=m, method=m, records=records, concurrency=concurrency, run="one")
        for m, records in by_method.items()
    ]


FOUR = entrants(baseline=BASE, speceyes=OURS)


def test_alpha_beta_limit_and_speedup():
    whole = summarise(FOUR).overall
    ours, gain = whole.figures["speceyes"], whole.gains["speceyes"]
    assert (ours.beta.successes, ours.beta.count) == (3, 4)
    assert (ours.alpha.successes, ours.alpha.count) == (2, 3)
    assert ours.limit == pytest.approx(2.0)
    assert gain.speedup == pytest.approx(16.0 / 11.0)
    assert gain.share_of_limit == pytest.approx(16.0 / 11.0 / 2.0)
    assert whole.figures["baseline"].alpha is None
    assert "baseline" not in whole.gains


def test_without_a_screen_all_that_was_speculated_on_counts_as_screened():
    ours = [accepted("a", needs_tool=None, p_tool=None), rejected("b", needs_tool=None)]
    figures = summarise(entrants(speceyes=ours)).overall.figures["speceyes"]
    assert (figures.beta.value, figures.alpha.value) == (1.0, 0.5)


def test_splits_are_those_of_the_records_in_their_order():
    base = [a_record(i, split=s) for i, s in zip("abc", ("8k", "4k", "8k"), strict=True)]
    ours = [accepted("a", split="8k"), accepted("b", split="4k"), sent_on("c", split="8k")]
    summary = summarise(entrants(baseline=base, speceyes=ours))
    assert [row.name for row in summary.rows] == ["8k", "4k", "all"]
    assert [row.gains["speceyes"].speedup for row in summary.splits] == [8.0 / 5.0, 4.0]


def test_the_average_lets_every_split_count_alike():
    base = [a_record(i, split=s) for i, s in zip("abc", ("8k", "4k", "8k"), strict=True)]
    ours = [accepted("a", split="8k", grade=WRONG), accepted("b", split="4k")]
    ours.append(sent_on("c", split="8k", grade=WRONG))
    average = summarise(entrants(baseline=base, speceyes=ours)).averages["speceyes"]
    assert average.accuracy == pytest.approx((0.0 + 1.0) / 2)
    assert average.speedup == pytest.approx((8.0 / 5.0 + 4.0) / 2)


def test_only_common_items_are_compared_and_the_rest_is_counted():
    summary = summarise(entrants(baseline=BASE, speceyes=OURS[:-1]))
    counts = {label: f.accuracy.count for label, f in summary.overall.figures.items()}
    assert (counts, summary.compared, summary.left_out) == ({"baseline": 3, "speceyes": 3}, 3, 1)


def test_a_block_lasts_from_its_first_start_to_its_last_end_pauses_left_out():
    records = [
        a_record("a", ended_s=4.0),  # 0 to 4
        a_record("b", ended_s=6.0),  # 2 to 6
        a_record("c", block=1, ended_s=10.0),  # 6 to 10
        a_record("d", block=1, part=1, ended_s=5.0),  # 1 to 5, after a kill
    ]
    assert block_walls(records) == {0: 6.0, 1: 8.0}


def test_with_concurrency_the_wall_clock_of_whole_blocks_decides():
    def in_block(record, block, ended_s):
        return replace(record, block=block, ended_s=ended_s)

    base = [in_block(a_record(i), b, 4.0 + b) for i, b in zip("abcd", (0, 0, 1, 1), strict=True)]
    ours = [accepted(i, block=b, ended_s=2.0) for i, b in zip("abc", (0, 0, 1), strict=True)]
    whole = summarise(entrants(concurrency=6, baseline=base, speceyes=ours)).overall
    gain = whole.gains["speceyes"]
    assert gain.speedup == pytest.approx(4.0 / 1.0)  # block 1 is not whole
    assert gain.speedup_interval is None
    assert whole.figures["baseline"].wall_s == pytest.approx(8.0)


def test_with_concurrency_blocks_are_the_units_of_the_interval():
    base = [a_record(str(n), block=n, ended_s=9.0, elapsed_s=9.0) for n in range(4)]
    ours = [accepted(str(n), block=n, ended_s=6.0, elapsed_s=6.0) for n in range(4)]
    row = summarise(entrants(concurrency=6, baseline=base, speceyes=ours)).overall
    interval = row.gains["speceyes"].speedup_interval
    assert (interval.low, interval.high) == pytest.approx((1.5, 1.5))


def test_runs_made_apart_are_compared_by_their_seconds_an_item():
    base = [a_record(str(n), ended_s=8.0) for n in range(2)]
    ours = [accepted(str(n), ended_s=2.0) for n in range(4)]
    one, two = entrants(concurrency=6, baseline=base, speceyes=ours)
    gain = summarise([one, replace(two, run="two")]).overall.gains["speceyes"]
    assert gain.speedup == pytest.approx((4.0 / 2) / (1.0 / 4))
    assert gain.speedup_interval is None


def test_every_entrant_is_compared_with_the_baseline_of_its_own_run_if_there_is_one():
    slow = [replace(record, elapsed_s=8.0) for record in BASE]
    pairs = [("b1", "baseline", BASE, "one"), ("s1", "speceyes", OURS, "one")]
    pairs += [("b2", "baseline", slow, "two"), ("s2", "speceyes", OURS, "two")]
    pairs += [("s3", "speceyes", OURS, "three")]
    made = [Entrant(label=name, method=m, records=r, run=run) for name, m, r, run in pairs]
    gains = summarise(made).overall.gains
    assert {label: round(gain.speedup * 11.0) for label, gain in gains.items()} == {
        "s1": 16, "s2": 32, "s3": 16,
    }  # fmt: skip


def test_failures_count_as_wrong_and_are_shown():
    lost = replace(sent_on("d"), text=None, route=None, reason=None, grade=WRONG)
    summary = summarise(entrants(baseline=BASE, speceyes=[*OURS[:-1], lost]))
    figures = summary.overall.figures["speceyes"]
    assert (figures.failed, figures.accuracy.successes) == (1, 3)
    assert summary.routes["speceyes"] == {"speculative": 2, "agentic": 1, "failed": 1}
    assert summary.overall.gains["speceyes"].difference == pytest.approx(-0.25)


def test_undecided_grades_are_counted_and_not_right():
    unsure = replace(OURS[0], grade=Grade("undecided", None, "names two options"))
    figures = summarise(entrants(speceyes=[unsure, *OURS[1:]])).overall.figures["speceyes"]
    assert (figures.undecided, figures.accuracy.successes) == (1, 3)


def test_routes_and_reasons_are_counted():
    summary = summarise(FOUR)
    assert summary.routes["speceyes"] == {"speculative": 2, "agentic": 2}
    reasons = {"accepted": 2, "below_threshold": 1, "needs_tool": 1}
    assert summary.reasons["speceyes"] == reasons
    assert summary.reject_reasons["speceyes"] == {"below_threshold": 1}


def test_the_screen_is_right_when_it_sends_the_hard_ones_only():
    ours = [*OURS, sent_on("e", is_hard=True), accepted("f", is_hard=True)]
    screened = look_into(entrants(speceyes=ours)).screened_right
    assert (screened.successes, screened.count) == (4, 6)  # d is easy, f is hard


def test_what_was_accepted_is_told_by_difficulty_and_by_looks():
    looked = replace(SURE, looks=(Look("disc", "[0, 0, 9, 9]", Box(0, 0, 9, 9)),))
    ours = [*OURS, a_record("e", "speceyes", speculation=looked, is_hard=True)]
    found = look_into(entrants(speceyes=ours)).accepted
    taken = [record for record in ours if record.speculation and record.speculation.accepted]
    assert found.by_looks == {0: len(taken) - 1, 1: 1}
    assert (found.hard.successes, found.easy.successes) == (1, len(taken) - 1)
    assert (found.right.count, found.easy.count + found.hard.count) == (len(taken), len(ours))


def test_nothing_is_told_of_accepted_answers_where_there_are_none():
    assert look_into(entrants(baseline=BASE)).accepted is None


def test_what_a_suite_does_not_say_is_left_out():
    ours = [replace(record, is_hard=None) for record in OURS]
    base = [replace(record, is_hard=None) for record in BASE]
    insight = look_into(entrants(baseline=base, speceyes=ours))
    assert (insight.screened_right, insight.small, insight.proposing) == (None, None, None)
    assert insight.agent.easy.value is None


def test_the_small_model_alone():
    small = [
        a_record("a", "small", speculation=SURE),
        a_record("b", "small", speculation=UNSURE, grade=WRONG, is_hard=True),
        a_record("c", "small", speculation=None, grade=WRONG, text=None, is_hard=True, options=()),
    ]
    figures = look_into(entrants(baseline=BASE, speceyes=OURS, small=small)).small
    assert (figures.easy.value, figures.hard.value) == (1.0, 0.0)
    assert figures.chance_hard == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert figures.auroc == 1.0
    assert figures.auroc_by == {16: {"min": 1.0, "mean": 0.0, "bottom": None, "log": None}}


def a_turn(number, reply, detail, *, forced=False, **more):
    place = {"at_s": 1.0, "engine": "large", "usage": Usage.zero}
    return Turn(number, "", reply, detail, forced=forced, **place, **more)


def test_zooms_of_hard_items_that_meet_their_target():
    on, part, off = Box(90, 90, 130, 130), Box(90, 90, 108, 108), Box(0, 0, 50, 50)
    turns = [a_turn(n, "call", "zoom", boxes_px=(b,)) for n, b in enumerate((on, part, off), 1)]
    bad = a_turn(4, "malformed", "bad_json", forced=True)
    hard = a_record("e", is_hard=True, turns=(*turns, bad))
    base = [*BASE, hard, a_record("f", turns=(turns[2],))]
    agent = look_into(entrants(baseline=base)).agent
    assert (agent.zooms_on_target.successes, agent.zooms_on_target.count) == (2, 3)
    assert (agent.zooms_covering.successes, agent.zooms_covering.count) == (1, 3)
    assert (agent.malformed, agent.forced) == ({"bad_json": 1}, 1)


def test_proposals_are_counted_by_their_scores():
    made = [
        Proposal("a", 8, accepted=True, usage=Usage.zero),
        Proposal("b", 3, accepted=False, usage=Usage.zero),
        Proposal(None, None, accepted=False, usage=Usage.zero),
    ]
    turns = tuple(a_turn(n, "answer", "a", proposal=p) for n, p in enumerate(made, 1))
    figures = look_into(entrants(specreason=[a_record("a", "specreason", turns=turns)])).proposing
    assert (figures.accepted.successes, figures.accepted.count) == (1, 3)
    assert (figures.unscored, figures.scores) == (1, {3: 1, 8: 1})


def test_a_box_of_another_picture_holds_nothing():
    assert box_holds(Box(0, 0, 200, 200), TARGET, whole=True)
    assert not box_holds(Box(0, 0, 200, 200, picture_index=1), TARGET, whole=False)


def test_times_and_tokens_are_per_item():
    base = summarise(FOUR).overall.figures["baseline"]
    assert (base.latency.mean_s, base.latency.p50_s) == (4.0, 4.0)
    phases = {phase: spread.mean_s for phase, spread in base.phases.items()}
    assert phases == {"screen": 0.0, "speculate": 0.0, "gate": 0.0, "fall_back": 3.5}
    assert (base.prompt_tokens, base.completion_tokens, base.depth) == (100.0, 50.0, 1.0)
    assert base.depths == {1: 4}


def test_nothing_at_all_has_a_summary_without_figures():
    whole = summarise(entrants(baseline=[], speceyes=[])).overall
    gain, ours = whole.gains["speceyes"], whole.figures["speceyes"]
    assert (gain.speedup, gain.difference, ours.limit, ours.latency) == (None, None, None, None)
    assert ours.accuracy.value is None
    assert summarise([]).compared == 0
