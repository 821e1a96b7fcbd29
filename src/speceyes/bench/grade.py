"""A reply is graded against the right answer by rules alone, and every grade says why.

It refuses to know who replied and how, and to guess: what the rules cannot read is undecided. A
rule that changes any grade changes `GRADER_VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from speceyes.bench.reading.assent import read_assent
from speceyes.bench.reading.numbers import read_amount, read_count
from speceyes.bench.reading.options import read_letter, read_option, read_text, same_text
from speceyes.bench.reading.wording import (
    Reading,
    bare,
    folded,
    last_statement,
    marked,
    normalise,
    sentences,
    spoken,
    without_markup,
)
from speceyes.errors import QueryError

__all__ = ["GRADER_VERSION", "Grade", "GradeValue", "grade", "normalise"]

GRADER_VERSION: Final = 2

GradeValue: TypeAlias = Literal["right", "wrong", "undecided"]

# Who cannot tell gives no answer; but "I cannot see a dog" answers whether one is there.
_REFUSAL: Final = re.compile(
    r"(?:(?:i'm|i am|we are) )?(?:sorry,? )?(?:but |unfortunately,? )*(?:as an ai[^,.]{0,40}, )?"
    r"(?:(?:it|i|we|this|the (?:answer|question|image)) )?"
    r"(?:(?:can ?not|can't|could not|couldn't|(?:am |'m )?unable to|am not able to|do not|don't"
    r"|am not|'m not|not) (?:be )?"
    r"(?:determined?|answer(?:ed)?|assist|help|know|sure|process"
    r"|tell(?: (?:if|whether|what|which|from|how|for)\b[^.,;]*)?)"
    r"|n/a|unknown|unsure|idk)(?: [^.,;]*)?"
    r"|(?:抱歉,?)?(?:我)?(?:无法(?:确定|判断|回答)|不知道)[^,。]*"
)
# Where this may be the right answer, not to know is to answer.
_ABSTENTION: Final = re.compile(
    r"\b(?:un\w+able|unknown|unclear|unsure|undetermined|determined?|none|cannot|insufficient|sure"
    r"|enough|know)\b|n't\b|无法|不知道|不确定"
)
_YES_NO: Final = {
    **dict.fromkeys(("yes", "是", "是的", "有", "对"), "yes"),
    **dict.fromkeys(("no", "否", "不是", "没有"), "no"),
}


@dataclass(frozen=True, slots=True)
class Grade:
    """Say if a reply is right, as which answer it was read (None: as none), why, and by whom.

    `by` is "rules", or "model:" and the name of the model that decided what rules could not.
    """

    value: GradeValue
    answer: str | None
    explanation: str
    by: str = "rules"

    @property
    def is_right(self) -> bool:
        """Whether the reply counts as right; wrong and undecided do not."""
        return self.value == "right"

    @property
    def is_undecided(self) -> bool:
        """Whether nobody could say yet if the reply is right."""
        return self.value == "undecided"


def grade(reply: str | None, truth: str, options: Sequence[str] = ()) -> Grade:
    """Grade a reply: read which answers it may mean, then compare those with the right one.

    Only the right one: right. Not the right one: wrong, be they one, several or none. Anything
    else is undecided. Thoughts never count, nor do case, whitespace and outer punctuation; of an
    answer in a tag or a box only that counts.
    Raises: QueryError if the right answer is not among the options.

    >>> grade("(B) Star.", "star", ("ring", "star")).value
    'right'
    >>> grade("A. star", "star", ("ring", "star"))
    Grade(value='undecided', answer=None,
          explanation="letter A is 'ring', yet the text says 'star'", by='rules')
    """
    if options and truth not in options:
        raise QueryError("answer", f"{truth!r} is none of the options {tuple(options)}")
    said = spoken(reply or "")
    if said is None:
        return Grade("wrong", None, "no answer was given: the thought has no end")
    if not said.strip():
        return Grade("wrong", None, "no answer was given")
    right = truth if options else _YES_NO.get(bare(folded(truth)), truth)
    return _compared(_read(said, right, options), right)


def _compared(reading: Reading, truth: str) -> Grade:
    meant = reading.meant
    if meant is None or (truth in meant and len(meant) > 1):
        return Grade("undecided", None, reading.why)
    answer = meant[0] if len(meant) == 1 else None
    return Grade("right" if answer == truth else "wrong", answer, reading.why)


def _read(reply: str, truth: str, options: Sequence[str]) -> Reading:
    inner = marked(reply)
    said = without_markup(inner)
    for text in (reply, inner, said):  # what looks like markup may be an option's own text
        exact = same_text(text, options or (truth,))
        if exact is not None:
            return Reading((exact,), "says the option's text" if options else "says the same text")
    if not bare(folded(said)):
        return Reading((), "the reply holds no words")
    if options:
        reading = read_option(said, options)
    elif truth in _YES_NO.values():
        reading = read_assent(said)
    else:
        reading = _read_open(said, truth)
    if reading.meant is None and _refuses(said, truth, options):
        return Reading((), "gives no answer: it says that it cannot")
    return reading


def _read_open(said: str, truth: str) -> Reading:
    """Read a reply to an open question: as a letter, the same text, a number, or not at all."""
    stated = last_statement(sentences(said))
    phrase = folded(said) if stated is None else stated.words
    if phrase is None:
        return Reading(None, "states an answer, yet takes it back")
    wanted = bare(folded(truth))
    if re.fullmatch(r"[a-z]", wanted):
        letter = read_letter(phrase)
        if letter is not None:
            return Reading((truth if letter == wanted else letter.upper(),), "says a letter")
    return (
        read_text(said, truth)
        or _read_amount(phrase, truth)
        or Reading(None, "is worded otherwise than the right answer")
    )


def _read_amount(phrase: str, truth: str) -> Reading | None:
    wanted, said = read_amount(truth), read_count(phrase)
    if wanted is None or said is None:
        return None
    is_met = wanted.is_met_by(said)
    if is_met is None:
        return Reading(None, "says a number, but perhaps of something else")
    return Reading((truth if is_met else bare(phrase),), "says a number")


def _refuses(said: str, truth: str, options: Sequence[str]) -> bool:
    text = bare(folded(said))
    if any(_ABSTENTION.search(folded(answer)) for answer in (*options, truth)):
        return False
    return _REFUSAL.fullmatch(text) is not None
