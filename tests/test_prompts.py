"""The wording of Phases I and II, and the ids that tie thresholds to it."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from speceyes import prompts
from speceyes.types import Box, Image, Picture, Query, Text, View

SCENE = Picture(b"scene", "image/png", 672, 672)
SEEN = Picture(b"seen", "image/png", 112, 112)
VIEW = View(SEEN, Box(0, 0, 672, 672))


def asked(question="Which shape?", options=()):
    return Query(question, (SCENE,), options, query_id="q")


def words(conversation):
    (message,) = conversation
    return "".join(part.text for part in message.parts if isinstance(part, Text))


def test_a_question_without_options_stands_alone():
    assert prompts.question_text(asked(" Which shape?\n")) == "Which shape?"


def test_short_options_share_one_line():
    text = prompts.question_text(asked(options=("star", " ring ", "disc")))
    assert text == "Which shape?\n(A) star (B) ring (C) disc"


@pytest.mark.parametrize(
    "long", ["to the left of the blue bicycle", "two\nlines"], ids=["long", "lines"]
)
def test_long_options_have_a_line_each(long):
    text = prompts.question_text(asked(options=(long, "ring")))
    assert text == f"Which shape?\n(A) {long}\n(B) ring"


def test_the_letters_go_on_after_z():
    text = prompts.question_text(asked(options=tuple(f"o{i}" for i in range(28))))
    assert text.endswith("(Z) o25 (AA) o26 (AB) o27")


def test_other_languages_come_through_unchanged():
    query = asked("赤い物の形は？", ("星", "輪"))
    assert prompts.question_text(query) == "赤い物の形は？\n(A) 星 (B) 輪"
    assert words(prompts.screen(query, (VIEW,))).startswith("赤い物の形は？\n(A) 星 (B) 輪\n")


@pytest.mark.parametrize("prompt", [prompts.screen, prompts.speculate])
def test_one_user_message_shows_every_view_and_then_asks(prompt):
    other = View(Picture(b"other", "image/png", 56, 56), Box(0, 0, 56, 56, 1))
    (message,) = prompt(asked(), (VIEW, other))
    assert message.role == "user"
    assert message.parts[:2] == (Image(SEEN), Image(other.picture))
    assert len(message.parts) == 3
    assert message.parts[2].text.startswith("Which shape?\n")


def test_the_screen_asks_for_yes_or_no_and_yes_means_the_tool():
    text = words(prompts.screen(asked(), (VIEW,)))
    assert text.endswith("Say only yes or no.")
    assert "is a tool that zooms into the picture needed" in text


def test_speculation_names_the_options_only_if_there_are_any():
    free = words(prompts.speculate(asked(), (VIEW,)))
    chosen = words(prompts.speculate(asked(options=("star", "ring")), (VIEW,)))
    assert free == "Which shape?\nGive only the final answer."
    assert chosen.endswith("\nGive only the final answer, in the words of one option.")


OPTION = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1).map(
    str.strip
)


@given(st.lists(OPTION.filter(bool), min_size=2, max_size=30, unique_by=str.casefold))
def test_it_is_all_one_whether_options_come_apart_or_in_the_text(options):
    assume(not any("(" in option for option in options))
    apart = asked(options=tuple(options))
    together = asked(prompts.question_text(apart))
    assert prompts.speculate(together, (VIEW,)) == prompts.speculate(apart, (VIEW,))
    assert prompts.screen(together, (VIEW,)) == prompts.screen(apart, (VIEW,))


@pytest.mark.parametrize(
    "question",
    [
        "Which shape?",
        "Which (A) shape (B) is it?",  # no list of its own
        "Which shape?\n(A) star",
        "Which shape?\n(B) star (A) ring",
        "Which shape?\n(A) star (C) ring",
        "Which shape?\n(A) star\n(B) ring\nAnswer with the option's letter.",
        "f(A) or f(B)?",
    ],
)
def test_text_that_does_not_end_in_options_is_answered_freely(question):
    assert words(prompts.speculate(asked(question), (VIEW,))).endswith(
        "Give only the final answer."
    )


def test_the_words_the_built_in_pair_was_trained_with_have_not_changed():
    # A change here means training both models and calibrating the gate anew.
    assert prompts.SCREEN_ID == "screen-d2ad082d"
    assert prompts.SPECULATE_ID == "speculate-768a00d4"
    assert prompts.SCREEN_WITHIN_ID == "screen-shared-df5f3145"


@pytest.mark.parametrize(
    ("constant", "changed"),
    [("_SCREEN", {"SCREEN_ID", "SCREEN_WITHIN_ID"}), ("_OPTION_ANSWER", {"SPECULATE_ID"})],
)
def test_a_changed_word_changes_the_id_of_its_prompt_alone(monkeypatch, constant, changed):
    monkeypatch.setattr(prompts, constant, "Other words.")
    fresh = {
        "SCREEN_ID": prompts._prompt_id("screen", prompts.screen),
        "SPECULATE_ID": prompts._prompt_id("speculate", prompts.speculate),
        "SCREEN_WITHIN_ID": prompts._prompt_id("screen-shared", prompts._screen_alike),
    }
    assert {name for name, value in fresh.items() if value != getattr(prompts, name)} == changed
