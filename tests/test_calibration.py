"""Thresholds with a stated risk: bounds against published values, choices worked out by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.calibration.bounds import (
    at_most,
    estimate,
    incomplete_beta,
    least_count,
    most_failures,
    upper_bound,
)
from speceyes.calibration.isotonic import Reading, fit
from speceyes.calibration.thresholds import Observed, choose, closed, cross_fitted, lowest
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec

SPEC = GateSpec(threshold=0.0, k=12)


def seen(*rows):
    """Make what was observed of (score, fails) pairs; a score of None could not pass."""
    scores = np.array([-np.inf if score is None else score for score, _ in rows])
    return Observed(
        scores, np.isfinite(scores), np.array([bool(fails) for _, fails in rows], dtype=bool)
    )


# Clopper and Pearson's intervals as tabulated; and 0 of n by the closed form.
@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (4, 20, 0.0573, 0.4366),
        (10, 100, 0.0490, 0.1762),
        (0, 10, 0.0, 0.3085),
        (5, 10, 0.1871, 0.8129),
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (20, 20, 0.8316, 1.0),
    ],
)
def test_intervals_are_those_of_the_tables(count, of, low, high):
    found = estimate(count, of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_of_nothing_counted_nothing_is_known():
    assert (estimate(0, 0).low, estimate(0, 0).high, estimate(0, 0).value) == (0.0, 1.0, None)


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_binomial_is_the_sum_of_its_terms(count, of, share):
    terms = [math.comb(of, i) * share**i * (1 - share) ** (of - i) for i in range(of + 1)]
    assert at_most(count, of, share) == pytest.approx(math.fsum(terms[: count + 1]), abs=1e-12)


@given(st.floats(0.2, 80.0), st.floats(0.2, 80.0), st.integers(0, 1024).map(lambda n: n / 1024))
def test_the_beta_function_is_symmetric(a, b, x):
    assert incomplete_beta(a, b, x) + incomplete_beta(b, a, 1 - x) == pytest.approx(1.0, abs=1e-10)


@given(st.integers(1, 3000), st.floats(0.002, 0.3), st.floats(0.5, 0.999))
def test_so_many_may_fail_and_no_more(of, max_share, confidence):
    found = most_failures(of, max_share=max_share, confidence=confidence)
    if found is None:
        assert upper_bound(0, of, confidence=confidence) > max_share
    else:
        assert upper_bound(found, of, confidence=confidence) <= max_share + 1e-12
        assert upper_bound(found + 1, of, confidence=confidence) > max_share


def test_so_much_data_is_needed():
    assert least_count(0.01, confidence=0.95) == 299
    assert least_count(0.05, confidence=0.95) == 59
    assert least_count(0.02, confidence=0.99) == 228
    assert least_count(0.01, confidence=0.95, share=0.01) is None
    half = least_count(0.01, confidence=0.95, share=0.005)
    assert upper_bound(math.ceil(half * 0.005), half, confidence=0.95) <= 0.01


def test_the_threshold_lies_between_the_last_accepted_and_the_next():
    observed = seen((1.0, True), (2.0, True), (3.0, False), (4.0, True), (5.0, False), (None, True))
    for allowed, wanted in [(0, 4.5), (1, 2.5), (2, 1.5)]:
        made = lowest(observed, SPEC, allowed=allowed)
        assert made.threshold == wanted
        assert int((observed.accepted(made) & observed.failed).sum()) == allowed


def test_nothing_below_all_that_was_seen_is_accepted():
    observed = seen((1.0, False), (2.0, False))
    made = lowest(observed, SPEC, allowed=0)
    assert 0.99 < made.threshold < 1.0
    assert observed.accepted(made).all()


def test_alike_scores_are_accepted_together_or_not_at_all():
    observed = seen((2.0, True), (2.0, False), (2.0, False), (3.0, False))
    assert lowest(observed, SPEC, allowed=0).threshold == 2.5


def test_where_the_best_answer_fails_nothing_is_accepted():
    made = lowest(seen((3.0, True), (2.0, False)), SPEC, allowed=0)
    assert made == closed(SPEC)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["raw", "squashed", "log"])
def test_a_closed_gate_accepts_nothing_and_can_be_written(strict, kind):
    spec = replace(
        SPEC,
        strict=strict,
        scale="squashed" if kind == "squashed" else "raw",
        aggregation="log" if kind == "log" else "min",
    )
    shut = closed(spec)
    best = 9e9 if kind == "raw" else 1.0
    assert not seen((best, False)).accepted(shut).any()
    assert json.loads(json.dumps(shut.threshold)) == shut.threshold < math.inf


def test_too_little_data_says_how_much_would_do():
    made = choose(seen(*[(5.0, False)] * 100), SPEC, max_loss=0.01, confidence=0.95)
    assert made.accepts_nothing
    assert made.accepted == 0
    assert made.needed == least_count(0.01, confidence=0.95, share=0.005) > 299


def test_no_data_at_all():
    made = choose(seen(), SPEC, max_loss=0.01, confidence=0.95)
    assert (made.accepts_nothing, made.bound) == (True, 1.0)


def test_enough_data_is_used_up_to_the_bound():
    rows = [(10.0 + i / 1000, False) for i in range(990)] + [(i / 10, True) for i in range(10)]
    made = choose(seen(*rows), SPEC, max_loss=0.01, confidence=0.95)
    assert (made.failures, made.accepted, made.needed) == (4, 994, None)
    assert made.bound == upper_bound(4, 1000, confidence=0.95) <= 0.01
    assert 0.5 < made.spec.threshold < 0.6


@pytest.mark.parametrize("field", ["max_loss", "confidence"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_what_is_no_share_is_named(field, value):
    asked = {"max_loss": 0.01, "confidence": 0.95} | {field: value}
    with pytest.raises(ConfigError, match=field):
        choose(seen((1.0, False)), SPEC, **asked)


observations = st.lists(
    st.tuples(st.none() | st.floats(0.0, 20.0), st.booleans()), min_size=1, max_size=200
)


@given(observations, st.floats(0.02, 0.5), st.floats(0.5, 0.99))
def test_what_is_certain_is_within_what_was_asked(rows, max_loss, confidence):
    observed = seen(*rows)
    made = choose(observed, SPEC, max_loss=max_loss, confidence=confidence)
    assert made.accepts_nothing or made.bound <= max_loss + 1e-12
    stricter = choose(observed, SPEC, max_loss=max_loss / 2, confidence=confidence)
    assert stricter.spec.threshold >= made.spec.threshold
    surer = choose(observed, SPEC, max_loss=max_loss, confidence=1 - (1 - confidence) / 2)
    assert surer.spec.threshold >= made.spec.threshold


@given(observations)
def test_the_order_of_queries_decides_nothing(rows):
    asked = {"max_loss": 0.2, "confidence": 0.8}
    forth, back = choose(seen(*rows), SPEC, **asked), choose(seen(*rows[::-1]), SPEC, **asked)
    assert forth == back


def truth(rng, count, *, beta=0.6, ceiling=0.5):
    """Draw queries whose true risk is known: score U(0, 1), p(fails | s) = ceiling (1 - s)^2."""
    scores = rng.random(count)
    screened = rng.random(count) < beta
    failed = rng.random(count) < ceiling * (1 - scores) ** 2
    return Observed(scores, screened, failed)


def true_risk(threshold, *, beta=0.6, ceiling=0.5):
    return beta * ceiling * (1 - min(max(threshold, 0.0), 1.0)) ** 3 / 3


def naive(observed, max_loss):
    """The best-threshold rule: the lowest at which no more failed than may."""
    return lowest(observed, SPEC, allowed=int(max_loss * len(observed)))


@pytest.mark.parametrize("count", [100, 500, 2000])
def test_the_stated_risk_is_exceeded_no_more_often_than_stated(count):
    sets, max_loss, confidence = 1000, 0.04, 0.95
    rng = np.random.default_rng(count)
    broken = naively_broken = 0
    for _ in range(sets):
        observed = truth(rng, count)
        made = choose(observed, SPEC, max_loss=max_loss, confidence=confidence)
        broken += true_risk(made.spec.threshold) > max_loss
        naively_broken += true_risk(naive(observed, max_loss).threshold) > max_loss
    allowed = 1 - confidence
    error = 3 * math.sqrt(allowed * confidence / sets)
    assert broken / sets <= allowed + error
    assert naively_broken / sets > 0.3


def test_held_out_risk_is_about_the_true_one():
    observed = truth(np.random.default_rng(5), 20_000)
    asked = {"max_loss": 0.02, "confidence": 0.95}
    made = choose(observed, SPEC, **asked)
    found = cross_fitted(observed, SPEC, **asked)
    assert found.low < true_risk(made.spec.threshold) < found.high
    assert cross_fitted(seen((1.0, False)), SPEC, **asked) is None


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60))
def test_what_is_read_off_falls_and_keeps_the_mean(rows):
    scores = np.array([float(score) for score, _ in rows])
    wrong = np.array([fails for _, fails in rows])
    made = fit(scores, wrong)
    read = [made.at(score) for score in scores.tolist()]
    assert np.mean(read) == pytest.approx(wrong.mean())
    assert list(made.p_wrong) == sorted(set(made.p_wrong), reverse=True)
    assert made.at(-1.0) == made.p_wrong[0]
    assert made.at(99.0) == made.p_wrong[-1]
    assert sum(made.counts) == len(rows)


def test_the_steps_worked_out_by_hand():
    made = fit(np.array([1.0, 2.0, 3.0, 3.0, 4.0]), np.array([1, 0, 1, 0, 0], dtype=bool))
    assert made == Reading((1.0, 2.0, 4.0), (1.0, 1 / 3, 0.0), (1, 3, 1))
    assert made.at(3.9) == 1 / 3
    assert Reading((), (), ()).at(1.0) is None


@pytest.mark.parametrize(
    "columns",
    [
        ((1.0,), (0.5, 0.4), (1,)),
        ((2.0, 1.0), (0.5, 0.4), (1, 1)),
        ((1.0, 2.0), (0.4, 0.5), (1, 1)),
    ],
)
def test_a_reading_that_is_none_is_named(columns):
    with pytest.raises(ConfigError, match="calibrate again"):
        Reading(*columns)
