"""Grading by rules: which answer a reply gives, and why it counts as right or wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.grade import grade, normalise
from speceyes.errors import QueryError

SHAPES = ("ring", "star", "disc", "cross")
ANIMALS = ("A cat", "A dog", "the red bird")

RIGHT = [
    ("star", "star", SHAPES),
    ("  Star. ", "star", SHAPES),
    ("a star", "star", SHAPES),
    ("The star!", "star", SHAPES),
    ('"star"', "star", SHAPES),
    ("**star**", "star", SHAPES),
    ("B", "star", SHAPES),
    ("b.", "star", SHAPES),
    ("(B)", "star", SHAPES),
    ("B)", "star", SHAPES),
    ("B:", "star", SHAPES),
    ("B. star", "star", SHAPES),
    ("(B) star", "star", SHAPES),
    ("(b). The star.", "star", SHAPES),
    ("B - star", "star", SHAPES),
    ("B: star", "star", SHAPES),
    ("The answer is star.", "star", SHAPES),
    ("The final answer is: B", "star", SHAPES),
    ("Answer: (B) star", "star", SHAPES),
    ("So the answer is B.", "star", SHAPES),
    ("a dog", "A dog", ANIMALS),
    ("Dog", "A dog", ANIMALS),
    ("B. a dog", "A dog", ANIMALS),
    ("red bird", "the red bird", ANIMALS),
    ("a", "A", ("B", "A")),  # an option's text goes before its letter
    ("on the\n left", "on the left", ("on the left", "on the right")),
    ("l\u2019eau", "l'eau", ("l'eau", "le feu")),
    ("\u661f", "\u661f", ("\u661f", "\u74b0")),
    ("yes", "yes", ()),
    ("Yes.", "yes", ()),
    ("YES, there is a red star.", "yes", ()),
    ("No, there is no star.", "no", ()),
    ("The answer is no.", "no", ()),
    ("42", "42", ()),
    ("Forty Two.", "forty two", ()),
]

WRONG = [
    (None, "star", SHAPES, "no answer was given"),
    ("", "star", SHAPES, "no answer was given"),
    (" \n", "star", SHAPES, "no answer was given"),
    ("...", "star", SHAPES, "no words"),
    ("ring", "star", SHAPES, "the option's text"),
    ("C", "star", SHAPES, "the option's letter"),
    ("F", "star", SHAPES, "letter F is beyond the 4 options"),
    ("A. star", "star", SHAPES, "letter A is 'ring', yet the text says 'star'"),
    ("B. ring", "star", SHAPES, "letter B is 'star', yet the text says 'ring'"),
    ("B. starfish", "star", SHAPES, "the text says no option"),
    ("starfish", "star", SHAPES, "neither an option's text nor its letter"),
    ("star or ring", "star", SHAPES, "neither"),
    ("It is not a star", "star", SHAPES, "neither"),
    ("maybe", "yes", (), "does not begin with yes or no"),
    ("yes and no", "yes", (), "both"),
    ("nothing", "no", (), "does not begin"),
    ("there is, yes", "yes", (), "does not begin"),
    ("43", "42", (), "read as text"),
]


@pytest.mark.parametrize(("reply", "truth", "options"), RIGHT)
def test_right(reply, truth, options):
    graded = grade(reply, truth, options)
    assert (graded.value, graded.answer) == ("right", truth), graded.explanation


@pytest.mark.parametrize(("reply", "truth", "options", "why"), WRONG)
def test_wrong_and_why(reply, truth, options, why):
    graded = grade(reply, truth, options)
    assert graded.value == "wrong"
    assert why in graded.explanation


def test_defect_answer_in_prediction_with_a_accepts_b_a_dog():
    assert grade("B. A dog", "A", ()).value == "wrong"
    assert grade("B. A dog", "A cat", ("A cat", "A dog")).value == "wrong"
    assert grade("B. A dog", "A dog", ("A cat", "A dog")).value == "right"


def test_options_that_differ_in_articles_alone_are_told_apart():
    options = ("a dog", "the dog")
    assert grade("the dog", "the dog", options).value == "right"
    assert grade("dog", "the dog", options).answer is None


def test_an_answer_that_is_no_option_is_the_suites_fault():
    with pytest.raises(QueryError, match="none of the options"):
        grade("star", "square", SHAPES)


@given(st.sampled_from(SHAPES), st.sampled_from(SHAPES), st.sampled_from(["{}", "({})", "{}."]))
def test_letter_and_text_agree_on_every_option(said, truth, form):
    letter = form.format("ABCD"[SHAPES.index(said)])
    expected = grade(said, truth, SHAPES)
    for reply in (letter, f"{letter} {said}" if letter[-1] in ".)" else letter):
        assert grade(reply, truth, SHAPES).value == expected.value


@given(st.text(), st.sampled_from([(), SHAPES]))
def test_any_reply_gets_a_grade_with_a_reason(reply, options):
    graded = grade(reply, "star", options)
    assert graded.explanation
    assert graded.is_right == (graded.answer == "star")


@given(st.text("aehtx. \n"))
def test_case_and_space_never_matter(text):
    assert normalise(f"\n {text.upper()}  ") == normalise(text)
