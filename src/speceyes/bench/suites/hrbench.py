"""HR-Bench as released: a table per split, with the pictures in it, gigabytes of them, streamed.

The release asks every question in four orders of its options, so nothing is shuffled here. It
refuses to know how an item is answered.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Final

from speceyes.bench.items import Entry, Item, SuiteFacts
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.entrance import Entrance, Place, by_letter
from speceyes.bench.suites.findings import facts_of
from speceyes.bench.suites.longlines import LongLines
from speceyes.bench.suites.sources import Source, find_folder
from speceyes.bench.suites.tsv import MAX_ROW_BYTES, BrokenRow, TsvRow, TsvTable
from speceyes.errors import SuiteError
from speceyes.pictures import open_picture
from speceyes.types import Picture, Query

RELEASED: Final = {"4k": 800, "8k": 800}
LETTERS: Final = ("A", "B", "C", "D")
COLUMNS: Final = ("index", "question", "answer", *LETTERS, "category", "image")
_LONGEST_REFERENCE: Final = 64  # up to here a whole number is another row's index, no picture


@dataclass(frozen=True, slots=True)
class _Scan:
    """What reading through a file once gives: its rows, its digest, where each index stands."""

    rows: int
    digest: str
    positions: Mapping[str, tuple[int, int]]  # index -> (row number, position)


class HrBench:
    """HR-Bench from a folder or the hub; `4k` and `8k` are told by the names of the files.

    In the image column may stand the index of another row, whose picture is then meant.
    Raises: SuiteError naming file and row; a row that is broken is an entry, spoiled.
    """

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source = source
        self._choice = choice.among("hrbench", tuple(RELEASED))
        splits = self._choice.splits
        folder = find_folder(source, [f"*{split[0]}[kK]*.tsv" for split in splits])
        self._files = {split: _find_file(folder, split) for split in splits}
        self._scans: dict[str, _Scan] = {}

    @cached_property
    def facts(self) -> SuiteFacts:
        """What is known before the first item; reads through all files once."""
        scans = {split: self._scan(split) for split in self._files}
        return facts_of(
            self._source,
            self._choice,
            counts={split: self._choice.bounded(scan.rows) for split, scan in scans.items()},
            released=RELEASED,
            files={self._files[split].name: scan.digest for split, scan in scans.items()},
        )

    def entries(self) -> Iterator[Entry]:
        """Give the entries, split by split; one row is in memory at a time."""
        for split, path in self._files.items():
            with LongLines(path, bound_bytes=MAX_ROW_BYTES) as lines:
                table = TsvTable(lines, COLUMNS)
                entry_of = partial(self._entry, split, Entrance())
                yield from islice(map(entry_of, table), self._choice.per_split)

    def _entry(self, split: str, entrance: Entrance, row: TsvRow | BrokenRow) -> Entry:
        where = f"{self._files[split].name}, row {row.number}"
        place = Place(split, where, f"hrbench-{split}@row {row.number}")
        return entrance.admit(place, partial(self._item, row, place))

    def _item(self, row: TsvRow | BrokenRow, place: Place) -> Item:
        if isinstance(row, BrokenRow):
            raise place.error(row.problem)
        index = _text(row, "index", place)
        if not index.isdecimal():
            raise place.error(f"index {index!r} is no whole number")
        options = tuple(_text(row, letter, place) for letter in LETTERS)
        answer = by_letter(_text(row, "answer", place), options, place)
        kind = _text(row, "category", place)
        item_id = f"hrbench-{place.split}-{index}"
        pictures = (self._picture(row, place),)
        query = Query(_text(row, "question", place), pictures, options, query_id=item_id)
        return Item(item_id, place.split, query, answer, kind=kind)

    def _picture(self, row: TsvRow, place: Place) -> Picture:
        image = row.fields["image"]
        if len(image) <= _LONGEST_REFERENCE and image.isdigit():
            image = self._image_of(image.decode(), place)
        try:
            data = binascii.a2b_base64(image, strict_mode=True)
        except binascii.Error as error:
            raise place.error(f"its image is no base64 ({error})") from error
        return open_picture(data)

    def _image_of(self, index: str, place: Place) -> bytes:
        found = self._scan(place.split).positions.get(index)
        if found is None:
            raise place.error(f"its image is that of index {index}, which no row has")
        with LongLines(self._files[place.split], bound_bytes=MAX_ROW_BYTES) as lines:
            row = TsvTable(lines, COLUMNS).row_at(*found)
        image = b"" if isinstance(row, BrokenRow) else row.fields["image"]
        if len(image) <= _LONGEST_REFERENCE:
            raise place.error(f"its image is that of index {index}, where there is none")
        return image

    def _scan(self, split: str) -> _Scan:
        if split not in self._scans:
            self._scans[split] = _scanned(self._files[split])
        return self._scans[split]


def _scanned(path: Path) -> _Scan:
    positions: dict[str, tuple[int, int]] = {}
    rows = 0
    with LongLines(path, bound_bytes=MAX_ROW_BYTES, hashing=True) as lines:
        for row in TsvTable(lines, COLUMNS):
            rows = row.number
            if isinstance(row, TsvRow):
                index = row.fields["index"].decode(errors="replace")
                positions.setdefault(index, (row.number, row.position))
        return _Scan(rows, lines.digest(), positions)


def _text(row: TsvRow, column: str, place: Place) -> str:
    try:
        return row.fields[column].decode()
    except UnicodeDecodeError as error:
        raise place.error(
            f"its {column} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from error


def _find_file(folder: Path, split: str) -> Path:
    released = folder / f"hr_bench_{split}.tsv"
    if released.is_file():
        return released
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".tsv" and split in path.stem.lower() and path.is_file()
        )
    except OSError as error:
        raise SuiteError(str(folder), f"cannot be read: {error.strerror}") from error
    if len(found) == 1:
        return found[0]
    if not found:
        raise SuiteError(
            released.name, f"is not in {folder}; download it, or leave {split} out of the splits"
        )
    named = ", ".join(path.name for path in found)
    raise SuiteError(str(folder), f"has more than one table for {split}: {named}; leave one there")
