"""The gateway's stats: every request counted once, in any order, by any number of workers."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.errors import EngineUnavailable, InputError
from speceyes.events import FellBack, PhaseStarted
from speceyes.gateway import series
from speceyes.gateway.figures import View, figures_of, mean_of, quantile
from speceyes.gateway.measures import ENGINE_ERRORS, fold, overhead_s, stages, tell
from speceyes.gateway.reports import Report, from_bytes, put_together, to_bytes
from speceyes.gateway.series import HISTOGRAMS, SERIES
from speceyes.gateway.stats import LAST, MAX_CELLS, Stats, Tally, merge
from speceyes.gateway.steps import steps_of
from tests.gateway_stories import (
    MODELS,
    NOON_S,
    PRIVATE,
    RAW,
    Story,
    draw,
    draw_many,
    finished,
    unanswered,
)

drawn = st.builds(
    draw,
    st.integers(0, 10**6),
    index=st.integers(0, 10**6),
    at_s=st.floats(NOON_S, NOON_S + 1000.0),
)
SPECULATIVE = Story().screened().speculated(8.0).accepted()
FELL_BACK = Story().screened(0.9).fell_back("needs_tool", 2).answered("needs_tool")


def reported(stats, *, worker="a", since_s=NOON_S - 9, at_s=NOON_S - 1):
    return Report(
        worker=worker,
        since_s=since_s,
        at_s=at_s,
        in_flight=3,
        queued=1,
        breakers={"speceyes": {"small": "closed", "large": "closed"}},
        stats=stats,
    )


def total(spread):
    return sum(spread[1:])


@given(st.lists(drawn, max_size=70), st.lists(drawn, max_size=70))
def test_counting_apart_and_merging_is_counting_together(one, other):
    assert merge([fold(one), fold(other)]) == fold([*one, *other])
    assert fold(other, fold(one)) == fold([*one, *other])


@given(st.lists(st.lists(drawn, max_size=5).map(fold), min_size=3, max_size=3))
def test_merging_is_a_commutative_monoid(parts):
    one, two, three = parts
    assert merge([one, two]) == merge([two, one])
    assert merge([merge([one, two]), three]) == merge([one, merge([two, three])])
    assert merge([one, Stats()]) == one == merge([Stats(), one])
    assert merge([]) == Stats()


@given(st.lists(drawn, max_size=40))
def test_every_request_is_accounted_for_once(requests):
    view = View(fold(requests))
    assert view.count(series.REQUESTS) == len(requests)
    assert total(view.spread(series.REQUEST_S)) == len(requests)
    assert total(view.spread(series.QUEUE_S)) == len(requests)
    answered = [one for one in requests if one.ended.answer is not None]
    assert total(view.spread(series.ANSWER_S)) == len(answered)
    by_route = view.counts(series.REQUESTS, "route")
    assert sum(by_route.values()) == len(requests)
    for route, count in by_route.items():
        assert count == sum(one.ended.route == route for one in requests)


@given(st.lists(drawn, max_size=40))
def test_stages_are_within_each_other(requests):
    view = View(fold(requests))
    decided, passed, accepted = (
        view.count(series.FUNNEL, stage=stage) for stage in ("decided", "passed", "accepted")
    )
    assert accepted <= passed <= decided <= len(requests)
    assert accepted == view.count(series.REQUESTS, route="speculative")
    assert accepted == total(view.spread(series.SCORE, verdict="accepted"))


@given(st.lists(drawn, max_size=60))
def test_a_report_is_read_back_as_it_was(requests):
    report = reported(fold(requests))
    assert from_bytes(to_bytes(report)) == report


@pytest.mark.parametrize("data", [b"", b"\x00", b"nonsense", to_bytes(reported(Stats()))[:-9]])
def test_a_damaged_report_has_a_name(data):
    with pytest.raises(InputError, match="no worker's report"):
        from_bytes(data)


def test_reports_add_up_and_old_ones_count_only_for_what_was_done():
    one, two = draw_many(30), draw_many(20, seed=8)
    gone = reported(fold(two), worker="gone", since_s=NOON_S - 50, at_s=NOON_S - 11)
    whole = put_together([reported(fold(one)), reported(fold(one), worker="b"), gone], at_s=NOON_S)
    assert whole.stats == fold([*one, *one, *two])
    assert whole.since_s == NOON_S - 50
    assert (whole.now.workers, whole.now.in_flight, whole.now.queued) == (2, 6, 2)
    assert whole.now.breakers == {"speceyes": {"small": {"closed": 2}, "large": {"closed": 2}}}
    assert put_together([], at_s=NOON_S).now.workers == 0


def test_no_word_of_a_conversation_is_kept():
    stats = fold(draw_many(400))
    data = to_bytes(reported(stats))
    assert len(stats.last) == LAST
    for word in ("passport", "script", "alert"):
        assert word.encode() not in data


def test_the_last_requests_are_the_latest_ones():
    requests = draw_many(LAST + 30)
    kept = fold(reversed(requests)).last
    assert [told.request_id for told in kept] == [one.ended.request_id for one in requests[-LAST:]]


def test_labels_are_bounded_whatever_is_told():
    tally = Tally()
    for index in range(MAX_CELLS + 50):
        tally.add(series.RECEIVED, (f"model-{index}",), 2)
        tally.observe(series.QUEUE_S, 0.1, (f"model-{index}",))
    stats = tally.stats()
    received = {c: n for c, n in stats.counts.items() if c[0] == series.RECEIVED.name}
    assert len(received) == MAX_CELLS + 1
    assert received[series.RECEIVED.name, "other"] == 100
    assert sum(received.values()) == 2 * (MAX_CELLS + 50)
    assert total(stats.spreads[series.QUEUE_S.name, "other"]) == 50


def test_a_tally_gives_values_that_stay_as_they_are():
    tally = Tally()
    tally.add(series.RECEIVED, ("m",), 3)
    before = tally.stats()
    tally.add(series.RECEIVED, ("m",), 3)
    tally.observe(series.QUEUE_S, 0.1, ("m",))
    assert before == Tally(before).stats()
    assert before.counts == {(series.RECEIVED.name, "m"): 3}
    assert before.spreads == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_in_no_histogram(value):
    tally = Tally()
    tally.observe(series.SCORE, value, ("m", "accepted"))
    assert tally.stats() == Stats()


@pytest.mark.parametrize("what", HISTOGRAMS, ids=lambda what: what.name)
def test_buckets_rise_and_hold_their_upper_bound(what):
    assert list(what.buckets) == sorted(set(what.buckets))
    for index, bound in enumerate(what.buckets):
        assert what.bucket(bound) == index
        assert what.bucket(math.nextafter(bound, math.inf)) == index + 1


def test_scores_are_told_apart_where_thresholds_lie():
    for low, high in [(0.975, 0.98), (0.98, 0.9801), (4.4, 5.0), (5.0, 5.1), (8.5, 9.0)]:
        assert series.SCORE.bucket(low) < series.SCORE.bucket(high)


def test_alpha_beta_and_the_limit_by_hand():
    requests = [
        *[finished(SPECULATIVE)] * 6,
        *[
            finished(
                Story()
                .screened()
                .speculated(3.0)
                .fell_back("below_threshold")
                .answered("below_threshold")
            )
        ]
        * 2,
        *[finished(FELL_BACK)] * 2,
    ]
    figures = figures_of(fold(requests), MODELS)
    assert (figures.decided, figures.passed, figures.accepted) == (10, 8, 6)
    assert figures.alpha == pytest.approx(6 / 8)
    assert figures.beta == pytest.approx(8 / 10)
    assert figures.speed.limit == pytest.approx(1 / (1 - 0.8 * 0.75))


def test_the_speedup_is_the_agents_time_over_the_mean_time():
    figures = figures_of(fold([finished(SPECULATIVE), finished(FELL_BACK)]), MODELS)
    agent_s = 2 * (0.55 + 0.02) + 0.5
    ours_s = (SPECULATIVE.at_s + FELL_BACK.at_s) / 2
    assert figures.speed.alone_s == pytest.approx(agent_s)
    assert figures.speed.ours_s == pytest.approx(ours_s)
    assert figures.speed.estimate == pytest.approx(agent_s / ours_s)
    assert figures.speed.share_of_limit == pytest.approx(agent_s / ours_s / 2.0)


def test_a_model_without_a_funnel_does_not_blur_the_speedup():
    alone = Story().fell_back("agent_only", 6).answered("agent_only")
    both = [finished(SPECULATIVE), finished(FELL_BACK)]
    speed = figures_of(fold(both), MODELS).speed
    mixed = fold([*both, finished(alone, model="plain")])
    assert figures_of(mixed, MODELS).speed == speed
    assert figures_of(mixed, MODELS, MODELS[2]).speed.estimate is None
    assert stages(alone.trace) == ()


def test_an_empty_gateway_has_figures():
    for chosen in (None, *MODELS):
        figures = figures_of(Stats(), MODELS, chosen)
        assert figures.requests == 0
        assert figures.alpha is figures.beta is figures.speed.estimate is None
        assert msgspec.json.decode(msgspec.json.encode(figures))["phases"] == {}


def test_all_accepted_is_no_division_by_zero():
    figures = figures_of(fold([finished(SPECULATIVE)]), MODELS)
    assert (figures.alpha, figures.beta, figures.speed.limit) == (1.0, 1.0, None)


def test_the_gateways_own_time_is_what_no_engine_took():
    one = finished(SPECULATIVE, waited_s=0.001)
    # 4 ms before the first phase, 3 ms around the query, less what it waited.
    assert overhead_s(one.ended, one.trace) == pytest.approx(0.004 + 0.003 - 0.001)
    bypassed = unanswered(
        None, route="bypass", reason="tools", status=200, elapsed_s=0.5, upstream_s=0.498
    )
    assert overhead_s(bypassed.ended, ()) == pytest.approx(0.002)
    for change in ({"is_stream": True}, {"status": 502}, {"upstream_s": None}):
        assert overhead_s(replace(bypassed.ended, **change), ()) is None


def test_overlapping_phases_are_not_counted_twice():
    story = Story().tell(PhaseStarted, "screen").tell(PhaseStarted, "speculate")
    tail = Story().screened(0.9).trace
    both = (
        *story.trace,
        replace(tail[-1], at_s=0.4),
        replace(tail[-1], at_s=0.7, phase="speculate"),
    )
    ended = replace(finished(SPECULATIVE).ended, elapsed_s=1.0)
    assert overhead_s(ended, both) == pytest.approx(0.3)


def test_errors_are_counted_with_the_one_who_made_them():
    down = EngineUnavailable("small", "is down")
    story = Story().screened().speculated(error=down).fell_back("small_failed")
    requests = [
        finished(story.answered("small_failed")),
        *[one for one in draw_many(900) if one.ended.reason == "upstream"],
    ]
    view = View(fold(requests))
    assert view.count(series.ERRORS, engine="small", kind="EngineUnavailable") == 1
    assert view.count(series.ERRORS, engine="tools", kind="ToolError") > 0
    assert view.count(series.ERRORS, engine="large", kind="EngineUnavailable") > 0
    assert set(view.counts(series.ERRORS, "kind")) <= ENGINE_ERRORS


def test_a_bypassed_requests_engine_is_at_fault_only_if_it_was_asked():
    def errors(**more):
        told = {"route": "bypass", "reason": "tools", "status": 200} | more
        view = View(fold([unanswered(None, **told)]))
        return view.counts(series.ERRORS, "kind")

    assert errors(status=503) == {"status_5xx": 1}
    assert errors(status=404) == errors() == {}
    assert errors(route="failed", reason="upstream", error_kind="EngineTimeout") == {
        "EngineTimeout": 1
    }
    refused = {"route": "refused", "reason": "large_down", "status": 503}
    assert errors(**refused, error_kind="EngineUnavailable") == {}


def test_tokens_are_counted_with_their_engine():
    view = View(fold([finished(FELL_BACK)]))
    turns = 390 + 480 + 700
    assert view.count(series.TOKENS, engine="large", kind="prompt") == 100 + turns
    assert view.count(series.TOKENS, engine="large", kind="completion") == 1 + 70 + 70 + 60
    assert view.count(series.TOKENS, engine="large", kind="cached") == 4 * 40
    assert view.count(series.TOKENS, engine="small") == 0
    told = tell(finished(FELL_BACK))
    assert told.large_tokens == 101 + turns + 200
    assert (told.depth, told.turns) == (2, 3)


def test_a_storys_steps_have_its_times():
    steps = steps_of(FELL_BACK.trace)
    assert [step.kind for step in steps] == ["screen", "fall_back", *["turn", "tool"] * 2, "turn"]
    screen, fall_back, first, zoom, *_ = steps
    assert (screen.began_s, screen.ended_s) == (0.004, 0.064)
    assert screen.p_tool == 0.9
    assert fall_back.note == "needs_tool"
    assert first.began_s == fall_back.began_s
    assert (first.said, first.engine, first.completion_tokens) == ("call", "large-model", 70)
    assert zoom.began_s == first.ended_s
    assert zoom.boxes == ((100, 80, 320, 260, 0),)
    assert fall_back.ended_s == steps[-1].ended_s


def test_a_closer_look_is_a_step_with_its_box_and_all_its_tokens():
    story = Story().screened().speculated(2.0).looked_closer().accepted()
    steps = steps_of(story.trace)
    assert [step.kind for step in steps] == ["screen", *["speculate", "gate"] * 2]
    first, look = steps[1], steps[3]
    assert (first.boxes, look.boxes) == ((), ((96, 96, 288, 288, 0),))
    assert (look.prompt_tokens, look.completion_tokens) == (200, 15)
    assert look.ended_s - look.began_s == pytest.approx(0.09)


def test_steps_of_a_story_that_was_cut_short():
    story = Story().screened(0.9).tell(FellBack, "needs_tool").tell(PhaseStarted, "fall_back")
    last = steps_of((*story.trace, replace(story.events[0], at_s=2.0)))[-1]
    assert (last.kind, last.outcome, last.ended_s) == ("fall_back", "cancelled", 2.0)
    assert steps_of(()) == ()
    assert stages(story.trace) == ("decided",)
    assert stages(Story().screened().trace) == ()
    assert stages(Story().tell(FellBack, "not_worth_it").trace) == ("decided",)
    assert stages(Story().tell(FellBack, "agent_only").trace) == ()


def test_a_gate_that_could_not_score_is_a_step_without_a_score():
    story = Story().screened().speculated(None, reason="no_evidence")
    gate = steps_of(story.trace)[-1]
    assert (gate.score, gate.threshold, gate.note) == (None, RAW.threshold, "no_evidence")


@given(st.lists(st.floats(0.0, 400.0), min_size=1, max_size=50), st.floats(0.0, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, share):
    tally = Tally()
    for value in values:
        tally.observe(series.REQUEST_S, value, ("m", "agentic"))
    spread = View(tally.stats()).spread(series.REQUEST_S)
    true = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    read = quantile(series.REQUEST_S, spread, share)
    bounds = (0.0, *series.REQUEST_S.buckets)
    if true > bounds[-1]:
        assert read == bounds[-1]
    else:
        bucket = series.REQUEST_S.bucket(true)
        assert bounds[bucket] - 1e-9 <= read <= bounds[bucket + 1] + 1e-9
    assert mean_of(spread) == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_scores_of_different_scales_are_not_put_together():
    stats = fold(draw_many(200))
    assert figures_of(stats, MODELS).scores is None
    scores = figures_of(stats, MODELS, MODELS[1]).scores
    assert (scores.scale, scores.threshold) == ("share", 0.98)
    assert len(scores.accepted) == len(scores.bounds) + 1
    assert sum(scores.accepted[: series.SCORE.bucket(0.98) + 1]) == 0 < sum(scores.accepted)
    assert sum(scores.rejected) > 0
    assert figures_of(stats, MODELS, MODELS[2]).scores is None


def test_what_is_counted_is_declared():
    stats = fold(draw_many(900))
    for cell in (*stats.counts, *stats.spreads):
        assert len(cell) == 1 + len(SERIES[cell[0]].labels)
    assert PRIVATE.split()[0] not in {part for cell in stats.counts for part in cell}
