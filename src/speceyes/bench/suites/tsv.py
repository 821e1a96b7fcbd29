"""The rows of a table whose fields are parted by tabs, streamed, however long a field is.

Quoting is minimal, as pandas and the csv module write it: a field in quotes may hold tabs, line
ends and doubled quotes. A row that is broken costs its own line and no other. It refuses to know
what a column means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from speceyes.bench.suites.longlines import LineTooLong, LongLines
from speceyes.errors import SuiteError
from speceyes.pictures import PictureLimits

MAX_ROW_BYTES: Final = PictureLimits().max_bytes * 4 // 3 + 2**20  # a picture as base64, and words
_MAX_ROW_LINES: Final = 64  # where a quote is never closed, the search for its end stops here
_LINE_ENDS: Final = (b"\n", b"\r\n")


@dataclass(frozen=True, slots=True)
class TsvRow:
    """A row by its columns, as bytes; `number` counts from 1, without the header."""

    number: int
    position: int
    fields: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that does not fit its table, and why."""

    number: int
    problem: str


class QuoteOpen(ValueError):  # noqa: N818 - no error yet: the next line may close it
    """A quote is still open where a record ends."""


class TsvTable:
    """The rows of a table, in order, or one of them by its position.

    Raises: SuiteError if there is no header, or one that lacks a needed column.
    """

    def __init__(self, lines: LongLines, needed: Sequence[str]) -> None:
        self._lines = lines
        self._header = self._read_header(needed)

    def __iter__(self) -> Iterator[TsvRow | BrokenRow]:
        # Not a generator: that would keep a row alive while the next one is read.
        numbers = count(1)
        return iter(lambda: self._row(next(numbers)), None)

    def row_at(self, number: int, position: int) -> TsvRow | BrokenRow:
        """Read the one row that begins at a position, which a `TsvRow` had."""
        self._lines.seek(position)
        return self._row(number) or BrokenRow(number, "is gone; did the file change?")

    def _read_header(self, needed: Sequence[str]) -> list[str]:
        file, line = self._lines.path.name, self._line()
        if line is None:
            raise SuiteError(file, "is empty; was the download complete?")
        try:
            record = b"" if isinstance(line, LineTooLong) else line
            header = [field.decode() for field in split_record(record)]
        except ValueError as error:
            raise SuiteError(file, "its first line is no header; is it the right file?") from error
        missing = [column for column in needed if column not in header]
        if missing:
            raise SuiteError(file, f"has no column {', '.join(missing)}; is it the right file?")
        return header

    def _row(self, number: int) -> TsvRow | BrokenRow | None:
        line = self._line()
        if line is None:
            return None
        if isinstance(line, LineTooLong):
            return BrokenRow(number, f"is longer than {line.bound_bytes} bytes")
        behind = self._lines.position
        try:
            fields = self._fields(line)
        except ValueError as error:
            self._lines.seek(behind)  # what came behind its own line may be a row by itself
            return BrokenRow(number, str(error))
        return TsvRow(number, behind - len(line), dict(zip(self._header, fields, strict=True)))

    def _fields(self, record: bytes) -> list[bytes]:
        for _ in range(_MAX_ROW_LINES):
            try:
                fields = split_record(record)
            except QuoteOpen:
                more = self._lines.read()
                if not isinstance(more, bytes) or len(record) + len(more) > MAX_ROW_BYTES:
                    break
                record += more
                continue
            if len(fields) == len(self._header):
                return fields
            raise ValueError(f"has {len(fields)} fields where the header has {len(self._header)}")
        raise ValueError("a quote is opened and not closed")

    def _line(self) -> bytes | LineTooLong | None:
        while (line := self._lines.read()) in _LINE_ENDS:
            pass  # a blank line is no row
        return line


def split_record(record: bytes) -> list[bytes]:
    r"""Split a record at its tabs and take the quotes off its fields.

    Raises: QuoteOpen if a quote is not closed; ValueError if anything follows a closing quote.

    >>> split_record(b'7\t"a ""b"" c"\t\n')
    [b'7', b'a "b" c', b'']
    """
    end = len(record) - (2 if record.endswith(b"\r\n") else record.endswith(b"\n"))
    fields, start = [], 0
    while start <= end:
        if record.startswith(b'"', start, end):
            closing = _closing_quote(record, start + 1, end)
            fields.append(record[start + 1 : closing].replace(b'""', b'"'))
            stop = closing + 1
            if stop < end and not record.startswith(b"\t", stop):
                raise ValueError("goes on behind a closing quote")
        else:
            tab = record.find(b"\t", start, end)
            stop = end if tab < 0 else tab
            fields.append(record[start:stop])
        start = stop + 1
    return fields


def _closing_quote(record: bytes, start: int, end: int) -> int:
    quote = record.find(b'"', start, end)
    while quote >= 0 and record.startswith(b'""', quote, end):
        quote = record.find(b'"', quote + 2, end)
    if quote < 0:
        raise QuoteOpen
    return quote
