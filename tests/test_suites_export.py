"""What is exported is read back as a public suite: same questions, pictures, right answers."""

from __future__ import annotations

import csv
import io
import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image as Pillow
from pyarrow import parquet

from speceyes.bench.items import Item
from speceyes.bench.suites.export import export_suite
from speceyes.bench.suites.opening import open_suite
from speceyes.builtin.suite import draw_items
from speceyes.errors import ConfigError
from speceyes.pictures import decode
from tests.suite_folders import HR_COLUMNS

SEED = 11


def drawn(wanted, count):
    """Give the first items of the built-in suite that are wanted."""
    return list(islice(filter(wanted, draw_items(400, seed=SEED)), count))


def exported(form, root, *, per_split, **more):
    """Export and read back; gives the items by split."""
    written = export_suite(form, root / "out", per_split=per_split, seed=SEED)
    suite = open_suite(f"{form}:{root / 'out'}", **more)
    found = list(suite.entries())
    assert all(isinstance(entry, Item) for entry in found)
    assert written.counts == suite.facts.counts
    return {split: [i for i in found if i.split == split] for split in written.counts}


def test_vstar_round_trip(tmp_path):
    found = exported("vstar", tmp_path, per_split=4)
    for split, name in {"direct_attributes": "attribute", "relative_position": "position"}.items():
        items = drawn(lambda item, name=name: item.split == name, 4)
        for item, read in zip(items, found[split], strict=True):
            assert read.query.question == item.query.question
            assert sorted(read.query.options) == sorted(item.query.options)
            assert read.answer == item.answer
            assert read.targets_px == item.targets_px
            was, now = (
                np.asarray(decode(i.query.pictures[0]), dtype=np.int16) for i in (item, read)
            )
            assert was.shape == now.shape
            assert np.abs(was - now).mean() < 2.0  # JPEG of quality 95


def test_vstar_is_written_as_it_is_released(tmp_path):
    exported("vstar", tmp_path, per_split=2)
    folder = tmp_path / "out" / "relative_position"
    assert [path.name for path in sorted(folder.iterdir())] == [
        "builtin_00000.jpg", "builtin_00000.json", "builtin_00001.jpg", "builtin_00001.json",
    ]  # fmt: skip
    told = json.loads((folder / "builtin_00001.json").read_text(encoding="utf-8"))
    item = drawn(lambda item: item.split == "position", 2)[1]
    assert set(told) == {"question", "options", "bbox"}
    assert told["options"][0] == item.answer
    assert sorted(told["options"]) == sorted(item.query.options)
    with Pillow.open(folder / "builtin_00001.jpg") as image:
        assert image.format == "JPEG"


def test_hrbench_round_trip(tmp_path):
    found = exported("hrbench", tmp_path, per_split=8)
    items = drawn(lambda item: len(item.query.options) == 4, 4)
    for turn, split in enumerate(("4k", "8k")):
        assert [read.item_id for read in found[split]] == [f"hrbench-{split}-{n}" for n in range(8)]
        for number, read in enumerate(found[split]):
            item = items[2 * (number // 4) + turn]
            assert read.query.question == item.query.question
            assert read.answer == item.answer
            assert sorted(read.query.options) == sorted(item.query.options)
            assert read.query.pictures == item.query.pictures  # the very bytes
            assert read.kind == "single"


def test_hrbench_asks_each_question_with_the_right_option_everywhere(tmp_path):
    found = exported("hrbench", tmp_path, per_split=8)["8k"]
    for first in (0, 4):
        four = found[first : first + 4]
        assert [read.query.options.index(read.answer) for read in four] == [0, 1, 2, 3]
        assert len({read.query.options for read in four}) == 4


def test_hrbench_entries_come_in_fours(tmp_path):
    written = export_suite("hrbench", tmp_path, per_split=5)
    assert written.counts == {"4k": 8, "8k": 8}


def test_hrbench_is_written_as_it_is_released(tmp_path):
    exported("hrbench", tmp_path, per_split=4)
    text = (tmp_path / "out" / "hr_bench_4k.tsv").read_text(encoding="utf-8")
    header, *rows = text.splitlines()
    assert header.split("\t") == list(HR_COLUMNS)
    assert [row.split("\t")[0] for row in rows] == ["0", "1", "2", "3"]


def test_pope_round_trip(tmp_path):
    found = exported("pope", tmp_path, per_split=3)
    items = drawn(lambda item: item.split == "existence", 9)
    for turn, split in enumerate(("adversarial", "popular", "random")):
        for read, item in zip(found[split], items[turn::3], strict=True):
            assert read.query.question == item.query.question
            assert read.answer == item.answer
            assert read.query.options == ()
            assert read.query.pictures == item.query.pictures  # the very bytes


def test_pope_is_written_as_it_is_released(tmp_path):
    exported("pope", tmp_path, per_split=2)
    path = tmp_path / "out" / "Full" / "popular-00000-of-00001.parquet"
    table = parquet.read_table(path)
    assert table.column_names == [
        "id", "question_id", "question", "answer", "image_source", "category", "image",
    ]  # fmt: skip
    first = table.to_pylist()[0]
    assert (first["id"], first["question_id"], first["category"]) == ("0", "1", "popular")
    assert set(first["image"]) == {"bytes", "path"}


def test_pope_writes_more_than_one_group(tmp_path, monkeypatch):
    monkeypatch.setattr("speceyes.bench.suites.export._GROUP_ROWS", 2)
    found = exported("pope", tmp_path, per_split=5)
    path = tmp_path / "out" / "Full" / "random-00000-of-00001.parquet"
    assert parquet.ParquetFile(path).num_row_groups == 3
    assert [len(items) for items in found.values()] == [5, 5, 5]


def test_the_same_seed_writes_the_same_questions_and_another_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_suite("hrbench", tmp_path / name, per_split=4, seed=seed)
    one, same, other = (
        (tmp_path / name / "hr_bench_8k.tsv").read_bytes() for name in ("a", "b", "c")
    )
    assert one == same != other


@pytest.mark.parametrize("form", ["vstar", "hrbench", "pope"])
def test_a_folder_with_something_in_it_is_refused(tmp_path, form):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        export_suite(form, tmp_path, per_split=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_cannot_be_written_to_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        export_suite("vstar", tmp_path / "file" / "out", per_split=1)
    assert caught.value.field == "out"


def test_a_number_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="per_split: 0 is below 1"):
        export_suite("vstar", tmp_path / "out", per_split=0)
    assert not (tmp_path / "out").exists()


def test_the_csv_module_reads_the_table_alike(tmp_path):
    """Ours is a reader of our own: another one must see the same table."""
    found = exported("hrbench", tmp_path, per_split=4)["4k"]
    text = (tmp_path / "out" / "hr_bench_4k.tsv").read_text(encoding="utf-8")
    limit = csv.field_size_limit(2**24)
    try:
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    finally:
        csv.field_size_limit(limit)
    assert [row["question"] for row in rows] == [item.query.question for item in found]
    assert [row[row["answer"]] for row in rows] == [item.answer for item in found]
