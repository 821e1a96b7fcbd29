"""Numbers are read here as models write them: digits, words, separators, units.

It refuses to guess: what could be two numbers is both, and what is only perhaps one is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from speceyes.bench.reading.wording import bare, folded, is_doubtful

_SMALL: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS: Final = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS: Final = (
    {word: value for value, word in enumerate(_SMALL)}
    | {word: 10 * place for place, word in enumerate(_TENS, 2)}
    | {
        f"{ten}{joint}{_SMALL[one]}": 10 * place + one
        for place, ten in enumerate(_TENS, 2)
        for one in range(1, 10)
        for joint in ("-", " ")
    }
)
_HAN: Final = dict(zip("零一二三四五六七八九十两", (*range(11), 2), strict=True))
_UNITS: Final = {
    name: names.split()[0]
    for names in (
        "m meter meters metre metres 米",
        "cm centimeter centimeters centimetre centimetres 厘米",
        "mm millimeter millimeters millimetre millimetres",
        "km kilometer kilometers kilometre kilometres 公里",
        "ft foot feet",
        "kg kilogram kilograms 公斤",
        "in inch inches",
        "mi mile miles",
        "km/h kmh kph",
        "mph",
        "s sec second seconds 秒",
        "min minute minutes 分钟",
        "h hr hour hours 小时",
        "% percent",
        "° degree degrees 度",
        "$ dollar dollars usd",
        "€ euro euros eur",
        "£ pound pounds gbp",
        "¥ yuan 元",
    )
    for name in names.split()
}

_DIGITS: Final = r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:[.,][0-9]+)?)"
_SPELT: Final = "|".join(sorted(_WORDS, key=len, reverse=True))
_HAN_DIGIT: Final = f"[{''.join(_HAN)}]"
_CURRENCY: Final = "[$€£¥]"
_ATTACHED: Final = "|".join(re.escape(u) for u in sorted(_UNITS, key=len, reverse=True))
_AMOUNT: Final = re.compile(
    rf"(?P<currency>{_CURRENCY})?\s?(?:(?P<digits>{_DIGITS})|(?P<spelt>{_SPELT})|(?P<han>{_HAN_DIGIT}))"
    rf"(?:\s?(?P<unit>{_ATTACHED})|\s?[个只人条辆张台匹朵名]\w{{0,4}}"
    rf"|\s(?P<noun>[^\W\d_][\w-]*(?:\s[^\W\d_][\w-]*){{0,2}}))?"
)
_ANY_NUMBER: Final = re.compile(rf"[0-9]+(?:[.,:/-][0-9]+)*|\b(?:{_SPELT})\b|{_HAN_DIGIT}")
_AMBIGUOUS: Final = re.compile(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}")  # a thousand in half the world
_PADDED: Final = re.compile(r"[+-]?0[0-9]")  # a plate or a code, where the zero counts
# A word that makes another number of the one before it, or only nearly that one.
_SCALES: Final = re.compile(
    r"\b(?:dozens?|hundreds?|thousands?|millions?|billions?|half|halves|quarters?|pairs?|more|less"
    r"|fewer|plus|minus|times|to|and|point|of|on|at|out|is|are)\b"
)
_COUNTING: Final = re.compile(
    r"^(?:(?:there (?:are|is|were|was)|there's|(?:i|we) (?:can )?(?:see|count)"
    r"|it (?:is|says|shows|reads)"
    r"|(?:the )?(?:total |exact )?(?:number|count|amount)\b[^0-9]{0,60}? is"
    r"|(?:图中|图片中|画面中)?(?:一共)?有)\s?)?"
    r"(?:(?:exactly|only|just|a total of)\s)?"
)
_IN_PICTURE: Final = re.compile(
    r" (?:(?:visible |shown )?in (?:the|this) (?:image|picture|photo|scene)|in total|visible|here)$"
)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number as written: the values it may have, a unit of measure, the noun that is counted."""

    values: frozenset[Decimal]
    unit: str | None
    noun: str | None

    def is_met_by(self, said: Amount) -> bool | None:
        """Whether a reply that says so much says this; None: its unit or its value leaves doubt.

        A unit that this amount lacks is no contradiction, but with it any other value may be.
        """
        are_nouns_apart = None not in (self.noun, said.noun) and self.noun != said.noun
        if are_nouns_apart or (self.unit != said.unit and self.unit is not None):
            return None
        if self.values == said.values and len(said.values) == 1:
            return True
        return None if self.values & said.values or self.unit != said.unit else False


def read_amount(text: str) -> Amount | None:
    """Read a text that is one number, perhaps with a unit or what is counted, and nothing else.

    >>> read_amount("Three people.").values == read_amount("3").values
    True
    >>> read_amount("3 or 4"), read_amount("3rd"), read_amount("10:30")
    (None, None, None)
    """
    said = bare(folded(text))
    found = _AMOUNT.fullmatch(said)
    if found is None or _SCALES.search(said):
        return None
    currency, unit, noun = found["currency"], found["unit"], found["noun"]
    values = _values(found)
    if values is None or (currency and unit):
        return None
    return Amount(values, _UNITS.get(currency or unit or ""), noun)


def read_count(sentence: str) -> Amount | None:
    """Read a folded sentence that says one number and how many there are of it.

    >>> read_count("there are 3 people in the image.").values == read_count("three").values
    True
    >>> read_count("there are 3 cats and 2 dogs."), read_count("there are not 3.")
    (None, None)
    """
    said = _IN_PICTURE.sub("", bare(sentence))
    if is_doubtful(sentence) or len(_ANY_NUMBER.findall(said.replace("一共", ""))) != 1:
        return None
    return read_amount(_COUNTING.sub("", said, count=1))


def _values(found: re.Match[str]) -> frozenset[Decimal] | None:
    digits = found["digits"]
    if digits is None:
        return frozenset({Decimal(_HAN[found["han"]] if found["han"] else _WORDS[found["spelt"]])})
    if _PADDED.match(digits):
        return None
    if re.fullmatch(r"[^,]*,[0-9]{1,2}|[^,]*,[0-9]{4,}", digits):
        digits = digits.replace(",", ".")  # a decimal comma
    plain = Decimal(digits.replace(",", ""))
    if _AMBIGUOUS.fullmatch(digits):
        return frozenset({plain, plain * 1000})
    return frozenset({plain})
