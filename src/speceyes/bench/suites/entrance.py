"""A row comes in here: as an item, or spoiled, with its place in the file; never lost.

It refuses to know formats. What is kept of a spoiled row is a sentence, not the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from speceyes.bench.items import Entry, Item, Spoiled
from speceyes.errors import InputError, SuiteError


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: its split, its file and row in words, and its id if it is spoiled."""

    split: str
    where: str  # "hr_bench_4k.tsv, row 17"
    spoiled_id: str  # "hrbench-4k@row 17"

    def error(self, message: str) -> SuiteError:
        """Make an error of this place."""
        return SuiteError(self.where, message)


class Entrance:
    """Let the rows of a suite in; no two items have the same id."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def admit(self, place: Place, build: Callable[[], Item]) -> Entry:
        """Make an item of a row, or a spoiled entry if that raises an InputError."""
        try:
            item = build()
            _check_text(item, place)
        except InputError as error:
            # Made anew: the error that was raised holds on to the row by its traceback.
            message = error.message if isinstance(error, SuiteError) else str(error)
            return Spoiled(place.spoiled_id, place.split, place.error(message))
        if item.item_id in self._seen:
            message = f"the id {item.item_id!r} stands further up as well; ids are to be unique"
            return Spoiled(place.spoiled_id, place.split, place.error(message))
        self._seen.add(item.item_id)
        return item


def _check_text(item: Item, place: Place) -> None:
    try:
        "".join((item.item_id, item.query.question, item.answer, *item.query.options)).encode()
    except UnicodeEncodeError as error:
        raise place.error("holds half of a surrogate pair, which is no text") from error


def by_letter(letter: str, options: Sequence[str], place: Place) -> str:
    """Give the option that a letter names. Raises: SuiteError if it names none."""
    letters = ascii_uppercase[: len(options)]
    if len(letter) != 1 or letter not in letters:
        raise place.error(f"answer {letter!r} is none of {', '.join(letters)}; put it right")
    return options[letters.index(letter)]


def yes_or_no(answer: str, place: Place) -> str:
    """Read a yes or a no, in any case. Raises: SuiteError if it is neither."""
    said = answer.strip().casefold()
    if said not in {"yes", "no"}:
        raise place.error(f"answer {answer!r} is neither yes nor no; put it right")
    return said
