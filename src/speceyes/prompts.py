"""Here is what the two models are asked outside the tool loop: Phase I's question and Phase II's.

It refuses to know engines, tokenizers and thresholds. A changed word changes the prompt's id, so
that no threshold outlives the wording it was measured with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from string import ascii_uppercase
from typing import Final, TypeAlias

from speceyes.types import Conversation, Image, Message, Picture, Query, Text, View

_Prompt: TypeAlias = Callable[[Query, tuple[View, ...]], Conversation]

_SHORT_OPTION_CHARS: Final = 24
_MARK: Final = re.compile(r"(?<!\S)\(([A-Z]{1,2})\) ")
_FREE_ANSWER: Final = "Give only the final answer."
_OPTION_ANSWER: Final = "Give only the final answer, in the words of one option."
_SCREEN: Final = (
    "Do not answer yet: is a tool that zooms into the picture needed to answer reliably? "
    "Say only yes or no."
)


def question_text(query: Query) -> str:
    """Put the question and its options into words; short options share one line.

    >>> picture = Picture(b"any", "image/png", 1, 1)
    >>> print(question_text(Query("Which shape?", (picture,), ("star", "ring", "disc"))))
    Which shape?
    (A) star (B) ring (C) disc
    """
    question = query.question.strip()
    if not query.options:
        return question
    return f"{question}\n{options_text(query)}"


def options_text(query: Query) -> str:
    """Put the options alone into words, each with its letter; without options, nothing."""
    options = [option.strip() for option in query.options]
    is_short = all(len(option) <= _SHORT_OPTION_CHARS for option in options)
    is_single_line = all(len(option.splitlines()) == 1 for option in options)
    separator = " " if is_short and is_single_line else "\n"
    return separator.join(f"({_letter(place)}) {option}" for place, option in enumerate(options))


def speculate(query: Query, views: tuple[View, ...]) -> Conversation:
    """Ask the small model for the answer and nothing else (Phase II)."""
    return _one_message(views, f"{question_text(query)}\n{answer_briefly(query)}")


def answer_briefly(query: Query) -> str:
    """Say in which words the answer is to be given: an option's if there are any, and no more.

    Options that end the question's own text count as well, so that a query asks the same however
    its options came in: a threshold found with one is valid for the other.
    """
    has_options = query.options or _ends_in_options(query.question.strip())
    return _OPTION_ANSWER if has_options else _FREE_ANSWER


def screen(query: Query, views: tuple[View, ...]) -> Conversation:
    """Ask the large model whether it needs a tool (Phase I, the paper's order); yes: it does.

    Source: arXiv 2603.23483, Phase I: picture, question, then the instruction to judge.
    """
    return _one_message(views, f"{question_text(query)}\n{_SCREEN}")


def screen_within(opening: Conversation) -> Conversation:
    """Ask the same at the end of the agent's own opening, whose prefill it then shares.

    Said in the opening's last message, so that all before its end is the agent's word for word.
    """
    *before, last = opening
    return (*before, Message(last.role, (*last.parts, Text(f"\n{_SCREEN}"))))


def _screen_alike(query: Query, views: tuple[View, ...]) -> Conversation:
    return screen_within(_one_message(views, query.question))


def _one_message(views: tuple[View, ...], text: str) -> Conversation:
    pictures = tuple(Image(view.picture) for view in views)
    return (Message("user", (*pictures, Text(text))),)


def _ends_in_options(text: str) -> bool:
    marks = list(_MARK.finditer(text))
    letters = [mark[1] for mark in marks]
    if len(marks) < 2 or letters != [_letter(place) for place in range(len(marks))]:
        return False
    begins_line = text[: marks[0].start()].endswith("\n")
    return begins_line and "\n" not in text[marks[-1].end() :]  # else words of some other kind


def _letter(place: int) -> str:
    # After Z come AA, AB, ..., as in a spreadsheet.
    above, last = divmod(place, len(ascii_uppercase))
    return (_letter(above - 1) if above else "") + ascii_uppercase[last]


def _prompt_id(name: str, prompt: _Prompt) -> str:
    # All wording shows in three probes: no options, short ones, long ones.
    picture = Picture(b"probe", "image/png", 1, 1)
    probes = ((), ("a", "b"), ("a" * (_SHORT_OPTION_CHARS + 1), "b"))
    worded = [prompt(Query("?", (picture,), options, "probe"), ()) for options in probes]
    digest = hashlib.blake2b(repr(worded).encode(), digest_size=4).hexdigest()
    return f"{name}-{digest}"


SPECULATE_ID: Final = _prompt_id("speculate", speculate)
SCREEN_ID: Final = _prompt_id("screen", screen)
SCREEN_WITHIN_ID: Final = _prompt_id("screen-shared", _screen_alike)
