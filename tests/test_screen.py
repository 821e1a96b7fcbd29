"""The screen: p(needs a tool) from one row of candidates, and doubt where there is no word."""

from dataclasses import replace

import numpy as np
import pytest

from speceyes.engines.replay import scripted
from speceyes.errors import ConfigError
from speceyes.screen import PAPER_SCREEN, ScreenSpec, needs_tool, p_needs_tool, read_need
from speceyes.types import Evidence


def first_token(**share):
    return evidence(list(share.items()))


def evidence(pairs):
    row = np.log(np.array([[p for _, p in pairs]]))
    return Evidence(row, row[:, 0], (tuple(text for text, _ in pairs),))


def test_yes_and_no_are_weighed_against_each_other_alone():
    assert p_needs_tool(first_token(Yes=0.6, no=0.2, The=0.2)) == pytest.approx(0.75)


def test_all_spellings_of_a_word_add_up():
    pairs = [
        ("yes", 0.1),
        (" Yes", 0.1),
        ("\u0120YES", 0.1),
        ("\u2581yes.", 0.1),
        ("\u010aNo", 0.1),
    ]
    assert p_needs_tool(evidence(pairs)) == pytest.approx(0.8)


def test_words_that_only_begin_alike_do_not_count():
    pairs = [("not", 0.4), ("yesterday", 0.3), ("n", 0.1), ("no", 0.1)]
    assert p_needs_tool(evidence(pairs)) == pytest.approx(0.0)


def test_one_word_alone_is_certain():
    assert p_needs_tool(first_token(yes=0.9, maybe=0.1)) == 1.0
    assert p_needs_tool(first_token(no=0.9, maybe=0.1)) == 0.0


def test_a_masked_candidate_holds_no_probability():
    rows = np.array([[-0.1, -np.inf, np.nan]])
    assert p_needs_tool(Evidence(rows, rows[:, 0], (("no", "yes", "Yes"),))) == 0.0


@pytest.mark.parametrize(
    "doubtful",
    [
        None,
        first_token(The=0.9, A=0.1),
        Evidence(np.zeros((0, 2)), np.zeros(0), ()),
        Evidence(np.zeros((0, 2)), np.zeros(0), (("yes", "no"),)),
        Evidence(np.log([[0.6, 0.4]]), np.log([0.6]), ()),
        Evidence(np.log([0.6, 0.4]), np.log([0.6]), (("yes", "no"),)),
    ],
    ids=["no-evidence", "other-words", "no-token", "no-row", "no-candidates", "one-axis"],
)
def test_doubt_is_none_and_needs_the_tool(doubtful):
    assert p_needs_tool(doubtful) is None
    assert needs_tool(p_needs_tool(doubtful), ScreenSpec(threshold=1.0))


@pytest.mark.parametrize(
    ("text", "p_tool"),
    [("yes", 1.0), ("No", 0.0), (" no.\n", 0.0), ("", None), ("no tool", None), ("maybe", None)],
)
def test_without_evidence_the_word_itself_is_read(text, p_tool):
    assert p_needs_tool(None, text=text) == p_tool


def test_with_evidence_of_any_kind_the_word_is_not_read():
    nothing = Evidence(np.zeros((0, 2)), np.zeros(0), ())
    assert p_needs_tool(nothing, text="no") is None
    assert p_needs_tool(first_token(yes=0.9, no=0.1), text="no") == pytest.approx(0.9)


def test_too_little_mass_is_doubt():
    stray = first_token(The=0.99, no=0.004)
    assert p_needs_tool(stray) == 0.0
    assert p_needs_tool(stray, min_mass=ScreenSpec().min_mass) is None


def test_the_threshold_itself_needs_the_tool():
    spec = ScreenSpec(threshold=0.3)
    assert needs_tool(0.3, spec)
    assert not needs_tool(0.2999, spec)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"threshold": 1.5}, "screen.threshold"),
        ({"threshold": float("nan")}, "screen.threshold"),
        ({"min_mass": -0.1}, "screen.min_mass"),
        ({"top_logprobs": 1}, "screen.top_logprobs"),
    ],
)
def test_a_spec_that_cannot_work_names_its_field(settings, field):
    with pytest.raises(ConfigError) as caught:
        ScreenSpec(**settings)
    assert caught.value.field == field


@pytest.mark.parametrize("text", ["No", "no.", " NO, it is plain", "Not needed", "nothing"])
def test_by_its_text_a_reply_that_begins_with_no_passes_the_screen(text):
    said = scripted(text, separability=None)
    assert read_need(said, PAPER_SCREEN) == 0.0


@pytest.mark.parametrize("text", ["Yes", "", "I think no", "the answer is no", "はい"])
def test_by_its_text_anything_else_is_a_need(text):
    said = scripted(text or "x", separability=None)
    p_tool = read_need(replace(said, text=text), PAPER_SCREEN)
    assert needs_tool(p_tool, PAPER_SCREEN)


def test_a_screen_of_no_tokens_is_refused():
    with pytest.raises(ConfigError, match="max_tokens"):
        ScreenSpec(rule="text", max_tokens=0)
