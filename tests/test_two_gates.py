"""Two thresholds within one risk: what a run shows, lines worked out by hand, the stated risk."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.calibration.thresholds import Observed, closed
from speceyes.calibration.two_gates import (
    Gates,
    Looked,
    choose_two,
    cross_fitted_two,
    farthest,
    shut,
)
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec

FIRST, CLOSER = GateSpec(threshold=5.0, k=8), GateSpec(threshold=7.0, k=16)
OWN = Gates(FIRST, CLOSER)
SURE = {"max_loss": 0.04, "confidence": 0.95}


def at(first, closer):
    return Gates(replace(FIRST, threshold=first), replace(CLOSER, threshold=closer))


@dataclass
class Whole:
    """Every answer there would be, whatever the gates: scores and failures (N, 1 + D)."""

    scores: np.ndarray
    failed: np.ndarray
    screened: np.ndarray

    def run(self, gates):
        """Give what a run under these gates shows: nothing after what they accepted."""
        over = self.scores > [gates.first.threshold] + [gates.closer.threshold] * (self.depth)
        over[:, 0] &= self.screened
        seen = np.cumsum(over, axis=1) - over == 0  # up to the first that was accepted
        unseen = over[:, :-1].any(axis=1)
        scores = np.where(seen, self.scores, -np.inf)
        failed = self.failed & seen
        first = Observed(scores[:, 0], self.screened & np.isfinite(scores[:, 0]), failed[:, 0])
        return Looked(first, scores[:, 1:], failed[:, 1:], unseen)

    @property
    def depth(self):
        return self.scores.shape[1] - 1


def whole(*rows, screened=None):
    """Make queries of (score, fails) pairs, one pair an answer."""
    scores = np.array([[score for score, _ in row] for row in rows], dtype=float)
    failed = np.array([[bool(fails) for _, fails in row] for row in rows])
    passed = np.ones(len(rows), dtype=bool) if screened is None else np.array(screened)
    return Whole(scores, failed, passed)


ROWS = (
    ((9, 0), (9, 1)),  # accepted at first sight: what a look would have shown is not known
    ((6, 1), (9, 0)),
    ((3, 1), (8, 0)),
    ((2, 0), (6, 1)),
    ((9, 1), (4, 0)),  # not screened: its answer at first sight is none
)
FIVE = whole(*ROWS, screened=[True, True, True, True, False])


def test_a_run_shows_what_its_own_gates_came_to():
    found = FIVE.run(OWN).outcome(OWN)
    assert found.at_first.tolist() == [True, True, False, False, False]
    assert found.closer.tolist() == [False, False, True, False, False]
    assert found.failed.tolist() == [False, True, False, False, False]
    assert not found.unknown.any()


def test_looser_gates_are_known_and_stricter_ones_count_as_failing():
    looked = FIVE.run(OWN)
    looser = looked.outcome(at(2.5, 5.0))
    assert looser.at_first.tolist() == [True, True, True, False, False]
    assert looser.failed.tolist() == [False, True, True, True, False]
    stricter = looked.outcome(at(8.0, 7.0))
    assert stricter.unknown.tolist() == [False, True, False, False, False]
    assert stricter.failed.tolist() == [False, True, False, False, False]


def test_with_the_closer_gate_shut_nothing_is_unknown():
    found = FIVE.run(OWN).outcome(Gates(replace(FIRST, threshold=8.0), closed(CLOSER)))
    assert found.at_first.tolist() == [True, False, False, False, False]
    assert not found.unknown.any()
    assert not found.closer.any()


def test_after_the_last_look_there_is_nothing_unknown():
    looked = whole(((1, 0), (9, 1))).run(OWN)
    assert not looked.outcome(at(5.0, 9.5)).unknown.any()
    deeper = whole(((1, 0), (9, 1), (9, 0))).run(OWN)
    assert deeper.outcome(at(5.0, 9.5)).unknown.all()


LINE = whole(
    ((9, 0), (0, 0)),
    ((8, 1), (0, 0)),
    ((7, 0), (0, 0)),
    ((6, 1), (0, 0)),
    ((1, 0), (9, 0)),
    ((1, 0), (8, 1)),
    ((1, 0), (6, 0)),
    ((1, 0), (4, 1)),
).run(OWN)


@pytest.mark.parametrize(
    ("allowed", "gates"),
    [
        (0, Gates(replace(FIRST, threshold=8.5), closed(CLOSER))),
        (1, Gates(replace(FIRST, threshold=6.5), closed(CLOSER))),
        (2, at(5.0, 8.5)),  # the first gate is the run's own, and the closer one's turn comes
        (3, at(5.0, 5.0)),
    ],
)
def test_the_line_goes_down_the_first_gate_and_then_the_closer_one(allowed, gates):
    found = farthest(LINE, OWN, allowed=allowed)
    assert found == gates
    assert LINE.outcome(found).failed.sum() == allowed


def test_the_first_gate_is_never_looser_than_the_runs():
    found = farthest(LINE, OWN, allowed=99)
    assert found.first == FIRST
    assert 3.99 < found.closer.threshold < 4.0
    assert LINE.outcome(found).closer.sum() == 4


def test_where_there_are_more_looks_the_closer_gate_begins_at_the_runs():
    made = whole(
        ((1, 0), (9, 1), (9, 0)),
        ((1, 0), (6, 0), (9, 0)),
        ((1, 0), (5, 1), (6, 0)),
    ).run(OWN)
    assert farthest(made, OWN, allowed=0).closer == closed(CLOSER)
    # At 6 the second query gives way to its first look, and the third one to its second; at 5
    # the third to its first, which fails.
    assert farthest(made, OWN, allowed=1) == at(5.0, 5.5)
    assert farthest(made, OWN, allowed=2).closer.threshold < 5.0
    kept = whole(((1, 0), (9, 0), (9, 0)), ((1, 0), (6, 1), (9, 0))).run(OWN)
    assert farthest(kept, OWN, allowed=0) == OWN


def test_an_answer_that_fails_may_give_way_to_one_that_does_not():
    made = whole(((1, 0), (5, 0), (9, 1)), ((1, 0), (4, 1), (2, 1))).run(OWN)
    found = farthest(made, OWN, allowed=1)
    assert made.outcome(OWN).failed.tolist() == [True, False]
    assert 1.99 < found.closer.threshold < 2.0
    assert made.outcome(found).failed.tolist() == [False, True]


def test_without_any_look_the_closer_gate_stays_shut():
    made = whole(((9, 0), (9, 0))).run(OWN)
    assert farthest(made, OWN, allowed=9) == Gates(FIRST, closed(CLOSER))


def test_too_little_data_accepts_nothing_and_says_how_much_would_do():
    made = choose_two(LINE, OWN, **SURE)
    assert made.gates == shut(OWN)
    assert made.gates.closer_is_shut
    assert (made.accepted, made.failures) == (0, 0)
    assert made.needed > 8
    assert cross_fitted_two(LINE, OWN, **SURE) is None


@pytest.mark.parametrize("field", ["max_loss", "confidence"])
def test_what_is_no_share_is_named(field):
    with pytest.raises(ConfigError, match=field):
        choose_two(LINE, OWN, **(SURE | {field: 1.0}))


answers = st.tuples(st.integers(0, 12), st.booleans())


@given(
    st.integers(1, 3).flatmap(
        lambda depth: st.lists(st.tuples(*[answers] * (depth + 1)), min_size=1, max_size=30)
    ),
    st.integers(0, 8),
    st.sampled_from([True, False]),
)
def test_what_is_accepted_and_fails_is_as_on_every_point_tried_by_itself(rows, allowed, strict):
    """Count at every threshold on the line with `outcome`: the oracle of the quick count."""
    gates = Gates(replace(FIRST, strict=strict), replace(CLOSER, strict=strict))
    looked = whole(*rows).run(OWN)
    found = farthest(looked, gates, allowed=allowed)
    assert looked.outcome(found).failed.sum() <= allowed
    assert not looked.outcome(found).unknown.any()
    if found.first != gates.first or found.closer_is_shut:
        return
    top = 13.0 if looked.scores.shape[1] == 1 else CLOSER.threshold
    steps = [t for t in np.arange(top, found.closer.threshold, -0.5) if t % 1 or t == top]
    for step in [*steps, found.closer.threshold]:
        point = Gates(gates.first, replace(gates.closer, threshold=float(step)))
        assert looked.outcome(point).failed.sum() <= allowed


@dataclass
class Truth:
    """Scores U(0, 1), p(fails | s) = ceiling (1 - s)^2; the risk of two gates is known."""

    own: Gates
    depth: int
    beta: float = 0.6
    ceiling: float = 0.5

    def draw(self, rng, count):
        scores = rng.random((count, self.depth + 1))
        failed = rng.random(scores.shape) < self.ceiling * (1 - scores) ** 2
        return Whole(scores, failed, rng.random(count) < self.beta)

    def risk(self, gates):
        first, closer = (min(max(g.threshold, 0.0), 1.0) for g in (gates.first, gates.closer))
        left = 1 - self.beta * (1 - first)
        looks = sum(closer**place for place in range(self.depth))
        fail = [self.ceiling * (1 - threshold) ** 3 / 3 for threshold in (first, closer)]
        return self.beta * fail[0] + left * looks * fail[1]


GRID = [(a / 12, b / 12) for a in range(13) for b in range(13)]


def naive(drawn, allowed):
    """The best-pair rule: of all pairs that no more fail under than may, the most accepting one."""
    passed = drawn.screened[:, None] & (drawn.scores[:, :1] > np.array(GRID)[:, 0])  # (N, P)
    after = ~passed & (drawn.scores[:, 1:2] > np.array(GRID)[:, 1])
    failures = (passed & drawn.failed[:, :1]).sum(0) + (after & drawn.failed[:, 1:2]).sum(0)
    taken = np.where(failures <= allowed, (passed | after).sum(0), -1)
    return at(*GRID[int(taken.argmax())])


@pytest.mark.parametrize("count", [100, 500, 2000])
@pytest.mark.parametrize(
    ("own", "depth"),
    [
        (at(0.5, 0.6), 1),  # the bound is met on the closer gate's part of the line
        (at(0.1, 0.6), 1),  # on the first gate's
        (at(0.5, 0.6), 2),
        (at(2.0, 2.0), 2),  # a run that accepted nothing
    ],
)
def test_the_stated_risk_is_exceeded_no_more_often_than_stated(own, depth, count):
    sets, truth = 1000, Truth(own, depth)
    rng = np.random.default_rng(count)
    broken = naively_broken = accepted = 0
    for _ in range(sets):
        drawn = truth.draw(rng, count)
        made = choose_two(drawn.run(own), own, **SURE)
        broken += truth.risk(made.gates) > SURE["max_loss"]
        accepted += made.accepted
        if depth == 1:
            best = naive(drawn, int(SURE["max_loss"] * count))
            naively_broken += truth.risk(best) > SURE["max_loss"]
    allowed = 1 - SURE["confidence"]
    error = 3 * math.sqrt(allowed * SURE["confidence"] / sets)
    assert broken / sets <= allowed + error
    assert accepted / (sets * count) > {100: 0.05, 500: 0.25, 2000: 0.3}[count]
    assert depth > 1 or naively_broken / sets > 0.3


def test_held_out_risk_is_about_the_true_one():
    truth = Truth(at(0.5, 0.6), 1)
    looked = truth.draw(np.random.default_rng(5), 20_000).run(truth.own)
    made = choose_two(looked, truth.own, **SURE)
    found = cross_fitted_two(looked, truth.own, **SURE)
    assert found.low < truth.risk(made.gates) < found.high
