"""Which of a question's options a reply names is read here: by letter, by text, by both.

It refuses to know which option is right. What each rule takes for granted stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from speceyes.bench.reading.assent import read_assent
from speceyes.bench.reading.numbers import read_amount, read_count
from speceyes.bench.reading.wording import (
    Reading,
    bare,
    content,
    folded,
    is_doubtful,
    is_revised,
    last_statement,
    normalise,
    sentences,
    words,
)

_NAMED: Final = r"(?:(?:option|choice|answer|letter|选项)\s*)?"
_LETTER: Final = re.compile(rf"{_NAMED}[(\[]?([a-z])[)\]]?[.:)]?(?:\s?选项)?")
_LETTER_FIRST: Final = re.compile(
    rf"{_NAMED}(?:[(\[](?P<a>[a-z])[)\]][.:,]?|(?P<b>[a-z])[.:),、]|(?P<c>[a-z])\s[-–—]"
    r"|(?P<reasoned>[a-z])\s(?=(?:because|since)\b)|(?P<spaced>[b-z])\s(?=\S))\s*(?P<rest>\S.*)"
)
_LETTER_LAST: Final = re.compile(r"(\S.*?),?\s*[(\[](?:option )?([a-z])[)\]]")
_OTHER_LETTER: Final = re.compile(r"\(([a-z])\)|\b(?:option|choice) ([a-z])\b")
_LIST: Final = re.compile(r"\s*[,/;&]\s*(?:or\b|and\b)?\s*|\s+(?:or|and)\s+")
_REASON: Final = re.compile(r"(?:because|since|as|reason(?:ing)?|explanation)\b")
_SO: Final = re.compile(r"(?:so|therefore|thus|hence|因此|所以)[,:]?\s*")
# "The towel is pink", but not "the dog is near the pink": a word in between may change it all.
_IS: Final = (
    r"(?:is|are|was|were|looks|appears|seems|to be|says|reads)\s+[\"']?(?:(?:a|an|the)\s+)?"
)
_TAIL: Final = (
    r"[\"']?(?:\s(?:in colou?r|one|ones"
    r"|(?:visible )?in (?:the|this) (?:image|picture|photo|scene)))?"
)
# Words of place relate two things, and a reply may start from the other one: "the car is left of
# the dog" where the dog was asked for. Only a reply that is an option and fillers is read then.
_PLACE: Final = re.compile(
    r"\b(?:left|right|above|below|under|underneath|over|behind|front|top|bottom|beside|inside"
    r"|outside|near|between|next|north|south|east|west|up|down|higher|lower|before|after|closer"
    r"|farther)\b"
)
_EXPLAINED_WORDS: Final = 4  # shorter text beside a letter looks like an option that is none


def read_option(text: str, options: Sequence[str]) -> Reading:
    """Read which options a reply may mean; its thoughts, tags and boxes are taken off before.

    In this order, and the first that applies counts: the last statement of an answer; its first or
    last sentence names an option, and no other one another; all of it does; yes or no, where every
    option begins with one; one option alone is mentioned, as what something *is*.
    """
    parts = sentences(text)
    stated = last_statement(parts)
    if stated is not None:
        named = None if stated.words is None else _stated_option(stated.words, options)
        return named or Reading(None, "states an answer that is no option's plain text or letter")
    return (
        _by_ends(parts, options)
        or _named(folded(text), options)
        or _by_assent(text, options)
        or _by_mention(parts, options)
        or Reading(None, "is neither an option's text nor its letter")
    )


def same_text(said: str, options: Sequence[str]) -> str | None:
    """Find the option whose text this is; of "a dog" and "the dog" the closer reading goes first.

    >>> same_text("The dog.", ("a dog", "the dog")), same_text("dog", ("a dog", "the dog"))
    ('the dog', None)
    """
    for fold in (folded, _bare_text, normalise):
        same = [option for option in options if fold(option) == fold(said)]
        if len(same) == 1:
            return same[0]
    return None


def _bare_text(text: str) -> str:
    return bare(folded(text))


def read_letter(said: str) -> str | None:
    """Read the letter that a folded phrase is or begins with, where no options are known.

    >>> read_letter("(b) a dog"), read_letter("option b."), read_letter("a dog")
    ('b', 'b', None)
    """
    said = bare(said)
    alone, first = _LETTER.fullmatch(said), _LETTER_FIRST.fullmatch(said)
    if alone:
        return alone[1]
    if first is None or first["spaced"] or _LETTER.fullmatch(first["rest"]):
        return None
    return first["a"] or first["b"] or first["c"] or first["reasoned"]


def read_text(text: str, truth: str) -> Reading | None:
    """Read a reply to an open question as the right answer, if it says just that."""
    parts = sentences(text)
    stated = last_statement(parts)
    phrase = folded(text) if stated is None else stated.words
    if phrase is None:
        return None
    if same_text(phrase, (truth,)) or _says_content(phrase, (truth,)):
        return Reading((truth,), "says the same text")
    return _by_mention(parts, (truth,)) if stated is None else None


def _stated_option(said: str, options: Sequence[str]) -> Reading | None:
    # After "the answer is" even a long phrase answers, as long as it names one option alone.
    named = _named(said, options)
    if named is not None:
        return named
    mentioned = _mentioned(said, options)
    if len(mentioned) != 1 or is_doubtful(said) or _are_places(options):
        return None
    return Reading(mentioned, "states an answer in which one option is mentioned")


def _named(said: str, options: Sequence[str]) -> Reading | None:
    """Read a phrase that is nothing but a name of an option, or of several."""
    phrase = _SO.sub("", bare(said), count=1)
    exact = same_text(phrase, options)
    if exact is not None:
        return Reading((exact,), "says the option's text")
    alone = _LETTER.fullmatch(phrase)
    if alone:
        return _by_letter(alone[1], options)
    found = _by_list(phrase, options) or _by_pair(phrase, options) or _by_amount(said, options)
    if found is not None:
        return found
    same = _says_content(said, options)
    return None if same is None else Reading((same,), "says the option's text, but for fillers")


def _by_letter(letter: str, options: Sequence[str]) -> Reading:
    index = ord(letter) - ord("a")
    if index >= len(options):
        return Reading((), f"letter {letter.upper()} is beyond the {len(options)} options")
    return Reading((options[index],), "says the option's letter", is_lettered=True)


def _by_list(said: str, options: Sequence[str]) -> Reading | None:
    parts = _LIST.split(re.sub(r"^(?:either|both) ", "", said))
    if len(parts) < 2:
        return None
    meant: list[str] = []
    for part in parts:
        alone, exact = _LETTER.fullmatch(part), same_text(part, options)
        named = (exact,) if exact is not None else alone and _by_letter(alone[1], options).meant
        if not named:
            return None
        meant += [option for option in named if option not in meant]
    why = "names one option twice" if len(meant) == 1 else f"names {len(meant)} options"
    return Reading(tuple(meant), why)


def _by_pair(said: str, options: Sequence[str]) -> Reading | None:
    first, last = _LETTER_FIRST.fullmatch(said), _LETTER_LAST.fullmatch(said)
    if first:
        letter, rest = next(filter(None, first.groups())), first["rest"]
        is_plain = first["spaced"] is None  # "b red" is a pair only if "red" is an option
    elif last:
        letter, rest, is_plain = last[2], last[1], False
    else:
        return None
    lettered = _by_letter(letter, options).meant or ()
    own = repr(lettered[0]) if lettered else "no option"
    worded = same_text(rest.strip("()[] "), options) or _says_content(rest, options)
    texts = _mentioned(rest, options) if worded is None else (worded,)
    if worded is None and not is_plain and texts != lettered:
        return None
    if lettered and texts == lettered and (worded or not is_doubtful(rest)):
        return Reading(lettered, "says the option's letter and text", is_lettered=True)
    if lettered and worded is None and _explains(rest, options):
        return Reading(lettered, "says the option's letter, then explains", is_lettered=True)
    named = " and ".join(map(repr, texts)) or "no option"
    why = f"letter {letter.upper()} is {own}, yet the text says {named}"
    if not lettered or not texts or is_doubtful(rest):
        return Reading(None, why)
    # The letter may be meant or the text: an option that is neither is surely not.
    return Reading(tuple(dict.fromkeys((*lettered, *texts))), why)


def _explains(rest: str, options: Sequence[str]) -> bool:
    """Whether text beside a letter is a reason, not an option, worded otherwise or another one."""
    mentioned = _mentioned(rest, options)
    if is_revised(rest):
        return False
    if _REASON.match(rest):
        return not mentioned or is_doubtful(rest)  # "because it is not red" is one, too
    said = set(words(rest))
    own = [set(words(folded(option))) for option in options]
    is_alike = any(2 * len(said & option) >= len(option) for option in own)
    return len(words(rest)) >= _EXPLAINED_WORDS and not mentioned and not is_alike


def _by_amount(said: str, options: Sequence[str]) -> Reading | None:
    amount = read_count(said)
    offered = [read_amount(option) for option in options]
    if amount is None or None in offered:
        return None
    fits = {o: a.is_met_by(amount) for o, a in zip(options, offered, strict=True) if a is not None}
    meant = [option for option, fit in fits.items() if fit]
    meant = meant or [option for option, fit in fits.items() if fit is None]
    return Reading(tuple(meant), "says a number" if meant else "says a number that is no option")


def _by_ends(parts: Sequence[str], options: Sequence[str]) -> Reading | None:
    # A list of all options, or a comparison of them, names several: then none is read.
    named = [None if part.endswith("?") else _named(part, options) for part in parts]
    found = {reading.meant for reading in named if reading is not None}
    if len(parts) < 2 or len(found) != 1:
        return None
    first, last = named[0], named[-1]
    end = first or last
    if end is None or not end.meant or (first is not None and any(map(is_revised, parts[1:]))):
        return None
    where = "at its end" if first is None else "at its start"
    mentioned = {option for part in parts for option in _mentioned(part, options)}
    is_at_odds = not mentioned <= {*end.meant}
    if end.is_lettered:  # an explanation may speak of the others, but then of this one too
        is_at_odds = is_at_odds and not mentioned & {*end.meant}
    else:
        is_at_odds = is_at_odds or any(map(is_doubtful, parts))
    return None if is_at_odds else Reading(end.meant, f"{end.why}, {where}")


def _by_assent(text: str, options: Sequence[str]) -> Reading | None:
    senses = [read_assent(option).meant for option in options]
    said = read_assent(text)
    if said.meant is None or not all(sense and len(sense) == 1 for sense in senses):
        return None
    meant = [
        o for o, sense in zip(options, senses, strict=True) if sense and sense[0] in said.meant
    ]
    return Reading(tuple(meant), said.why)


def _by_mention(parts: Sequence[str], options: Sequence[str]) -> Reading | None:
    if _are_places(options) or any(map(is_doubtful, parts)) or not parts:
        return None
    mentioned = {option for part in parts for option in _mentioned(part, options)}
    if len(mentioned) != 1:
        return None
    (option,) = mentioned
    names = "|".join(re.escape(name) for name, named in _names(options).items() if option in named)
    is_it = re.compile(rf".{{0,160}}?(?<!\w){_IS}(?:{names}){_TAIL}")
    if not any(is_it.fullmatch(bare(part)) for part in parts):
        return None
    letters = {a or b for part in parts for a, b in _OTHER_LETTER.findall(part)}
    if any(_by_letter(letter, options).meant != (option,) for letter in letters):
        return None
    return Reading((option,), "mentions this option alone")


def _mentioned(said: str, options: Sequence[str]) -> tuple[str, ...]:
    """Give the options whose text stands in a folded phrase; "dark red" is no mention of "red"."""
    names = _names(options)
    if not names:
        return ()
    longest_first = sorted(names, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, longest_first))
    found = re.findall(rf"(?<!\w)(?<!\d[.,])(?:{alternatives})(?!\w)(?![.,]\d)", said)
    return tuple(option for option in options if any(option in names[name] for name in found))


def _names(options: Sequence[str]) -> dict[str, list[str]]:
    """Give each wording with the options that it may mean; a letter is no wording."""
    names: dict[str, list[str]] = {}
    for option, core in zip(options, _cores(options), strict=True):
        for name in {bare(folded(option)), normalise(option), core}:
            if len(name) > 1 or (name and not name.isascii()) or name.isdigit():
                names.setdefault(name, []).append(option)
    return names


def _cores(options: Sequence[str]) -> list[str]:
    """Give what is left of each option without what all begin and end with, if that tells them.

    >>> _cores(("The color of the dog is white.", "The color of the dog is black."))
    ['white', 'black']
    """
    cut = [words(folded(option)) for option in options]
    start = _shared(cut)
    end = _shared([part[start:][::-1] for part in cut])
    cores = [" ".join(part[start : len(part) - end]) for part in cut]
    is_telling = start + end > 0 and all(cores)
    return cores if is_telling else [""] * len(cores)


def _shared(cut: Sequence[Sequence[str]]) -> int:
    length = 0
    while all(len(part) > length and part[length] == cut[0][length] for part in cut):
        length += 1
    return length


def _says_content(said: str, options: Sequence[str]) -> str | None:
    """Find the option that says the same but for fillers, if no two options do; a question none."""
    if "?" in said:
        return None
    key = content(said)
    for texts in (options, _cores(options)):
        keys = [content(text) for text in texts]
        if key and all(keys) and len(set(keys)) == len(keys) and key in keys:
            return options[keys.index(key)]
    return None


def _are_places(options: Sequence[str]) -> bool:
    return any(_PLACE.search(folded(option)) for option in options)
