"""The gate: both published definitions by hand, and a reason for everything it rejects."""

import math

import numpy as np
import pytest

from speceyes.errors import ConfigError, GateInputError
from speceyes.gate import (
    PAPER,
    GateSpec,
    aggregate,
    check_evidence,
    judge,
    score,
    scores_all,
    squash,
    token_separability,
)
from speceyes.types import Evidence, Generation, Usage

# By hand. Row 0, rivals 1 0 -1: mean 0, std sqrt(2/3); all: mean .75, std sqrt(2.1875).
# Row 1, rivals 2 2 -1: mean 1, std sqrt(2); all: mean 2, std sqrt(4.5).
LOGITS = np.array([[3.0, 1.0, 0.0, -1.0], [5.0, 2.0, 2.0, -1.0]])
RIVALS = [3.0 / math.sqrt(2 / 3), 4.0 / math.sqrt(2.0)]
ALL = [2.25 / math.sqrt(2.1875), 3.0 / math.sqrt(4.5)]
SPEC = GateSpec(threshold=2.0, k=4)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def generation(rows=None, *, chosen=None, count=None, text="A", finish="stop", evidence=True):
    rows = log_softmax(LOGITS) if rows is None else np.asarray(rows, dtype=np.float64)
    chosen = rows[..., 0] if chosen is None else np.asarray(chosen)
    count = len(rows) if count is None else count
    return Generation(
        text, finish, None, count, Evidence(rows, chosen) if evidence else None, Usage.zero, "e"
    )


@pytest.mark.parametrize("rows", [LOGITS, log_softmax(LOGITS)], ids=["logits", "logprobs"])
@pytest.mark.parametrize(("definition", "expected"), [("rivals", RIVALS), ("all", ALL)])
def test_separability_equals_the_hand_computed_values(rows, definition, expected):
    assert token_separability(rows, definition=definition) == pytest.approx(expected, abs=1e-5)


def test_float32_log_probabilities_are_as_good():
    rows = log_softmax(LOGITS).astype(np.float32)
    assert token_separability(rows) == pytest.approx(RIVALS, abs=1e-5)


@pytest.mark.parametrize(
    "rows",
    [np.zeros(4), np.zeros((1, 2)), np.array([[1.0, 0.0, np.nan]]), np.array([[1, 0, -np.inf]])],
    ids=["one-axis", "two-candidates", "nan", "minus-infinity"],
)
def test_separability_refuses_rows_without_one(rows):
    with pytest.raises(GateInputError):
        token_separability(rows)


def test_the_papers_threshold_means_a_separability_of_6_486():
    assert squash(6.486) == pytest.approx(0.98, abs=1e-4)
    assert squash(0.0) == 0.5
    assert squash(1e308) == 1.0


def test_k_flips_the_verdict_on_the_same_row():
    # Rivals fall as -sqrt(i): the long tail widens the spread, so more candidates, lower score.
    row = np.concatenate([[5.0], -np.sqrt(np.arange(1, 64))])[None, :]
    answer = generation(log_softmax(row))
    at_64 = judge(answer, PAPER)
    at_20 = judge(answer, GateSpec(threshold=0.98, k=20, scale="squashed"))
    assert at_64.reason == "below_threshold"
    assert at_64.score == pytest.approx(squash(5.643896), abs=1e-5)
    assert at_20.reason == "accepted"
    assert at_20.score == pytest.approx(squash(8.267688), abs=1e-5)


def test_aggregations_by_hand():
    scores = np.array([9.0, 1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0, 10.0, 5.0])
    assert aggregate(scores, "min") == 1.0
    assert aggregate(scores, "bottom") == 1.5  # 20 % of eleven: two tokens
    assert aggregate(scores, "mean") == pytest.approx(60 / 11)
    assert aggregate(scores[:2], "bottom") == 1.0  # at least one token
    with pytest.raises(GateInputError):
        aggregate(scores[:0], "min")


def test_log_is_the_geometric_mean_probability_of_the_chosen_tokens():
    rows = np.log([[0.5, 0.3, 0.1], [0.125, 0.1, 0.05]])
    spec = GateSpec(threshold=0.2, k=3, aggregation="log")
    assert judge(generation(rows), spec).score == pytest.approx(0.25)


def test_scores_all_gives_the_four_raw_aggregations_and_none_for_bad_evidence():
    scores = scores_all(generation(), k=4)
    assert scores == pytest.approx(
        {
            "min": min(RIVALS),
            "mean": sum(RIVALS) / 2,
            "bottom": min(RIVALS),
            "log": math.exp(log_softmax(LOGITS)[:, 0].mean()),
        },
        abs=1e-5,
    )
    assert scores_all(generation(), k=5) is None
    assert scores_all(generation(evidence=False), k=4) is None


def test_scores_all_agrees_with_score_for_every_spec():
    answer = generation()
    scores = scores_all(answer, k=4, definition="all", bottom_share=0.6)
    for aggregation, value in scores.items():
        spec = GateSpec(0.0, 4, "all", aggregation, bottom_share=0.6)
        assert score(answer.evidence, spec) == value


