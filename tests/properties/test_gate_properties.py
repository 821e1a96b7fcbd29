"""What must hold of the gate for any rows whatever."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from speceyes.gate import GateSpec, aggregate, check_evidence, judge, scores_all, token_separability
from speceyes.types import Evidence, Generation, Usage

DEFINITIONS = st.sampled_from(["rivals", "all"])
SHAPES = st.tuples(st.integers(1, 6), st.integers(4, 24))


@st.composite
def logits(draw):
    rows = draw(hnp.arrays(np.float64, draw(SHAPES), elements=st.floats(-20, 20, width=32)))
    return -np.sort(-rows, axis=1) - 0.1 * np.arange(rows.shape[1])  # no row without spread


def log_softmax(rows):
    return rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)


def generation(evidence, count, finish="stop"):
    return Generation("A", finish, None, count, evidence, Usage.zero, "e")


@given(logits(), st.floats(-50, 50), DEFINITIONS)
def test_adding_a_constant_changes_nothing(rows, shift, definition):
    before = token_separability(rows, definition=definition)
    after = token_separability(rows + shift, definition=definition)
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)


@given(logits(), st.floats(0.1, 10), DEFINITIONS)
def test_scaling_changes_nothing_but_for_eps(rows, scale, definition):
    before = token_separability(rows, definition=definition)
    after = token_separability(rows * scale, definition=definition)
    assert after == pytest.approx(before, rel=1e-3)


@given(logits(), DEFINITIONS)
def test_log_probabilities_serve_as_logits(rows, definition):
    before = token_separability(rows, definition=definition)
    after = token_separability(log_softmax(rows), definition=definition)
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)


@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-100, 100)), st.floats(0.01, 1.0)
)
def test_min_is_at_most_bottom_is_at_most_mean(scores, share):
    bottom = aggregate(scores, "bottom", bottom_share=share)
    assert aggregate(scores, "min") <= bottom + 1e-9
    assert bottom <= aggregate(scores, "mean") + 1e-9


@given(logits())
def test_sound_evidence_is_scored(rows):
    logp = log_softmax(rows)
    answer = generation(Evidence(logp, logp[:, 0]), len(rows))
    scores = scores_all(answer, k=rows.shape[1])
    assert scores is not None
    assert 0.0 <= scores["min"] <= scores["bottom"] + 1e-9
    assert 0.0 <= scores["log"] <= 1.0
    assert judge(answer, GateSpec(threshold=-math.inf, k=rows.shape[1])).accepted


@given(logits(), st.data(), st.sampled_from([np.nan, np.inf, -np.inf, -9999.0]))
def test_one_bad_value_anywhere_rejects(rows, data, value):
    logp = log_softmax(rows)
    row = data.draw(st.integers(0, rows.shape[0] - 1))
    column = data.draw(st.integers(0, rows.shape[1] - 1))
    logp[row, column] = value
    answer = generation(Evidence(logp, logp[:, 0]), len(rows))
    reason = judge(answer, GateSpec(threshold=-math.inf, k=rows.shape[1])).reason
    assert reason == ("masked" if value in {-np.inf, -9999.0} else "non_finite")


@given(logits(), st.data())
def test_evidence_for_fewer_or_more_tokens_than_the_answer_has_rejects(rows, data):
    logp = log_softmax(rows)
    count = data.draw(st.integers(1, 12).filter(lambda n: n != len(rows)))
    answer = generation(Evidence(logp, logp[:, 0]), count)
    verdict = judge(answer, GateSpec(threshold=-math.inf, k=rows.shape[1]))
    assert (verdict.accepted, verdict.reason) == (False, "length_mismatch")


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6)),
    st.integers(0, 6),
    st.sampled_from(["min", "mean", "bottom", "log"]),
    DEFINITIONS,
)
def test_garbage_never_raises(topk, chosen, count, aggregation, definition):
    spec = GateSpec(1.0, 3, definition, aggregation)
    answer = generation(Evidence(topk, chosen), count)
    verdict = judge(answer, spec)
    if check_evidence(answer, spec) is None:
        assert math.isfinite(verdict.score)
    else:
        assert not verdict.accepted
        assert verdict.score is None
    scores_all(answer, k=3)


@given(st.integers(1, 8), st.integers(4, 12), st.floats(-30, 0, width=32))
def test_rows_of_one_value_never_pass(tokens, k, value):
    rows = np.full((tokens, k), value)
    answer = generation(Evidence(rows, rows[:, 0]), tokens)
    assert judge(answer, GateSpec(threshold=-math.inf, k=k)).reason in {"constant", "zeroed"}
