"""Charts: what is drawn lies where the numbers say, and inside its canvas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.page.axes import Axis, line_through, score_axis
from speceyes.bench.page.charts import SMALL_WIDTH, draw_counts, draw_densities, draw_phases
from speceyes.bench.page.curves import (
    Contender,
    draw_front,
    over_concurrency,
    over_k,
    over_ranks,
    over_thresholds,
    rolling_window,
)
from speceyes.bench.page.sections import lay_out
from speceyes.bench.rescore import outlook, sweep
from speceyes.bench.stats import Interval
from tests.pages import crowded, tiny
from tests.scripted_pair import GATE

SHARES = st.floats(0.0, 1.0)
SPEEDUPS = st.floats(0.05, 40.0)


def contender(letter, speedup, accuracy, **more):
    fields = {
        "tone": "speceyes",
        "letter": letter,
        "accuracy": accuracy,
        "accuracy_interval": None,
        "speedup": speedup,
        "speedup_interval": None,
    }
    return Contender(**(fields | more))


def cases():
    return tiny()[0].cases


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_and_in_order(low, span, count):
    axis = Axis(low, low + span, 0.0, 100.0)
    ticks = axis.ticks(count)
    assert 1 <= len(ticks) <= 2.6 * count + 2
    assert [t.at for t in ticks] == sorted(t.at for t in ticks)
    slack = 1e-6 * span
    assert all(low - slack <= float(t.label) <= low + span + slack for t in ticks)


def test_a_short_axis_has_a_tick_where_few_are_wanted():
    assert [tick.label for tick in Axis(5.3, 9.6, 0.0, 100.0).ticks(2)] == ["6", "8"]


@given(st.floats(1e-3, 1e3), st.floats(1.6, 1e3))
def test_a_logarithmic_axis_has_ticks_and_equal_ratios_take_equal_room(low, ratio):
    axis = Axis(low, low * ratio * ratio, 0.0, 100.0, is_log=True)
    assert axis.at(low * ratio) == pytest.approx(50.0, abs=0.02)
    assert 1 <= len(axis.ticks()) <= 24
    assert axis.at(0.0) == 0.0


def test_values_beyond_an_axis_stay_at_its_ends():
    axis = Axis(0.0, 10.0, 46.0, 506.0)
    assert (axis.at(-5.0), axis.at(5.0), axis.at(99.0)) == (46.0, 276.0, 506.0)


def test_a_score_axis_of_shares_ends_where_shares_end():
    axis = score_axis([0.95, 0.99, 1.0], (0.0, 1.0), keep=0.5, is_share=True)
    assert axis.low <= 0.5
    assert axis.high == 1.0


def test_a_path_goes_from_point_to_point():
    axes = (Axis(0.0, 1.0, 0.0, 10.0), Axis(0.0, 1.0, 10.0, 0.0))
    assert line_through(axes, [(0.0, 0.0), (0.5, 1.0)]) == "M0.0 10.0 L5.0 0.0"
    assert line_through(axes, []) == ""


def test_the_distance_of_the_peaks_is_that_of_the_curves():
    rng = np.random.default_rng(3)
    chart = draw_densities(
        rng.normal(8.0, 0.5, 400).tolist(),
        rng.normal(3.0, 0.5, 400).tolist(),
        threshold=None,
        is_share=False,
    )
    assert chart.distance == pytest.approx(5.0, abs=0.4)
    assert chart.right.peak_at > chart.wrong.peak_at


def test_the_threshold_is_drawn_even_beyond_all_scores():
    chart = draw_densities([4.0, 5.0, 6.0], [], threshold=9.0, is_share=False)
    assert chart.x.low < 4.0
    assert chart.x.high > 9.0
    assert chart.wrong.area == ""
    assert chart.distance is None
    assert 0.0 < chart.threshold < SMALL_WIDTH
    assert draw_densities([], [], threshold=3.0, is_share=False) is None


def test_many_scores_leave_no_more_strokes_than_there_is_room_for():
    scores = np.random.default_rng(1).uniform(0.0, 1.0, 5000).tolist()
    chart = draw_densities(scores, [], threshold=None, is_share=True)
    assert chart.right.count == 5000
    assert chart.right.rug.count("M") <= 10 * SMALL_WIDTH


def test_curves_start_at_the_left_and_end_at_the_right():
    made = sweep(cases(), GATE)
    chart = over_thresholds(made, 5.0)
    for panel, values in zip(chart.panels, (made.accuracy, made.speedup), strict=True):
        (line,) = panel.lines
        assert line.path.startswith(f"M{chart.x.start} {panel.y.at(values[0])}")
        assert line.path.endswith(f"V{panel.y.at(values[-1])} H{chart.x.end}")
    assert chart.x.start < chart.rule < chart.x.end


def test_each_k_is_a_dot_where_re_scoring_puts_it():
    looked = [outlook(cases(), replace(GATE, k=k)) for k in (8, 16, 64)]
    chart = over_k(looked, agent_accuracy=0.95, k=16)
    accuracy, speedup = chart.panels
    assert [dot.x for dot in accuracy.dots] == [chart.x.at(k) for k in (8.0, 16.0, 64.0)]
    assert [dot.y for dot in speedup.dots] == [speedup.y.at(o.speedup) for o in looked]
    assert chart.rule == accuracy.dots[1].x
    assert over_k(looked[:1], agent_accuracy=0.95, k=16) is None


def test_no_k_is_looked_at_that_the_evidence_does_not_reach():
    section = lay_out(tiny()[0], None, absent="", shown=0)  # the script keeps 64 candidates
    assert [dot.x for dot in section.ks.panels[0].dots][-1] == section.ks.x.at(64.0)


def test_concurrency_needs_two_to_make_a_line():
    section = lay_out(crowded()[0][0], None, absent="", shown=0)
    upper, _ = section.concurrencies.panels
    assert len(upper.lines) == 1
    assert len(upper.dots) == 3
    assert over_concurrency([[(1, contender("a", 1.5, 0.9))]]) is None


def test_answers_that_score_well_are_right_first():
    scored = [(float(score), score > 40) for score in range(100)]
    chart = over_ranks(scored, 40.0)
    (panel,) = chart.panels
    ends = [float(point.split()[-1]) for point in panel.lines[0].path[1:].split(" L")]
    assert ends[0] == panel.y.at(1.0)
    assert ends[-1] == panel.y.at(0.0)
    assert chart.rule == chart.x.at(59.0)
    assert rolling_window(100) == 10


def test_too_few_answers_have_no_rolling_accuracy():
    assert over_ranks([(1.0, True)] * 9, 0.5) is None


@given(st.lists(st.tuples(SPEEDUPS, SHARES), min_size=2, max_size=8))
def test_nothing_beats_the_front_and_the_front_beats_the_rest(points):
    entrants = [
        contender("abcdefgh"[n], speedup, accuracy) for n, (speedup, accuracy) in enumerate(points)
    ]
    front = draw_front(entrants, None)
    for one in entrants:
        beaten = any(
            (o.speedup >= one.speedup and o.accuracy > one.accuracy)
            or (o.speedup > one.speedup and o.accuracy >= one.accuracy)
            for o in entrants
        )
        assert (one.letter in front.unbeaten) is not beaten


@given(st.lists(st.tuples(SPEEDUPS, SHARES), min_size=2, max_size=8))
def test_dots_and_letters_stay_on_the_canvas(points):
    entrants = [
        contender(
            "abcdefgh"[n],
            speedup,
            accuracy,
            accuracy_interval=Interval(accuracy / 2, min(1.0, accuracy + 0.1)),
            speedup_interval=Interval(speedup / 2, speedup * 2),
        )
        for n, (speedup, accuracy) in enumerate(points)
    ]
    chart = draw_front(entrants, sweep(cases(), GATE)).chart
    for dot in chart.panels[0].dots:
        for x, y in ((dot.x, dot.y), dot.letter_at):
            assert 20.0 < x < 520.0
            assert 10.0 < y < chart.foot + 30.0


def test_one_alone_has_no_front():
    assert draw_front([contender("a", 1.0, 0.9)], None) is None


def test_bars_add_up_to_what_a_query_took():
    whole = tiny()[0].summary.overall
    for name, bars in draw_phases(whole.figures).rows.items():
        mean_s = whole.figures[name].latency.mean_s
        assert sum(bar.value for bar in bars) == pytest.approx(mean_s)
        ends = [bar.start + bar.length for bar in bars]
        assert [bar.start for bar in bars[1:]] == pytest.approx(ends[:-1])


def test_a_histogram_has_every_value_and_shares_that_add_up():
    bars = draw_counts({"one": {0: 3, 2: 1}, "none": {}}, range(4))
    assert [bar.value for bar in bars.rows["one"]] == [0.75, 0.0, 0.25, 0.0]
    assert [bar.value for bar in bars.rows["none"]] == [0.0] * 4