def test_squashing_follows_aggregation_as_in_the_reference():
    spec = GateSpec(threshold=0.5, k=4, aggregation="mean", scale="squashed")
    assert judge(generation(), spec).score == pytest.approx(squash(sum(RIVALS) / 2), abs=1e-6)


def test_strict_rejects_a_score_at_the_threshold_and_lenient_accepts_it():
    value = judge(generation(), SPEC).score
    assert not judge(generation(), GateSpec(threshold=value, k=4)).accepted
    assert judge(generation(), GateSpec(threshold=value, k=4, strict=False)).accepted


def test_a_verdict_carries_the_spec_it_was_made_with():
    verdict = judge(generation(), SPEC)
    assert (verdict.accepted, verdict.reason) == (True, "accepted")
    assert verdict.spec is SPEC
    assert verdict.threshold == 2.0


def test_candidates_beyond_the_specs_k_change_nothing():
    rows = log_softmax(LOGITS)
    more = np.hstack([rows, rows[:, -1:] - 5.0, np.full((2, 1), -np.inf)])
    assert judge(generation(more), SPEC).score == pytest.approx(judge(generation(), SPEC).score)


GOOD = log_softmax(LOGITS)


def with_value(value, at):
    rows = GOOD.copy()
    rows[at] = value
    return rows


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (generation(finish="length"), "truncated"),
        (generation(text=" \n"), "empty_answer"),
        (generation(np.zeros((0, 4)), count=0), "empty_answer"),
        (generation(evidence=False), "no_evidence"),
        (generation(count=3), "length_mismatch"),
        (generation(chosen=GOOD[:1, 0]), "length_mismatch"),
        (generation(GOOD[0], count=2), "length_mismatch"),
        (generation(GOOD[:, :3]), "too_few_candidates"),
        (generation(with_value(np.nan, (1, 2))), "non_finite"),
        (generation(with_value(np.inf, (0, 0))), "non_finite"),
        (generation(chosen=[np.nan, np.nan]), "non_finite"),
        (generation(with_value(-np.inf, (1, 3))), "masked"),
        (generation(with_value(-9999.0, (1, 3))), "masked"),
        (generation(GOOD[:, ::-1], chosen=GOOD[:, 0]), "unsorted"),
        (generation(chosen=GOOD[:, 1]), "not_greedy"),
        (generation(np.zeros((2, 4))), "zeroed"),
        (generation(LOGITS - LOGITS[:, :1]), "zeroed"),
        (generation(chosen=[0.0, 0.0]), "zeroed"),
        (generation([[-1e-5, -12.0, -13.0, -15.0]], chosen=[0.0]), "zeroed"),
        (generation([[0.0, -12.0, -13.0, -15.0]] * 2), "zeroed"),
        (generation([[-5e-4, -12.0, -13.0, -15.0], GOOD[0]], chosen=[0.0, GOOD[0, 0]]), "zeroed"),
        (generation([[-0.1, -5.0, -5.0, -5.0]]), "constant"),
        (generation(np.full((1, 4), -4.16)), "constant"),
    ],
)
def test_unsound_evidence_is_rejected_with_its_reason(bad, reason):
    accept_all = GateSpec(threshold=-math.inf, k=4)
    assert check_evidence(bad, accept_all) == reason
    verdict = judge(bad, accept_all)
    assert (verdict.accepted, verdict.score, verdict.reason) == (False, None, reason)


def test_a_certainty_that_rounds_to_zero_is_sound_when_its_rivals_are_hopeless():
    assert judge(generation([[0.0, -17.5, -18.0, -20.0]]), SPEC).accepted


def test_one_token_rounded_to_zero_is_sound_beside_others_that_are_not():
    rows = [[0.0, -12.0, -13.0, -15.0], [-0.1, -3.0, -4.0, -5.0]]
    assert judge(generation(rows), SPEC).reason == "accepted"


def test_a_constant_row_is_seen_by_the_papers_definition_too():
    spec = GateSpec(threshold=-math.inf, k=4, definition="all")
    assert judge(generation(np.full((1, 4), -4.16)), spec).reason == "constant"
    assert judge(generation([[-0.1, -5.0, -5.0, -5.0]]), spec).accepted


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"threshold": math.nan, "k": 4}, "gate.threshold"),
        ({"threshold": 1.0, "k": 2}, "gate.k"),
        ({"threshold": 1.0, "k": 1, "definition": "all"}, "gate.k"),
        ({"threshold": 1.0, "k": 4, "bottom_share": 0.0}, "gate.bottom_share"),
        ({"threshold": 1.0, "k": 4, "aggregation": "log", "scale": "squashed"}, "gate.scale"),
    ],
)
def test_a_spec_that_cannot_work_names_its_field(settings, field):
    with pytest.raises(ConfigError) as caught:
        GateSpec(**settings)
    assert caught.value.field == field
