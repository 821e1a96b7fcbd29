"""Words are folded here to what matters, and the part of a reply that is its answer is found.

It refuses to know the question, the options and the right answer.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_QUOTES: Final = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})
_OUTER: Final = string.whitespace + ".,;:!?\"'`*_。、"
_ARTICLE: Final = re.compile(r"(?:a|an|the)\s+(?=\S)")
# Words that tell nothing apart when a reply consists of them and an option: "It is on the left."
_FILLER: Final = re.compile(
    r"a|an|the|its?|is|are|was|were|be|this|that|these|those|there|they|in|on|at|to|of|with"
    r"|colou?r|side|answer"
)
_CONTRACTED: Final = re.compile(r"\b(it|that|there|he|she|this|what)'s\b")
_WORD: Final = re.compile(r"[+-]?\d+(?:[.,:]\d+)*%?|\w+(?:'\w+)?")
_SIGN: Final = re.compile(r"[^\w\s.,;:!?\"'()\[\]*%、。]")  # the rest of "€5"

_THOUGHT: Final = re.compile(
    r"<(think|thinking)>.*?</\1>|◁think▷.*?◁/think▷", re.DOTALL | re.IGNORECASE
)
_THOUGHT_END: Final = re.compile(r"</think(?:ing)?>|◁/think▷", re.IGNORECASE)
_THOUGHT_START: Final = re.compile(r"<think(?:ing)?>|◁think▷", re.IGNORECASE)
_TAGGED: Final = re.compile(
    r"<(answer|conclusion)>((?:(?!<\1>).)*?)(?:</\1>|\Z)"
    r"|<\|begin_of_box\|>((?:(?!<\|begin_of_box\|>).)*?)(?:<\|end_of_box\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)(?:\}|\Z)")
_TAGS: Final = re.compile(r"</?(?:answer|conclusion|s)>|<\|[^|<>]{1,40}\|>", re.IGNORECASE)
_LATEX: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_MARKUP: Final = re.compile(r"\*\*|__|[`{}]|\\[()\[\]]|\$(?!\d)|(?m:^\s*(?:[-*•>]|#+)\s+)")

# A sentence ends at a stop, but not at that of a letter: "B. A dog" and "(B). A dog" stay whole.
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])(?<!\b[a-z]\.)(?<!\([a-z]\)\.)\s+|(?<=。)\s*")
_LEAD: Final = re.compile(
    r"\b(?:answer|ans|option|choice|conclusion)\b[\"']?"
    r"(?: to (?:the|this|your) question| here)?\s*"
    r"(?:(?:is|was|would be|should be|must be)\b(?: that\b)?\s*:?|[:=])\s*"
    r"|\bi(?:'d| would|'ll| will)? (?:choose|select|pick|go with)\b:?\s*"
    r"|答案\s*(?:应该|应)?(?:是|为|选)?\s*:?\s*"
    r"|选(?:择)?\s*:?\s*(?=\(?[a-z](?![a-z]))"
)
_TRAIL: Final = re.compile(
    r"(?:(?:so|therefore|thus|hence),? )?(?P<said>\S.{0,120}?) (?:is|are) "
    r"(?:the )?(?:(?:correct|right|best)(?: (?:answer|option|choice|one))?|answer)"
)
_CONDITION: Final = re.compile(
    r"\b(?:if|whether|unless|suppose|not|never|no|cannot|neither|nor|might|could|may|perhaps)\b|n't\b"
)
_REVISION: Final = re.compile(
    r"\b(?:wait|actually|correction|sorry|however|but|instead|rather|second thought|mistake)\b"
    r"|(?:^|[.,;] )no(?=[.,;!])"
)
_DOUBT: Final = re.compile(
    r"\b(?:not|no|never|none|nothing|neither|nor|cannot|without|or|if|whether|unless|either|both"
    r"|except|than|but|however|wait|actually|instead|rather|wrong|false|incorrect|opposite"
    r"|could|might|may|would|should)\b|n't\b|\?"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Which answers a reply may mean: one, several, () for none at all; None: it cannot be read.

    `is_lettered`: it is an option's letter that says so, which is no word of a sentence by chance.
    """

    meant: tuple[str, ...] | None
    why: str
    is_lettered: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """What a reply says its answer is, folded; None if it weighs that, or takes it back later."""

    words: str | None


