"""POPE as released: a parquet file per split, of yes/no questions about photographs.

It refuses to know how an item is answered. pyarrow is loaded when the first file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from speceyes.bench.items import Entry, Item, SuiteFacts
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.entrance import Entrance, Place, yes_or_no
from speceyes.bench.suites.findings import facts_of, file_digest, unreadable
from speceyes.bench.suites.sources import Source, find_folder
from speceyes.errors import SuiteError
from speceyes.pictures import open_picture
from speceyes.types import Query

RELEASED: Final = {"adversarial": 3000, "popular": 3000, "random": 3000}
FOLDER: Final = "Full"
_COLUMNS: Final[Mapping[str, tuple[type, ...]]] = {
    "id": (str, int),
    "question": (str,),
    "answer": (str,),
    "image": (dict,),
}
_BATCH_ROWS: Final = 8
_BUFFER_BYTES: Final = 2**20  # a row group is read piece by piece, not at once


class Pope:
    """POPE from a folder or the hub. Its ids start anew in every file, so the split goes before.

    Raises: SuiteError naming file and row; a row that is broken is an entry, spoiled.
    """

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source = source
        self._choice = choice.among("pope", tuple(RELEASED))
        splits = self._choice.splits
        folder = find_folder(source, [f"{FOLDER}/{file_name(split)}" for split in splits])
        self._files = {split: folder / FOLDER / file_name(split) for split in splits}
        for split, path in self._files.items():
            if not path.is_file():
                raise SuiteError(
                    f"{FOLDER}/{path.name}",
                    f"is not in {folder}; download it, or leave {split} out of the splits",
                )

    @cached_property
    def facts(self) -> SuiteFacts:
        """What is known before the first item; reads through all files once."""
        counts = {}
        for split, path in self._files.items():
            with _opened(path) as file:
                counts[split] = self._choice.bounded(file.metadata.num_rows)
        return facts_of(
            self._source,
            self._choice,
            counts=counts,
            released=RELEASED,
            files={f"{FOLDER}/{path.name}": file_digest(path) for path in self._files.values()},
        )

    def entries(self) -> Iterator[Entry]:
        """Give the entries, split by split; a few rows are in memory at a time."""
        for split, path in self._files.items():
            entry_of = partial(_entry, split, path.name, entrance=Entrance())
            with _opened(path) as file:
                yield from islice(
                    map(entry_of, enumerate(_rows(file), start=1)), self._choice.per_split
                )


def file_name(split: str) -> str:
    """Name the file of a split in the release."""
    return f"{split}-00000-of-00001.parquet"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise SuiteError(
            path.name, "is parquet, which takes pyarrow: pip install 'speceyes[lab]'"
        ) from error
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise SuiteError(
                    path.name, f"has no column {', '.join(missing)}; is it the right file?"
                )
            yield file
    except ArrowException as error:
        raise SuiteError(
            path.name, f"is cut short or damaged ({error}); download it anew"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _rows(file: Any) -> Iterator[Mapping[str, Any]]:
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS), use_threads=False):
        for index in range(batch.num_rows):
            yield {column: batch.column(column)[index] for column in _COLUMNS}


def _entry(
    split: str, file: str, numbered: tuple[int, Mapping[str, Any]], *, entrance: Entrance
) -> Entry:
    number, row = numbered
    place = Place(split, f"{file}, row {number}", f"pope-{split}@row {number}")
    return entrance.admit(place, partial(_item, row, place))


def _item(row: Mapping[str, Any], place: Place) -> Item:
    told = {column: _value(row, column, place) for column in _COLUMNS}
    data = told["image"].get("bytes")
    if not isinstance(data, bytes):
        raise place.error("its image has no bytes; download the file anew")
    item_id = f"pope-{place.split}-{told['id']}"
    query = Query(told["question"], (open_picture(data),), query_id=item_id)
    return Item(item_id, place.split, query, yes_or_no(told["answer"], place), kind="existence")


def _value(row: Mapping[str, Any], column: str, place: Place) -> Any:
    try:
        value = row[column].as_py()
    except UnicodeDecodeError as error:
        raise place.error(f"its {column} is not UTF-8 ({error.reason})") from error
    if not isinstance(value, _COLUMNS[column]):
        raise place.error(f"its {column} is missing, or of another type than in the release")
    return value
