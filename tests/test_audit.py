"""Watching a stated risk: false alarms as seldom as stated, drift caught, state of a fixed size."""

import math
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.calibration import drift
from speceyes.calibration.audit import (
    Audit,
    AuditSpec,
    Seen,
    anytime_estimate,
    observe,
    renewed,
    tightened,
)
from speceyes.calibration.thresholds import closed
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec

SPEC = AuditSpec(max_loss=0.02, share=0.1, edges=(3.0, 4.0, 5.0))
GATE = GateSpec(threshold=2.0, k=12)
HIT, MISS, AGENT = Seen(4.5, True), Seen(4.5, False), Seen()

seens = st.lists(
    st.builds(Seen, st.none() | st.floats(0.0, 9.0), st.none() | st.booleans()), max_size=80
)


def traffic(rng, count, *, risk, accepted=0.5, share=0.1):
    """Draw queries: so many are accepted, and of all so large a share is accepted and differs."""
    for _ in range(count):
        if rng.random() >= accepted:
            yield AGENT
        else:
            differs = bool(rng.random() < risk / accepted)
            yield Seen(float(rng.uniform(2.0, 6.0)), differs if rng.random() < share else None)


def watch(spec, queries):
    audit = Audit(spec)
    for seen in queries:
        audit = observe(audit, seen)
        if audit.is_alarmed:
            break
    return audit


def test_a_bound_that_holds_raises_no_alarm():
    rng = np.random.default_rng(1)
    runs = [watch(SPEC, traffic(rng, 3000, risk=0.02)) for _ in range(20)]
    assert sum(audit.is_alarmed for audit in runs) <= 2  # stated: 1 of 20
    assert all(audit.queries == 3000 for audit in runs if not audit.is_alarmed)


def test_alarms_are_false_no_more_often_than_stated():
    # At the bound itself, where most are; with an alarm meant to be false one time in five.
    spec, sets = replace(SPEC, false_alarm=0.2, edges=()), 300
    rng = np.random.default_rng(2)
    broken = sum(
        watch(spec, traffic(rng, 400, risk=0.02, accepted=0.1)).is_alarmed for _ in range(sets)
    )
    assert broken / sets <= 0.2 + 3 * math.sqrt(0.16 / sets)


@pytest.mark.parametrize("calm", [0, 4000])
def test_drift_is_caught_soon_after_it_comes_however_long_the_calm_before(calm):
    rng = np.random.default_rng(3)
    audit = Audit(SPEC)
    for seen in traffic(rng, calm, risk=0.002):
        audit = observe(audit, seen)
    assert not audit.is_alarmed
    for seen in traffic(rng, 3000, risk=0.2):
        audit = observe(audit, seen)
    assert calm < audit.alarmed_at < calm + 1000


@given(seens)
def test_the_state_does_not_grow(many):
    audit = reduce(observe, many, Audit(SPEC))
    assert audit.queries == audit.counts.queries == len(many)
    assert len(audit.bets) == (len(SPEC.factors) if many else 0)
    for counts in (audit.counts, audit.recent, audit.before):
        assert len(counts.hits) in {0, 4}
    assert audit.checked >= audit.differing


@given(seens)
def test_every_bet_is_fair_at_the_bound(many):
    """What a query is worth on average, at just the stated risk, is no more than its stake."""
    audit = reduce(observe, many, Audit(SPEC))
    q, n = SPEC.hit_rate, audit.queries + 1
    after = [q * a + (1 - q) * b for a, b in zip(*_next(audit), strict=True)]
    stake = 1 / (n * (n + 1))
    wanted = [bet + stake for bet in audit.bets or (0.0,) * len(after)]
    assert after == pytest.approx(wanted)


def _next(audit):
    return observe(audit, HIT).bets, observe(audit, MISS).bets


def test_an_alarm_stays():
    audit = reduce(observe, [HIT] * 20, Audit(SPEC))
    assert audit.alarmed_at is not None
    assert observe(audit, MISS).alarmed_at == audit.alarmed_at
    assert renewed(audit) == Audit(replace(SPEC, false_alarm=0.025))