def folded(text: str) -> str:
    """Fold case, whitespace, full-width forms and curly quotes."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold().split())


def bare(text: str) -> str:
    """Take off outer punctuation."""
    return text.strip(_OUTER)


def normalise(text: str) -> str:
    """Fold what never matters: case, whitespace, outer punctuation, one leading article.

    >>> normalise(" The  Red STAR. ")
    'red star'
    """
    return _ARTICLE.sub("", bare(folded(text)), count=1)


def words(text: str) -> list[str]:
    """Give the words and figures of a folded text."""
    return _WORD.findall(_CONTRACTED.sub(r"\1 is", text))


def content(text: str) -> str:
    """Keep the words that tell something; for a comparison, never to be shown.

    >>> content("It's on the left side.")
    'left'
    """
    said = folded(text)
    telling = [word for word in words(said) if not _FILLER.fullmatch(word)]
    return " ".join(telling + _SIGN.findall(said))


def is_doubtful(text: str) -> bool:
    """Whether a folded text denies, asks, weighs or takes back: a word in it proves nothing then.

    >>> is_doubtful("it is not red"), is_doubtful("it is red")
    (True, False)
    """
    return _DOUBT.search(text) is not None


def is_revised(text: str) -> bool:
    """Whether a folded text may take back what was said before it."""
    return _REVISION.search(text) is not None


def spoken(reply: str) -> str | None:
    """Take the thoughts out of a reply; None if the last one has no end, so nothing was said.

    >>> spoken("<think>A?</think> B"), spoken("so it is B</think>B"), spoken("<think>A? B?")
    (' B', 'B', None)
    """
    said = _THOUGHT_END.split(_THOUGHT.sub("", reply))[-1]
    return None if _THOUGHT_START.search(said) else said


def marked(text: str) -> str:
    r"""Take what stands in the last answer tag and there in the last box; without any, all of it.

    An empty tag or box marks nothing.

    >>> marked(r"<answer>It is \boxed{\text{B}}.</answer>"), marked("**B**")
    ('\\text{B}', '**B**')
    """
    tagged = [match[2] or match[3] or "" for match in _TAGGED.finditer(text)]
    text = next((inner for inner in reversed(tagged) if bare(inner)), _TAGS.sub(" ", text))
    boxed = [inner for inner in _BOXED.findall(text) if bare(inner)]
    return boxed[-1] if boxed else _BOXED.sub(" ", text)


def without_markup(text: str) -> str:
    r"""Take off what only sets words off: emphasis, headings, formulas, braces.

    >>> without_markup(r"**B** and \text{C}")
    'B and C'
    """
    return _MARKUP.sub("", _LATEX.sub(r"\1", _TAGS.sub(" ", text)))


def sentences(text: str) -> list[str]:
    r"""Cut a text into folded sentences; a line's end ends one, too.

    >>> sentences("It is pink.  So: B. Pink\nRight?")
    ['it is pink.', 'so: b. pink', 'right?']
    """
    lines = filter(None, map(folded, text.splitlines()))
    return [part for line in lines for part in _SENTENCE_END.split(line) if bare(part)]


def last_statement(parts: Sequence[str]) -> Statement | None:
    """Find what the last sentence that states an answer says it is; None if no sentence does."""
    for place in reversed(range(len(parts))):
        stated = _stated(parts[place])
        if stated is None:
            continue
        before, said = stated
        rest = parts[place + 1 :]
        if not bare(said):  # "Final answer:" above the answer
            said, rest = (rest[0], rest[1:]) if rest else ("", ())
        is_plain = bool(bare(said)) and not _CONDITION.search(before)
        return Statement(said if is_plain and not any(map(is_revised, rest)) else None)
    return None


def _stated(sentence: str) -> tuple[str, str] | None:
    leads = list(_LEAD.finditer(sentence))
    if leads:
        return sentence[: leads[-1].start()], sentence[leads[-1].end() :]
    trail = _TRAIL.fullmatch(bare(sentence))
    return None if trail is None else ("", trail["said"])
