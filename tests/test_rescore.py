"""Re-scoring: what other thresholds would have given, from a run's records alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.comparison import compare
from speceyes.bench.rescore import Case, at, cases_of, outlook, sweep
from speceyes.gate import GateSpec, judge, scores_all
from tests.scripted_pair import GATE, sure, tiny_run

OPEN = GateSpec(threshold=-np.inf, k=16)
LOOSE = replace(OPEN, strict=False)


def a_case(score, *, small=True, agent=True, screened=True, agent_s=10.0):
    return Case(
        split="attribute",
        is_screened=screened,
        said=None if score is None else said_with(score),
        small_right=small,
        agent_right=agent,
        between_s=0.5,
        screen_s=0.5,
        speculate_s=1.0,
        agent_s=agent_s,
        alone_s=agent_s,
    )


def said_with(separability):
    return sure("star", separability)


def score_of(case):
    return None if case.said is None else judge(case.said, OPEN).score


# Scores 2 (wrong), 4 and 6 (right) are screened, one is not, one has no score.
CASES = [
    a_case(2.0, small=False),
    a_case(4.0),
    a_case(6.0, agent=False),
    a_case(9.0, screened=False),
    a_case(None, small=False),
]
ALWAYS_S = 5 * 1.0 + 4 * 1.0

cases = st.lists(
    st.builds(
        a_case,
        st.none() | st.floats(2.0, 12.0),
        small=st.booleans(),
        agent=st.booleans(),
        screened=st.booleans(),
        agent_s=st.floats(0.1, 20.0),
    ),
    min_size=1,
    max_size=30,
)


def test_each_threshold_has_the_accuracy_and_time_worked_out_by_hand():
    made = sweep(CASES, OPEN)
    assert made.thresholds[1:].tolist() == pytest.approx([2.0, 4.0, 6.0], abs=1e-4)
    assert made.scored == 3
    assert made.accepted.tolist() == [0.6, 0.4, 0.2, 0.0]
    assert made.accuracy.tolist() == [0.8, 1.0, 1.0, 0.8]
    spent_s = [ALWAYS_S + 10.0 * (5 - n) for n in (3, 2, 1, 0)]
    assert made.speedup.tolist() == pytest.approx([50.0 / s for s in spent_s])
    assert made.agent_accuracy == 0.8


def test_strictly_above_or_not():
    strict, loose = sweep(CASES, OPEN), sweep(CASES, LOOSE)
    four = score_of(CASES[1])
    assert strict.accepted[at(strict, four)] == 0.2  # only 6 is above 4
    assert loose.accepted[at(loose, four)] == 0.4  # 4 and 6
    assert strict.accepted[at(strict, 3.99)] == loose.accepted[at(loose, 3.99)] == 0.4


def test_below_all_scores_everything_that_may_pass_does():
    made = sweep(CASES, OPEN)
    assert at(made, -100.0) == 0
    assert at(made, 100.0) == 3


def test_nothing_to_rescore():
    assert sweep([], OPEN) is None
    assert outlook([], OPEN) is None
    assert cases_of([]) == []


def test_nothing_screened_changes_nothing():
    made = sweep([a_case(5.0, screened=False)], OPEN)
    assert made.accepted.tolist() == [0.0]


@given(cases, st.booleans(), st.floats(-2.0, 14.0))
def test_any_threshold_agrees_with_gating_case_by_case(drawn, strict, threshold):
    spec = replace(OPEN, strict=strict, threshold=threshold)
    made = sweep(drawn, spec)
    passed = [c.is_screened and c.said is not None and judge(c.said, spec).accepted for c in drawn]
    if threshold >= made.thresholds[0]:
        step = at(made, threshold)
        right = [
            c.small_right if ok else c.agent_right for c, ok in zip(drawn, passed, strict=True)
        ]
        assert made.accepted[step] == pytest.approx(np.mean(passed))
        assert made.accuracy[step] == pytest.approx(np.mean(right))
    assert (np.diff(made.accepted) <= 0).all()


def test_a_single_gate_agrees_with_the_sweep_at_its_threshold():
    made, gate = sweep(CASES, OPEN), replace(OPEN, threshold=4.5)
    one = outlook(CASES, gate)
    step = at(made, 4.5)
    assert (one.spec, one.accuracy, one.accepted) == (gate, made.accuracy[step], 0.2)
    assert one.speedup == made.speedup[step]


@pytest.mark.parametrize("aggregation", ["min", "mean", "bottom", "log"])
@pytest.mark.parametrize(("k", "definition"), [(8, "rivals"), (64, "all")])
def test_any_other_gate_is_scored_from_the_evidence(k, definition, aggregation):
    spec = GateSpec(threshold=0.0, k=k, definition=definition, aggregation=aggregation)
    made = sweep(CASES, spec)
    wanted = {scores_all(c.said, k=k, definition=definition)[aggregation] for c in CASES[:3]}
    assert made.thresholds[1:].tolist() == pytest.approx(sorted(wanted))


def test_a_k_that_the_evidence_does_not_reach_lets_nothing_pass():
    made = sweep(CASES, GateSpec(threshold=0.0, k=96))
    assert (made.scored, made.accepted.tolist()) == (0, [0.0])


def test_at_the_runs_own_threshold_it_gives_back_the_run():
    run = tiny_run()
    (comparison,) = compare([run])
    made = sweep(comparison.cases, GATE)
    step = at(made, GATE.threshold)
    figures = comparison.summary.overall.figures
    assert made.items == 60
    assert made.accuracy[step] == pytest.approx(figures["SpecEyes"].accuracy.value)
    share = figures["SpecEyes"].alpha.value * figures["SpecEyes"].beta.value
    assert made.accepted[step] == pytest.approx(share)
    assert made.agent_accuracy == pytest.approx(figures["agent alone"].accuracy.value)
    # The very times of the run, but for the agent's, which are those it took alone.
    by = {(r.method, r.item_id): r for r in run.records}
    ours = [r for r in run.records if r.method == "speceyes"]
    spent_s = sum(r.elapsed_s - r.phase_s.get("fall_back", 0.0) for r in ours)
    spent_s += sum(
        by["baseline", r.item_id].phase_s["fall_back"] for r in ours if r.route == "agentic"
    )
    alone_s = sum(r.elapsed_s for r in run.records if r.method == "baseline")
    assert made.speedup[step] == pytest.approx(alone_s / spent_s)


def test_without_the_small_models_own_run_what_was_screened_is_known_all_the_same():
    (whole,) = compare([tiny_run()])
    (less,) = compare([tiny_run(methods=("baseline", "speceyes"))])
    for case, other in zip(whole.cases, less.cases, strict=True):
        if other.is_screened:
            assert (case.said, case.small_right) == (other.said, other.small_right)
        else:
            assert other.said is None
