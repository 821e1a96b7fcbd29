"""A reply is graded against the right answer by rules alone, and every grade says why.

It refuses to know who replied and how. A rule that changes any grade changes `GRADER_VERSION`.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from speceyes.errors import QueryError

GRADER_VERSION: Final = 1

GradeValue: TypeAlias = Literal["right", "wrong"]

_YES_NO: Final = ("yes", "no")
_QUOTES: Final = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})
_OUTER: Final = string.whitespace + ".,;:!?\"'`*_"
_ARTICLE: Final = re.compile(r"(?:a|an|the)\s+(?=\S)")
_PREAMBLE: Final = re.compile(
    r"(?:so,?\s+)?(?:(?:the|my|final|correct)\s+)*answer(?:\s+is\s*:?|\s*:)\s*"
)
_LETTER_ALONE: Final = re.compile(r"\(?([a-z])\)?[.:)]?")
_LETTER_FIRST: Final = re.compile(
    r"(?:\(([a-z])\)[.:]?|([a-z])[.:)]|([a-z])\s[-\u2013])\s*(\S.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Grade:
    """Say if a reply is right, as which answer it was read (None: as none), and why."""

    value: GradeValue
    answer: str | None
    explanation: str

    @property
    def is_right(self) -> bool:
        """Whether the reply counts as right; everything else counts as wrong."""
        return self.value == "right"


def grade(reply: str | None, truth: str, options: Sequence[str] = ()) -> Grade:
    """Grade a reply: read which answer it gives, then compare that with the right one.

    With options a reply may be an option's text, its letter, or both if they agree. Yes and no may
    be followed by more words. Anything else must say the same text. Case, whitespace, outer
    punctuation and a leading article never matter.
    Raises: QueryError if the right answer is not among the options.

    >>> grade("(B) Star.", "star", ("ring", "star")).value
    'right'
    >>> grade("A. star", "star", ("ring", "star")).explanation
    "letter A is 'ring', yet the text says 'star'"
    """
    if options and truth not in options:
        raise QueryError("answer", f"{truth!r} is none of the options {tuple(options)}")
    if reply is None or not reply.strip():
        return Grade("wrong", None, "no answer was given")
    said = _bare(_PREAMBLE.sub("", _folded(reply), count=1))
    if not said:
        return Grade("wrong", None, "the reply holds no words")
    if options:
        answer, explanation = _read_option(said, options)
    elif _bare(_folded(truth)) in _YES_NO:
        answer, explanation = _read_yes_no(said)
        truth = _bare(_folded(truth))
    else:
        answer, explanation = reply.strip(), "read as text"
        if normalise(said) == normalise(truth):
            answer = truth
    return Grade("right" if answer == truth else "wrong", answer, explanation)


def normalise(text: str) -> str:
    """Fold what never matters: case, whitespace, outer punctuation, one leading article.

    >>> normalise(" The  Red STAR. ")
    'red star'
    """
    return _ARTICLE.sub("", _bare(_folded(text)), count=1)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold().split())


def _bare(text: str) -> str:
    return text.strip(_OUTER)


def _read_option(said: str, options: Sequence[str]) -> tuple[str | None, str]:
    exact = _same_text(said, options)
    if exact is not None:
        return exact, "says the option's text"
    alone = _LETTER_ALONE.fullmatch(said)
    if alone:
        return _by_letter(alone[1], options)
    first = _LETTER_FIRST.fullmatch(said)
    if not first:
        return None, "is neither an option's text nor its letter"
    letter, rest = first[1] or first[2] or first[3], first[4]
    lettered, explanation = _by_letter(letter, options)
    worded = _same_text(rest, options)
    if lettered is None or worded == lettered:
        return lettered, explanation if lettered is None else "says the option's letter and text"
    named = "no option" if worded is None else repr(worded)
    return None, f"letter {letter.upper()} is {lettered!r}, yet the text says {named}"


def _by_letter(letter: str, options: Sequence[str]) -> tuple[str | None, str]:
    index = ord(letter) - ord("a")
    if index >= len(options):
        return None, f"letter {letter.upper()} is beyond the {len(options)} options"
    return options[index], "says the option's letter"


def _same_text(said: str, options: Sequence[str]) -> str | None:
    for fold in (_folded, normalise):  # "a dog" beside "the dog": the closer reading goes first
        same = [option for option in options if fold(option) == fold(said)]
        if len(same) == 1:
            return same[0]
    return None


def _read_yes_no(said: str) -> tuple[str | None, str]:
    words = re.findall(r"[^\W\d_]+", said)
    named = {word for word in words if word in _YES_NO}
    if words and words[0] in _YES_NO and len(named) == 1:
        return words[0], "begins with yes or no"
    if len(named) == 2:
        return None, "says both yes and no"
    return None, "does not begin with yes or no"
