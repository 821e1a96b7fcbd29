"""Re-scoring: what other thresholds would have given, from a run's records alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.rescore import Case, at, cases_of, sweep
from speceyes.bench.summary import by_method, summarise
from tests.scripted_pair import tiny_run


def a_case(score, *, small=True, agent=True, screened=True, agent_s=10.0):
    return Case(
        is_screened=screened,
        score=score,
        small_right=small,
        agent_right=agent,
        between_s=0.5,
        screen_s=0.5,
        speculate_s=1.0,
        agent_s=agent_s,
        alone_s=agent_s,
    )


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
        st.none() | st.floats(0.0, 12.0),
        small=st.booleans(),
        agent=st.booleans(),
        screened=st.booleans(),
        agent_s=st.floats(0.1, 20.0),
    ),
    min_size=1,
    max_size=30,
)


def test_each_threshold_has_the_accuracy_and_time_worked_out_by_hand():
    made = sweep(CASES)
    assert made.thresholds[1:].tolist() == [2.0, 4.0, 6.0]
    assert made.accepted.tolist() == [0.6, 0.4, 0.2, 0.0]
    assert made.accuracy.tolist() == [0.8, 1.0, 1.0, 0.8]
    spent_s = [ALWAYS_S + 10.0 * (5 - n) for n in (3, 2, 1, 0)]
    assert made.speedup.tolist() == pytest.approx([50.0 / s for s in spent_s])
    assert made.agent_accuracy == 0.8


def test_strictly_above_or_not():
    strict, loose = sweep(CASES), sweep(CASES, strict=False)
    assert strict.accepted[at(strict, 4.0)] == 0.2  # only 6 is above 4
    assert loose.accepted[at(loose, 4.0)] == 0.4  # 4 and 6
    assert strict.accepted[at(strict, 3.999)] == loose.accepted[at(loose, 3.999)] == 0.4


def test_below_all_scores_everything_that_may_pass_does():
    made = sweep(CASES)
    assert at(made, -100.0) == 0
    assert at(made, 100.0) == 3


def test_nothing_to_rescore():
    assert sweep([]) is None
    assert cases_of([]) == []


def test_nothing_screened_changes_nothing():
    made = sweep([a_case(5.0, screened=False)])
    assert made.accepted.tolist() == [0.0]


@given(cases, st.booleans(), st.floats(-2.0, 14.0))
def test_any_threshold_agrees_with_gating_case_by_case(drawn, strict, threshold):
    made = sweep(drawn, strict=strict)
    passed = [
        c.is_screened
        and c.score is not None
        and (c.score > threshold if strict else c.score >= threshold)
        for c in drawn
    ]
    if threshold >= made.thresholds[0]:
        step = at(made, threshold)
        right = [
            c.small_right if ok else c.agent_right for c, ok in zip(drawn, passed, strict=True)
        ]
        assert made.accepted[step] == pytest.approx(np.mean(passed))
        assert made.accuracy[step] == pytest.approx(np.mean(right))
    assert (np.diff(made.accepted) <= 0).all()


def test_at_the_runs_own_threshold_it_gives_back_the_run():
    run = tiny_run()
    summary = summarise(run.records, run.times, concurrency=1)
    made = sweep(cases_of(run.records))
    step = at(made, run.setup.gate.threshold)
    whole = summary.overall
    assert made.items == 60
    assert made.accuracy[step] == pytest.approx(whole.speceyes.accuracy.value)
    assert made.accepted[step] == pytest.approx(whole.alpha.value * whole.beta.value)
    assert made.agent_accuracy == pytest.approx(whole.baseline.accuracy.value)
    # The very times of the run, but for the agent's, which are those it took alone.
    by = by_method(run.records)
    ours, base = by["speceyes"], by["baseline"]
    spent_s = sum(r.elapsed_s - r.phase_s.get("fall_back", 0.0) for r in ours.values())
    spent_s += sum(base[i].phase_s["fall_back"] for i, r in ours.items() if r.route == "agentic")
    alone_s = sum(r.elapsed_s for r in base.values())
    assert made.speedup[step] == pytest.approx(alone_s / spent_s)
