"""Intervals, ranks and densities: published figures, brute force, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.stats import (
    Interval,
    Share,
    auroc,
    density,
    mean,
    paired_difference,
    quantile,
    ratio_of_sums,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)
scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)


def table(both, first, second, neither):
    """Make paired answers from a 2x2 table's four counts."""
    rows = [(True, True)] * both + [(True, False)] * first
    rows += [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in rows], [b for _, b in rows]


# Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, count, low, high):
    interval = wilson(successes, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(counts)
def test_wilson_holds_the_share_and_stays_in_range(drawn):
    successes, count = drawn
    interval = wilson(successes, count)
    assert 0.0 <= interval.low <= successes / count <= interval.high <= 1.0
    assert interval.low < interval.high


def test_nothing_counted_has_no_interval():
    assert wilson(0, 0) is None
    assert paired_difference([], []) is None
    assert Share.of([]).value is None
    assert Share.of([]).interval is None


# Newcombe 1998, Statistics in Medicine 17:2635, table III, method 10.
@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        ((30, 0, 0, 24), -0.0358, 0.0358),
    ],
)
def test_paired_difference_gives_the_published_intervals(cells, low, high):
    interval = paired_difference(*table(*cells))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(pairs)
def test_paired_difference_turns_round_with_its_sides(drawn):
    first, second = [a for a, _ in drawn], [b for _, b in drawn]
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert -1.0 <= there.low <= (sum(first) - sum(second)) / len(first) <= there.high <= 1.0


def test_pairing_narrows_the_interval():
    alike = paired_difference(*table(90, 2, 2, 6))
    unlike = paired_difference(*table(88, 4, 4, 4))
    assert alike.high - alike.low < unlike.high - unlike.low


def test_ratio_of_sums_holds_the_truth_about_as_often_as_it_says():
    held, rng = 0, np.random.default_rng(5)
    for seed in range(100):
        above, below = rng.gamma(9.0, 1.0, 80), rng.gamma(4.5, 1.0, 80)
        interval = ratio_of_sums(above, below, rng=np.random.default_rng(seed), draws=400)
        held += interval.low < 2.0 < interval.high
    assert 87 <= held < 100


def test_ratio_of_sums_is_reproducible():
    above, below = [4.0, 5.0, 9.0], [2.0, 3.0, 4.0]
    one, two = (ratio_of_sums(above, below, rng=np.random.default_rng(1)) for _ in range(2))
    assert one == two


def test_ratio_of_sums_knows_that_pairs_belong_together():
    below = np.array([1.0, 10.0, 100.0])
    interval = ratio_of_sums(2.0 * below, below, rng=np.random.default_rng(0))
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [2.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_too_little_has_no_ratio(above, below):
    assert ratio_of_sums(above, below, rng=np.random.default_rng(0)) is None


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_order(positive, negative):
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(sum(wins) / len(wins))


def test_auroc_of_one_group_is_not_known():
    assert auroc([], [1.0]) is None
    assert auroc([1.0], []) is None


def test_density_has_area_one_and_its_top_where_the_values_are():
    grid = np.linspace(-10, 20, 3001)
    curve = density(np.random.default_rng(0).normal(5.0, 1.0, 400).tolist(), grid)
    assert float(curve.sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-3)
    assert grid[curve.argmax()] == pytest.approx(5.0, abs=0.4)


def test_density_of_equal_values_and_of_none():
    grid = np.linspace(0.0, 10.0, 1001)
    assert density([], grid).sum() == 0.0
    alike = density([4.0, 4.0], grid)
    assert np.isfinite(alike).all()
    assert grid[alike.argmax()] == pytest.approx(4.0)


def test_mean_and_quantile_of_nothing_are_not_known():
    assert mean([]) is None
    assert quantile([], 0.5) is None
    assert mean([1.0, 3.0]) == 2.0
    assert quantile([1.0, 2.0, 9.0], 0.5) == 2.0


def test_a_share_knows_its_value_and_interval():
    share = Share.of([True, True, False, True])
    assert (share.successes, share.count, share.value) == (3, 4, 0.75)
    assert share.interval == wilson(3, 4)
    assert isinstance(share.interval, Interval)
    assert math.isclose(share.interval.high, 0.9544, abs_tol=1e-4)
