"""POPE as released: parquet of yes/no questions; what is broken is told, not lost."""

from __future__ import annotations

import pyarrow as pa
import pytest

from speceyes.bench.items import Spoiled
from speceyes.bench.suites import pope
from speceyes.bench.suites.opening import open_suite
from speceyes.errors import ConfigError, SuiteError
from tests.suite_folders import POPE_IMAGE, POPE_WORDS, a_jpeg, make_pope, pope_row


def suite_of(root, **more):
    return open_suite(f"pope:{root}", splits=("random",), **more)


def entries(root, rows=None):
    make_pope(root, rows=rows)
    return list(suite_of(root).entries())


def test_an_item_is_what_the_release_says(tmp_path):
    item = entries(tmp_path)[1]
    assert item.item_id == item.query.query_id == "pope-random-1"
    assert (item.split, item.kind) == ("random", "existence")
    assert item.query.question == "Is there a dog in picture 1?"
    assert (item.query.options, item.answer) == ((), "no")
    assert item.query.pictures[0].data == a_jpeg(1)


def test_ids_that_start_anew_in_every_file_are_told_apart(tmp_path):
    found = list(open_suite(f"pope:{make_pope(tmp_path)}").entries())
    splits = ("adversarial", "popular", "random")
    assert [e.item_id for e in found] == [f"pope-{s}-{n}" for s in splits for n in range(4)]


def test_ids_may_be_numbers(tmp_path):
    words = [(name, pa.string()) for name in POPE_WORDS if name != "id"]
    schema = pa.schema([("id", pa.int64()), *words, ("image", POPE_IMAGE)])
    make_pope(tmp_path, rows=[pope_row(3) | {"id": 3}], schema=schema)
    assert [entry.item_id for entry in suite_of(tmp_path).entries()] == ["pope-random-3"]


def test_more_rows_than_a_batch_come_in_order(tmp_path):
    found = entries(tmp_path, [pope_row(number) for number in range(21)])
    assert [entry.item_id for entry in found] == [f"pope-random-{n}" for n in range(21)]


def test_rows_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    asked = []
    make_pope(tmp_path, rows=[pope_row(number) for number in range(21)])
    rows = pope._rows

    class Watched:
        def __init__(self, file):
            self.file = file

        def iter_batches(self, size, **more):
            for batch in self.file.iter_batches(size, **more):
                asked.append(batch.num_rows)
                yield batch

    monkeypatch.setattr(pope, "_rows", lambda file: rows(Watched(file)))
    next(suite_of(tmp_path).entries())
    assert len(asked) == 1
    assert asked[0] <= 8


@pytest.mark.parametrize(("said", "read"), [("Yes", "yes"), (" no ", "no"), ("NO", "no")])
def test_yes_and_no_may_be_written_in_any_case(tmp_path, said, read):
    assert entries(tmp_path, [pope_row(0, answer=said)])[0].answer == read


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"answer": "maybe"}, "answer 'maybe' is neither yes nor no"),
        ({"answer": None}, "its answer is missing"),
        ({"question": ""}, "question: is empty"),
        ({"id": "0"}, "id 'pope-random-0' stands further up"),
        ({"image": None}, "its image is missing"),
        ({"image": {"bytes": None, "path": "dog.jpg"}}, "its image has no bytes"),
        ({"image": {"bytes": b"", "path": None}}, "picture: has no bytes"),
        ({"image": {"bytes": a_jpeg()[:11], "path": None}}, "picture: "),
    ],
)
def test_a_row_that_cannot_be_asked_is_spoiled(tmp_path, more, told):
    first, spoiled, last = entries(tmp_path, [pope_row(0), pope_row(1) | more, pope_row(2)])
    assert not isinstance(first, Spoiled)
    assert not isinstance(last, Spoiled)
    assert spoiled.item_id == "pope-random@row 2"
    assert spoiled.error.field == "random-00000-of-00001.parquet, row 2"
    assert told in spoiled.error.message
    assert suite_of(tmp_path).facts.counts == {"random": 3}


def test_words_that_are_not_utf8_spoil_their_row(tmp_path):
    path = make_pope(tmp_path) / "Full" / "random-00000-of-00001.parquet"
    schema = pa.schema([*((name, pa.string()) for name in POPE_WORDS), ("image", POPE_IMAGE)])
    table = pa.Table.from_pylist([pope_row(0), pope_row(1)], schema=schema)
    damaged = pa.array([b"fine?", b"caf\xe9?"], pa.binary()).view(pa.string())
    pa.parquet.write_table(table.set_column(2, "question", damaged), path)
    sound, spoiled = suite_of(tmp_path).entries()
    assert sound.query.question == "fine?"
    assert "its question is not UTF-8" in spoiled.error.message


@pytest.mark.parametrize("reading", ["facts", "entries"])
@pytest.mark.parametrize("kept", [0, 3, 200, -20])
def test_a_file_cut_short_is_refused_by_name(tmp_path, kept, reading):
    path = make_pope(tmp_path) / "Full" / "random-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    suite = suite_of(tmp_path)
    with pytest.raises(SuiteError, match="cut short or damaged") as caught:
        suite.facts if reading == "facts" else list(suite.entries())
    assert caught.value.field == path.name


def test_a_file_damaged_within_is_refused_by_name(tmp_path):
    path = make_pope(tmp_path) / "Full" / "random-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(SuiteError, match=r"random-00000-of-00001.parquet: "):
        list(suite_of(tmp_path).entries())


def test_a_missing_column_is_named(tmp_path):
    schema = pa.schema([("id", pa.string()), ("image", POPE_IMAGE)])
    make_pope(tmp_path, schema=schema)
    with pytest.raises(SuiteError, match="has no column question, answer"):
        list(suite_of(tmp_path).entries())


def test_a_missing_split_is_refused_unless_left_out(tmp_path):
    make_pope(tmp_path, splits=("random",))
    with pytest.raises(SuiteError, match=r"Full/adversarial-.*is not in .*leave adversarial out"):
        open_suite(f"pope:{tmp_path}")
    assert suite_of(tmp_path).facts.counts == {"random": 4}


def test_an_unknown_split_is_refused_and_the_known_are_named(tmp_path):
    with pytest.raises(ConfigError, match="'hard' is unknown; pope has adversarial, popular"):
        open_suite(f"pope:{make_pope(tmp_path)}", splits=("hard",))


def test_facts_tell_sizes_and_files(tmp_path):
    facts = open_suite(f"pope:{make_pope(tmp_path)}", per_split=3).facts
    assert facts.counts == {"adversarial": 3, "popular": 3, "random": 3}
    assert facts.deviations == {}
    assert set(facts.files) == {f"Full/{pope.file_name(split)}" for split in facts.counts}


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    make_pope(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SuiteError, match=r"pip install 'speceyes\[lab\]'"):
        list(suite_of(tmp_path).entries())
