"""A user's own questions: a file with one JSON object a line, its pictures beside it.

    {"image": "a.jpg", "question": "Which?", "options": ["disc", "star"], "answer": "star"}

Keys: `image` (a path, from the file's folder, or a list of paths), `question`, `answer`, and if
wanted `options`, `id` and `split`. The answer is an option word for word, or its letter, as in A;
without options it is `yes`, `no` or free text. Nothing is shuffled, and entries come in the file's
order, whatever their splits. It refuses to know how an item is answered.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

from speceyes.bench.items import Entry, Item, SuiteFacts
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.entrance import Entrance, Place, by_letter
from speceyes.bench.suites.findings import digests_of, facts_of
from speceyes.bench.suites.longlines import LineTooLong, LongLines
from speceyes.bench.suites.sources import Source
from speceyes.errors import SuiteError
from speceyes.pictures import open_picture
from speceyes.types import Query

DEFAULT_SPLIT: Final = "all"
UNREADABLE: Final = "unreadable"  # the split of lines that do not tell theirs; never left out
_NEEDED: Final = ("image", "question", "answer")
_KNOWN: Final = (*_NEEDED, "options", "id", "split")
_MAX_LINE_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, read: its keys and values, or what is wrong with it."""

    number: int
    split: str
    told: Mapping[str, Any]
    problem: str | None = None


class OwnFile:
    """A suite of the user's own.

    Raises: ConfigError for a split that no line has; SuiteError if the file cannot be read. A line
    that is broken is an entry, spoiled.
    """

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source = source
        self._path = Path(source.place)
        found = dict.fromkeys(line.split for line in self._lines())
        known = tuple(split for split in found if split != UNREADABLE)
        if not found:
            raise SuiteError(self._path.name, "holds no line; write one JSON object a line")
        self._choice = choice.among(source.text, known)
        if UNREADABLE in found:
            self._choice = replace(self._choice, splits=(*self._choice.splits, UNREADABLE))

    @cached_property
    def facts(self) -> SuiteFacts:
        """What is known before the first item; reads the file and all its pictures."""
        counts: Counter[str] = Counter()
        names = [self._path.name]
        for line in self._wanted():
            counts[line.split] += 1
            names += _image_names(line.told)
        files = digests_of(self._path.parent, names)
        return facts_of(self._source, self._choice, counts=dict(counts), files=files)

    def entries(self) -> Iterator[Entry]:
        """Give the entries in the file's order; one entry's pictures are in memory at a time."""
        entrance = Entrance()
        for line in self._wanted():
            where = f"{self._path.name}, line {line.number}"
            place = Place(line.split, where, f"jsonl@line {line.number}")
            yield entrance.admit(place, partial(self._item, line, place))

    def _lines(self) -> Iterator[_Line]:
        number = 0
        with LongLines(self._path, bound_bytes=_MAX_LINE_BYTES) as lines:
            while (raw := lines.read()) is not None:
                number += 1
                if isinstance(raw, LineTooLong) or raw.strip():
                    yield _read(number, raw)

    def _wanted(self) -> Iterator[_Line]:
        seen: Counter[str] = Counter()
        for line in self._lines():
            seen[line.split] += 1
            count = seen[line.split]
            if line.split in self._choice.splits and count == self._choice.bounded(count):
                yield line

    def _item(self, line: _Line, place: Place) -> Item:
        if line.problem is not None:
            raise place.error(line.problem)
        told = line.told
        missing = [key for key in _NEEDED if key not in told]
        if missing:
            raise place.error(f"has no {', '.join(missing)}")
        for key in ("question", "answer"):
            if not isinstance(told[key], str) or not told[key].strip():
                raise place.error(f"{key} is to be text, not {_shown(told[key])}")
        names = _image_names(told)
        if not names:
            raise place.error(
                f"image is to be a path or a list of them, not {_shown(told['image'])}"
            )
        options = _options(told.get("options", []), place)
        answer = _answer(told["answer"], options, place)
        own_id = told.get("id", line.number)
        if type(own_id) not in {str, int} or own_id == "":
            raise place.error(f"id is to be text or a whole number, not {_shown(own_id)}")
        item_id = f"jsonl-{line.split}-{own_id}"
        pictures = tuple(open_picture(self._path.parent / name) for name in names)
        query = Query(told["question"], pictures, options, query_id=item_id)
        return Item(item_id, line.split, query, answer)


def _read(number: int, raw: bytes | LineTooLong) -> _Line:
    if isinstance(raw, LineTooLong):
        return _Line(number, UNREADABLE, {}, f"is longer than {raw.bound_bytes} bytes")
    try:
        told = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return _Line(number, UNREADABLE, {}, f"is not UTF-8 ({error.reason}); save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return _Line(number, UNREADABLE, {}, f"is no JSON ({error})")
    if not isinstance(told, dict):
        return _Line(number, UNREADABLE, {}, "is no JSON object")
    split = told.get("split", DEFAULT_SPLIT)
    if not isinstance(split, str) or not split or split == UNREADABLE:
        return _Line(number, UNREADABLE, {}, f"split is to be a name, not {_shown(split)}")
    unknown = [key for key in told if key not in _KNOWN]
    if unknown:
        problem = f"key {unknown[0]!r} is unknown; known are {', '.join(_KNOWN)}"
        return _Line(number, split, told, problem)
    return _Line(number, split, told)


def _image_names(told: Mapping[str, Any]) -> tuple[str, ...]:
    image = told.get("image")
    names = [image] if isinstance(image, str) else image
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        return ()
    return tuple(names)


def _options(value: object, place: Place) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise place.error(f"options is to be a list of texts, not {_shown(value)}")
    return tuple(value)


def _answer(answer: str, options: tuple[str, ...], place: Place) -> str:
    if not options:
        return answer
    is_letter = len(answer) == 1 and answer in ascii_uppercase[: len(options)]
    if answer not in options:
        if is_letter or len(answer) == 1:
            return by_letter(answer, options, place)
        raise place.error(f"answer {answer!r} is no option word for word, nor a letter of one")
    if is_letter and by_letter(answer, options, place) != answer:
        raise place.error(f"answer {answer!r} is one option's text and another's letter; reword it")
    return answer


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
