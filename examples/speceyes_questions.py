"""A harness's text becomes a query here: what reads as a question with options is taken as one.

It refuses to know harnesses, which give nothing but text and pictures.
"""

from __future__ import annotations

from string import ascii_uppercase

from speceyes import Picture, Query
from speceyes.errors import QueryError
from speceyes.prompts import question_text


def read_query(text: str, pictures: tuple[Picture, ...]) -> Query:
    r"""Make a query of a text and its pictures.

    Options, 26 at most, are only those that stand as `speceyes.prompts.question_text` writes them,
    `(A) star (B) ring` on the last line or each on a line of its own, so that the models read the
    very same words. Any other text, perhaps with an instruction, is the question as it stands.
    Raises: QueryError if there is no text or no picture.

    >>> picture = Picture(b"any", "image/png", 1, 1)
    >>> read_query("Which shape?\n(A) star (B) ring", (picture,)).options
    ('star', 'ring')
    """
    text = text.strip()
    question, mark, listed = text.rpartition("\n(A) ")
    for separator in (" ", "\n") if mark else ():
        try:
            query = Query(question, pictures, _split(listed, separator))
        except QueryError:  # one option, an empty one, two alike: no list of options, then
            continue
        if question_text(query) == text:
            return query
    return Query(text, pictures)


def _split(listed: str, separator: str) -> tuple[str, ...]:
    options = []
    for letter in ascii_uppercase[1:]:
        option, mark, rest = listed.partition(f"{separator}({letter}) ")
        if not mark:
            break
        options.append(option)
        listed = rest
    return (*options, listed)