def test_what_cannot_be_an_audit_is_named():
    for field, value in [("max_loss", 0.0), ("share", 0.0), ("edges", (2.0, 1.0)), ("window", 0)]:
        with pytest.raises(ConfigError, match=f"audit.{field}"):
            replace(SPEC, **{field: value})


def counted(*rows):
    """Audit queries of (how many, score, differs)."""
    return reduce(observe, [Seen(s, d) for n, s, d in rows for _ in range(n)], Audit(SPEC))


def test_the_threshold_is_tightened_to_where_the_bound_holds():
    audit = counted((2000, 5.5, False), (100, 4.5, False), (60, 3.5, True))
    assert tightened(replace(audit, before=audit.counts), GATE).threshold == 4.0
    assert tightened(counted((2000, 5.5, False)), GATE).threshold == 3.0  # the lowest edge
    assert tightened(counted((2000, 5.5, True)), GATE) == closed(GATE)
    assert tightened(Audit(SPEC), GATE) == closed(GATE)


@given(seens, st.floats(0.0, 8.0))
def test_it_is_never_loosened(many, threshold):
    gate = replace(GATE, threshold=threshold)
    audit = reduce(observe, many, Audit(replace(SPEC, max_loss=0.9, share=1.0)))
    assert tightened(audit, gate).threshold >= threshold


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.6, 0.99))
def test_the_range_at_all_times_is_around_what_was_counted(one, other, confidence):
    found = anytime_estimate(one, one + other, confidence=confidence)
    assert 0.0 <= found.low <= (found.value or 0.0) <= found.high <= 1.0


def test_the_range_holds_at_all_times_together():
    rng, sets, share = np.random.default_rng(4), 300, 0.2
    broken = 0
    for _ in range(sets):
        counts = np.cumsum(rng.random(200) < share).tolist()
        ranges = (
            anytime_estimate(k, n, confidence=0.8) for n, k in enumerate(counts, 1) if n % 4 == 0
        )
        broken += any(not r.low <= share <= r.high for r in ranges)
    assert broken / sets <= 0.2 + 3 * math.sqrt(0.16 / sets)


def scored(reference, scores):
    return reduce(drift.observe, scores, drift.Drift(reference))


def test_scores_as_before_raise_no_alarm_and_others_do():
    rng = np.random.default_rng(6)
    alarms = caught = 0
    for _ in range(20):
        reference = drift.reference_of(rng.normal(8, 2, 300).tolist())
        calm = scored(reference, rng.normal(8, 2, 1500).tolist())
        alarms += calm.is_alarmed
        caught += reduce(drift.observe, rng.normal(5, 2, 1000).tolist(), calm).is_alarmed
        assert calm.windows == 3
        assert calm.psi < 0.25
    assert alarms <= 2  # stated: 1 of 20
    assert caught == 20


@given(st.lists(st.floats(-5.0, 5.0), max_size=40), st.lists(st.floats(-5.0, 5.0), max_size=40))
def test_the_drift_test_does_not_grow_and_a_small_reference_is_no_error(first, then):
    reference = drift.reference_of(first, window=16)
    found = scored(reference, then)
    assert len(found.counts) in {0, len(reference.edges) + 1}
    assert found.windows == len(then) // 16
    assert sum(found.counts) == len(then) % 16


def test_bins_are_the_calibrations_quantiles():
    reference = drift.reference_of([float(n) for n in range(100)])
    assert len(reference.edges) == 9
    assert reference.counts == (10,) * 10
    assert drift.reference_of([1.0] * 50).counts == (50, 0)


def test_what_cannot_be_a_reference_is_named():
    for change in [{"counts": (1,)}, {"edges": (2.0, 1.0), "counts": (1, 1, 1)}, {"window": 0}]:
        made = {"edges": (1.0,), "counts": (1, 1)} | change
        with pytest.raises(ConfigError, match=r"drift\."):
            drift.Reference(**made)
