"""HR-Bench as released: tables with pictures in them, streamed; what is broken is told."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest

from speceyes.bench.items import Spoiled
from speceyes.bench.suites.opening import open_suite
from speceyes.errors import ConfigError, SuiteError
from tests.suite_folders import HR_COLUMNS, a_jpeg, as_base64, hr_row, make_hrbench


def suite_of(root, **more):
    return open_suite(f"hrbench:{root}", splits=("4k",), **more)


def entries(root, rows=None, **more):
    make_hrbench(root, rows=rows)
    return list(suite_of(root, **more).entries())


def the_spoiled(root, row):
    """Give what becomes of a row between two sound ones."""
    first, spoiled, last = entries(root, [hr_row(0), row, hr_row(2)])
    assert not isinstance(first, Spoiled)
    assert not isinstance(last, Spoiled)
    assert isinstance(spoiled, Spoiled)
    assert spoiled.error.field == "hr_bench_4k.tsv, row 2"
    assert spoiled.item_id == "hrbench-4k@row 2"
    return spoiled.error.message


def test_an_item_is_what_the_release_says(tmp_path):
    item = entries(tmp_path)[2]
    assert item.item_id == item.query.query_id == "hrbench-4k-2"
    assert (item.split, item.kind) == ("4k", "single")
    assert item.query.question == "Which of 2?"
    assert item.query.options == ("a of 2", "b of 2", "c of 2", "d of 2")
    assert item.answer == "c of 2"
    assert item.query.pictures[0].data == a_jpeg(2)
    assert item.released_order == ()


def test_words_with_quotes_tabs_and_line_ends_come_as_they_are(tmp_path):
    words = 'What does "Hall\t7" say?\nLook "closely".'
    (item,) = entries(tmp_path, [hr_row(0, question=words)])
    assert item.query.question == words


def test_both_splits_come_in_turn(tmp_path):
    suite = open_suite(f"hrbench:{make_hrbench(tmp_path)}")
    assert [entry.item_id for entry in suite.entries()] == [
        f"hrbench-{split}-{index}" for split in ("4k", "8k") for index in range(4)
    ]


def test_a_bound_holds_for_each_split(tmp_path):
    suite = open_suite(f"hrbench:{make_hrbench(tmp_path)}", per_split=1)
    assert [entry.item_id for entry in suite.entries()] == ["hrbench-4k-0", "hrbench-8k-0"]
    assert suite.facts.counts == {"4k": 1, "8k": 1}
    assert suite.facts.deviations == {}


@pytest.mark.parametrize("name", ["HRBench4K.tsv", "hrbench_4k.TSV", "my-4K-table.tsv"])
def test_other_spellings_of_the_file_are_found(tmp_path, name):
    make_hrbench(tmp_path, names=(name,))
    assert len(list(suite_of(tmp_path).entries())) == 4


def test_the_release_s_own_name_goes_before_other_spellings(tmp_path):
    make_hrbench(tmp_path, rows=[hr_row(0)], names=("hr_bench_4k_single.tsv", "x4k.tsv"))
    make_hrbench(tmp_path, rows=[hr_row(7)], names=("hr_bench_4k.tsv",))
    assert [entry.item_id for entry in suite_of(tmp_path).entries()] == ["hrbench-4k-7"]


def test_two_files_that_could_be_meant_are_refused(tmp_path):
    make_hrbench(tmp_path, names=("a4k.tsv", "b4k.tsv"))
    with pytest.raises(SuiteError, match=r"more than one table for 4k: a4k.tsv, b4k.tsv"):
        suite_of(tmp_path)


def test_a_missing_split_is_refused_unless_left_out(tmp_path):
    make_hrbench(tmp_path, names=("hr_bench_4k.tsv",))
    with pytest.raises(SuiteError, match=r"hr_bench_8k.tsv: is not in .*leave 8k out"):
        open_suite(f"hrbench:{tmp_path}")
    assert suite_of(tmp_path).facts.counts == {"4k": 4}


def test_an_unknown_split_is_refused_and_the_known_are_named(tmp_path):
    with pytest.raises(ConfigError, match="'16k' is unknown; hrbench has 4k, 8k"):
        open_suite(f"hrbench:{make_hrbench(tmp_path)}", splits=("16k",))


def test_an_index_in_the_image_column_means_that_row_s_picture(tmp_path):
    rows = [hr_row(10), hr_row(11, image="10"), hr_row(12, image="13"), hr_row(13)]
    pictures = [item.query.pictures[0].data for item in entries(tmp_path, rows)]
    assert pictures == [a_jpeg(10), a_jpeg(10), a_jpeg(13), a_jpeg(13)]


@pytest.mark.parametrize(
    ("index", "told"),
    [("99", "index 99, which no row has"), ("1", "index 1, where there is none")],
)
def test_an_index_that_leads_nowhere_spoils_its_row(tmp_path, index, told):
    assert told in the_spoiled(tmp_path, hr_row(1, image=index))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"answer": "E"}, "answer 'E' is none of A, B, C, D; put it right"),
        ({"answer": ""}, "answer '' is none of A, B, C, D"),
        ({"answer": "b of 1"}, "answer 'b of 1' is none of"),
        ({"image": "no base64 at all, but long enough to be none" * 2}, "is no base64"),
        ({"image": ""}, "picture: has no bytes"),
        ({"image": as_base64(a_jpeg()[:11])}, "picture: "),
        ({"image": as_base64(b"a letter, not a picture")}, "picture: is none of"),
        ({"index": "one"}, "index 'one' is no whole number"),
        ({"index": 0}, "id 'hrbench-4k-0' stands further up"),
        ({"question": " "}, "question: is empty"),
        ({"C": ""}, "options: entry 2 is empty"),
        ({"D": "A of 1"}, "'a of 1' stands there more than once"),
    ],
)
def test_a_row_that_cannot_be_asked_is_spoiled(tmp_path, more, told):
    assert told in the_spoiled(tmp_path, hr_row(1) | more)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda line: line + b"\tmore", "has 10 fields where the header has 9"),
        (lambda line: line[: line.rindex(b"\t")], "has 8 fields"),
        (lambda line: line.replace(b"Which", b"Wh\xffch"), "its question is not UTF-8"),
        (lambda line: line.replace(b"1\t", b'1\t"', 1), "a quote is opened"),
    ],
)
def test_a_row_that_is_none_is_spoiled_and_counted(tmp_path, change, told):
    path = make_hrbench(tmp_path) / "hr_bench_4k.tsv"
    lines = path.read_bytes().splitlines()
    lines[2] = change(lines[2])
    path.write_bytes(b"\n".join(lines))
    suite = suite_of(tmp_path)
    found = list(suite.entries())
    assert [entry.item_id for entry in found] == [
        "hrbench-4k-0", "hrbench-4k@row 2", "hrbench-4k-2", "hrbench-4k-3",
    ]  # fmt: skip
    assert told in found[1].error.message
    assert suite.facts.counts == {"4k": 4}


def test_a_spoiled_row_keeps_nothing_of_the_row(tmp_path):
    spoiled = entries(tmp_path, [hr_row(0, answer="E")])[0]
    assert spoiled.error.__traceback__ is None
    assert spoiled.error.__context__ is None


def test_a_missing_column_is_named(tmp_path):
    columns = [name for name in HR_COLUMNS if name not in {"image", "D"}]
    make_hrbench(tmp_path, columns=columns)
    with pytest.raises(SuiteError, match=r"hr_bench_4k.tsv: has no column D, image"):
        list(suite_of(tmp_path).entries())


def test_columns_beyond_the_release_s_do_no_harm(tmp_path):
    rows = [hr_row(0) | {"cycle_category": "x"}]
    make_hrbench(tmp_path, rows=rows, columns=["cycle_category", *HR_COLUMNS])
    assert [entry.item_id for entry in suite_of(tmp_path).entries()] == ["hrbench-4k-0"]


def test_facts_count_and_digest_in_one_reading(tmp_path):
    path = make_hrbench(tmp_path) / "hr_bench_4k.tsv"
    facts = suite_of(tmp_path).facts
    assert facts.counts == {"4k": 4}
    assert facts.released == {"4k": 800}
    assert facts.deviations == {"4k": (4, 800)}
    assert facts.files == {"hr_bench_4k.tsv": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_another_picture_is_another_checksum(tmp_path):
    one = open_suite(f"hrbench:{make_hrbench(tmp_path / 'a', rows=[hr_row(0)])}").facts
    image = as_base64(a_jpeg(77))
    other = make_hrbench(tmp_path / "b", rows=[hr_row(0, image=image)])
    assert open_suite(f"hrbench:{other}").facts.checksum != one.checksum


@pytest.mark.parametrize("reading", ["entries", "facts"])
def test_memory_holds_no_more_than_a_row_and_its_picture(tmp_path, reading):
    picture = a_jpeg() + bytes(3 * 2**20)  # what follows a JPEG's end is not looked at
    rows = [hr_row(index, image=as_base64(picture)) for index in range(12)]
    suite = suite_of(make_hrbench(tmp_path, rows=rows, names=("hr_bench_4k.tsv",)))
    row_bytes = len(rows[0]["image"])
    del rows
    tracemalloc.start()
    if reading == "facts":
        assert suite.facts.total == 12
    for _ in suite.entries() if reading == "entries" else ():
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A line as it is put together, and its fields; meanwhile the last picture is the caller's.
    assert peak_bytes < 4 * row_bytes
