"""Tables of any width, read a row at a time as the csv module would, whatever is broken in them."""

from __future__ import annotations

import csv
import hashlib
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.suites import tsv
from speceyes.bench.suites.longlines import LineTooLong, LongLines
from speceyes.bench.suites.tsv import BrokenRow, TsvRow, TsvTable, split_record
from speceyes.errors import SuiteError

FIELDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0") | st.sampled_from('"\t\n ')
)


def table_of(path, text, *, bound_bytes=10_000):
    """Write a table and read it; gives its rows."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with LongLines(path, bound_bytes=bound_bytes) as lines:
        return list(TsvTable(lines, ("a", "b")))


def values(row):
    return tuple(field.decode() for field in row.fields.values())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.tsv"


@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows, line_end):
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, delimiter="\t", lineterminator=line_end)
    table.writerows([("a", "b", "c"), *rows])
    path = tmp_path_factory.mktemp("table") / "table.tsv"
    read = table_of(path, buffer.getvalue())
    assert [values(row) for row in read] == rows
    assert [row.number for row in read] == list(range(1, len(rows) + 1))


@given(st.binary(max_size=60))
def test_whatever_is_split_ends_in_fields_or_a_value_error(record):
    fields = []
    with suppress(ValueError):
        fields = split_record(record)
    assert sum(map(len, fields)) <= len(record)


def test_a_row_is_found_again_by_its_position(path):
    rows = table_of(path, 'a\tb\n1\t"two\nlines"\n\n2\tlast\n')
    with LongLines(path, bound_bytes=100) as lines:
        table = TsvTable(lines, ("a",))
        for row in reversed(rows):
            assert table.row_at(row.number, row.position) == row


def test_a_position_beyond_the_end_is_a_broken_row(path):
    table_of(path, "a\tb\n")
    with LongLines(path, bound_bytes=100) as lines:
        assert isinstance(TsvTable(lines, ("a",)).row_at(1, 100), BrokenRow)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("1", "has 1 fields where the header has 2"),
        ("1\t2\t3", "has 3 fields"),
        ('1\t"2', "a quote is opened and not closed"),
        ('1\t"2"3', "goes on behind a closing quote"),
        ('"1\t2', "a quote is opened"),
        ("1\t" + "x" * 300, "is longer than 200 bytes"),
    ],
)
def test_a_broken_row_costs_no_other(path, broken, told):
    first, spoiled, *rest = table_of(path, f"a\tb\n0\t0\n{broken}\n5\t6\n7\t8\n", bound_bytes=200)
    assert values(first) == ("0", "0")
    assert isinstance(spoiled, BrokenRow)
    assert told in spoiled.problem
    assert spoiled.number == 2
    assert [(row.number, values(row)) for row in rest] == [(3, ("5", "6")), (4, ("7", "8"))]


def test_an_open_quote_that_a_later_row_closes_costs_no_other(path):
    rows = table_of(path, 'a\tb\n1\t"open\n2\t"quoted"\n3\tplain\n')
    assert [isinstance(row, TsvRow) for row in rows] == [False, True, True]
    assert values(rows[1]) == ("2", "quoted")


def test_the_search_for_a_closing_quote_ends(path, monkeypatch):
    read = []
    monkeypatch.setattr(tsv, "split_record", lambda record: read.append(1) or split_record(record))
    rows = table_of(path, 'a\tb\n1\t"open\n' + "2\tx\n" * 500)
    assert sum(isinstance(row, TsvRow) for row in rows) == 500
    assert len(read) < 500 + 100


def test_a_byte_order_mark_is_no_part_of_the_header(path):
    (row,) = table_of(path, b"\xef\xbb\xbfa\tb\n1\t2\n")
    assert list(row.fields) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a\tc\n", "has no column b"),
        ('a\t"b\n', "no header"),
        (b"\xff\xfea\0\t\0b\0\n\0", "no header"),
        ("a" * 20_000, "has no column a, b"),
    ],
)
def test_a_file_without_a_sound_header_is_refused(path, text, told):
    with pytest.raises(SuiteError, match=told) as caught:
        table_of(path, text)
    assert caught.value.field == "table.tsv"


def test_no_file_is_refused_by_name(path):
    with pytest.raises(SuiteError, match=r"table.tsv: cannot be read: No such file"):
        LongLines(path, bound_bytes=10)


def test_each_byte_is_hashed_once_even_if_it_is_read_again(path):
    path.write_bytes(b"first\n" + b"x" * 50 + b"\nlast")
    digests = []
    for again in (False, True):
        with LongLines(path, bound_bytes=20, hashing=True) as lines:
            assert lines.read() == b"first\n"
            assert lines.read() == LineTooLong(20)
            if again:
                lines.seek(0)
            while lines.read() is not None:
                pass
            digests.append(lines.digest())
    assert set(digests) == {hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_line_that_is_too_long_is_read_past(path):
    path.write_bytes(b"x" * 95 + b"\nnext\n")
    with LongLines(path, bound_bytes=10) as lines:
        assert lines.read() == LineTooLong(10)
        assert lines.read() == b"next\n"
        assert lines.read() is None


def test_what_was_not_hashed_has_no_digest(path):
    path.write_bytes(b"x")
    with LongLines(path, bound_bytes=10) as lines, pytest.raises(SuiteError, match="not hashed"):
        lines.digest()
