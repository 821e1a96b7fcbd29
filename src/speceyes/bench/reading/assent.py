"""Whether a reply says yes or no is read here, in English and in Chinese.

It refuses to guess what a statement means: "there is no dog" is a no to "is there a dog?" and a
yes to "is the street free of dogs?", and the question is not known here.
"""

from __future__ import annotations

import re
from typing import Final

from speceyes.bench.reading.wording import (
    Reading,
    bare,
    is_doubtful,
    last_statement,
    sentences,
)

_YES: Final = r"(?:yes|yeah|yep|yup)(?!\w)|(?:是的|对的|是|对|有)(?=$|[\s,.;:!。、])"
# The no of "no dog is there" is an article; one that answers stands apart or before a pronoun.
_NO: Final = (
    r"(?:no|nope|nah)(?=$|\s*[,.;:!?–—/(]|\s-\s|\s(?:there|it|its|it's|i|the|this|that|these"
    r"|those|he|she|they|we|you|because|not)\b)"
    r"|(?:不是的|不是|没有|不|否)(?=$|[\s,.;:!。、])"
)
_FIRST: Final = re.compile(rf"[\W_]*(?:(?P<yes>{_YES})|(?P<no>{_NO}))")
_LAST: Final = re.compile(r"[,.;:?]\s*(?:(?P<yes>yes)|(?P<no>no))$")
_LATER: Final = re.compile(
    r"(?:[,;.]|\b(?:and|or|but)|/)\s*(?:(?P<yes>yes)|(?P<no>no))(?=\s*(?:$|[.,;!?]))"
)
_TAKEN_BACK: Final = re.compile(
    r"yes[,.;!]?\s+(?:there|it|he|she|they|this|that)\s*"
    r"(?:(?:is|are|was|were|do|does|has|have|can)(?:n't|\s+not|\s+no)|'s\s+(?:not|no))\b"
)


def read_assent(text: str) -> Reading:
    """Read whether a reply means `yes` or `no`.

    The last statement of an answer counts; else the word that the first sentence begins with, or
    the last one does; else a last word that stands apart.

    >>> read_assent("Yes, there is a dog with no collar.").meant
    ('yes',)
    >>> read_assent("There is no dog.").meant
    """
    parts = sentences(text)
    stated = last_statement(parts)
    if stated is not None:
        parts = [] if stated.words is None else [stated.words]
    begun = [found.lastgroup for part in parts if (found := _FIRST.match(part))]
    later = [found.lastgroup for part in parts for found in _LATER.finditer(part)]
    if {*begun, *later} >= {"yes", "no"}:
        return Reading(("yes", "no"), "says both yes and no")
    if _TAKEN_BACK.search(" ".join(parts)):
        return Reading(None, "says yes, yet denies it")
    if begun and any(_FIRST.match(part) for part in (parts[0], parts[-1])):
        return Reading((str(begun[0]),), "begins with yes or no")
    end = _LAST.search(bare(parts[-1])) if parts else None
    if end and not is_doubtful(parts[-1][: end.start()]):
        return Reading((str(end.lastgroup),), "ends in yes or no")
    return Reading(None, "does not begin with yes or no")
