"""A run's folder: whatever happens to the process, what is in it is whole, and can be resumed."""

import errno
import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speceyes.bench.folder import (
    GRADES,
    MANIFEST,
    RECORDS,
    RunFolder,
    open_folder,
    read_run,
)
from speceyes.bench.lines import to_line
from speceyes.bench.manifest import from_json, to_json
from speceyes.errors import ConfigError, RunFolderError, StorageError
from tests.scripted_pair import GATE, ListSuite, keep, manifest, tiny_items, tiny_run

ROOT = Path(__file__).resolve().parents[1]
ITEMS = tiny_items(4)
ASKED = manifest(ListSuite(ITEMS))
WHOLE = tiny_run(4).records
TEXT = b"".join(to_line(record).encode() + b"\n" for record in WHOLE)


def keys(records):
    return sorted((record.method, record.item_id) for record in records)


def go_on(path):
    async def work():
        with open_folder(path, ASKED) as folder:
            await keep(folder, ITEMS, warm_up=[])

    anyio.run(work)


def test_what_was_kept_is_read_back_as_it_was(tmp_path):
    with open_folder(tmp_path / "runs" / "one", ASKED) as folder:
        for record in WHOLE:
            folder.add(record)
    run = read_run(tmp_path / "runs" / "one")
    assert (run.records, run.manifest, run.name, run.missing) == (WHOLE, ASKED, "one", 0)


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\x1c", "\r", "\n"])
def test_whatever_a_model_says_is_one_line(tmp_path, end):
    record = replace(WHOLE[0], text=f"two{end}lines")
    with open_folder(tmp_path, ASKED) as folder:
        folder.add(record)
    assert read_run(tmp_path).records == (record,)


def test_a_line_is_on_its_way_to_the_disk_once_add_returns(tmp_path):
    with open_folder(tmp_path, ASKED) as folder:
        for count, record in enumerate(WHOLE, 1):
            folder.add(record)
            assert len(read_run(tmp_path).records) == count


def test_a_run_is_taken_up_where_it_was_left(tmp_path):
    with open_folder(tmp_path, ASKED) as folder:
        assert (folder.done, folder.part) == (frozenset(), 0)
        folder.add(WHOLE[0])
    with open_folder(tmp_path, ASKED) as folder:
        assert folder.done == {(WHOLE[0].method, WHOLE[0].item_id)}
        assert folder.part == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(TEXT)))
def test_cut_off_at_any_byte_the_same_records_come_together(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("run")
    (path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (path / RECORDS).write_bytes(TEXT[:cut])
    go_on(path)
    assert keys(read_run(path).records) == keys(WHOLE)


def test_a_torn_line_longer_than_any_chunk_is_taken_away_whole(tmp_path):
    (tmp_path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (tmp_path / RECORDS).write_bytes(TEXT + b"x" * 300_000)
    with open_folder(tmp_path, ASKED):
        assert (tmp_path / RECORDS).read_bytes() == TEXT


def test_reading_leaves_a_torn_line_out_and_alone(tmp_path):
    (tmp_path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (tmp_path / RECORDS).write_bytes(TEXT[:-5])
    run = read_run(tmp_path)
    assert (len(run.records), run.missing) == (len(WHOLE) - 1, 1)
    assert (tmp_path / RECORDS).read_bytes() == TEXT[:-5]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (replace(ASKED, gate=replace(GATE, threshold=4.0)), "gate.threshold was 5.0, is 4.0"),
        (replace(ASKED, suite=replace(ASKED.suite, checksum="x")), "suite.checksum was"),
        (replace(ASKED, methods=("small",)), "methods was"),
        (replace(ASKED, commit="abc"), "commit was None, is 'abc'"),
        (replace(ASKED, versions={"python": "3.11", "torch": "3"}), "versions.torch was None"),
        (replace(ASKED, machine=replace(ASKED.machine, cores=64)), "machine.cores was 2, is 64"),
    ],
    ids=["gate", "suite", "methods", "commit", "versions", "machine"],
)
def test_a_folder_of_another_run_is_refused_naming_what_differs(tmp_path, other, named):
    with open_folder(tmp_path, ASKED) as folder:
        folder.add(WHOLE[0])
    with (
        pytest.raises(RunFolderError, match=r"holds another run") as refused,
        open_folder(tmp_path, other),
    ):
        pass
    assert named in str(refused.value)
    assert len(read_run(tmp_path).records) == 1


def test_the_hour_and_the_load_may_differ(tmp_path):
    with open_folder(tmp_path, ASKED):
        pass
    later = replace(ASKED, started_at="2027", machine=replace(ASKED.machine, load=9.0))
    with open_folder(tmp_path, later):
        assert read_run(tmp_path).manifest.started_at == ASKED.started_at


def test_anew_throws_away_what_was_there(tmp_path):
    with open_folder(tmp_path, ASKED) as folder:
        folder.add(WHOLE[0])
    (tmp_path / GRADES).write_text("", encoding="utf-8")
    with open_folder(tmp_path, replace(ASKED, concurrency=2), anew=True) as folder:
        assert folder.done == frozenset()
    assert not (tmp_path / GRADES).exists()
    assert read_run(tmp_path).manifest.concurrency == 2


def test_two_at_once_are_refused(tmp_path):
    busy = pytest.raises(RunFolderError, match="another process is running there")
    with open_folder(tmp_path, ASKED), busy, open_folder(tmp_path, ASKED):
        pass


def test_records_without_a_manifest_are_not_touched(tmp_path):
    (tmp_path / RECORDS).write_bytes(TEXT)
    with (
        pytest.raises(RunFolderError, match=r"records.jsonl but no manifest.json"),
        open_folder(tmp_path, ASKED),
    ):
        pass
    assert (tmp_path / RECORDS).read_bytes() == TEXT


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with (
        pytest.raises(ConfigError, match=r"out: .* cannot be written to"),
        open_folder(tmp_path / "file" / "run", ASKED),
    ):
        pass


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    lines = TEXT.splitlines(keepends=True)
    (tmp_path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (tmp_path / RECORDS).write_bytes(lines[0] + b'{"method": \n' + lines[1])
    with (
        pytest.raises(RunFolderError, match=r"records.jsonl, line 2: is no record"),
        open_folder(tmp_path, ASKED),
    ):
        pass
    with pytest.raises(RunFolderError, match="line 2"):
        read_run(tmp_path)


def test_bytes_that_are_no_text_are_named_too(tmp_path):
    (tmp_path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (tmp_path / RECORDS).write_bytes(b"\xff\xfe\n" + TEXT)
    with pytest.raises(RunFolderError, match=r"line 1: is no record"), open_folder(tmp_path, ASKED):
        pass
    with pytest.raises(RunFolderError, match="damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, RECORDS])
def test_what_is_no_run_is_refused_naming_what_is_missing(tmp_path, name):
    (tmp_path / MANIFEST).write_text(to_json(ASKED), encoding="utf-8")
    (tmp_path / RECORDS).write_bytes(TEXT)
    (tmp_path / name).unlink()
    with pytest.raises(RunFolderError, match=f"holds no run.*{name}"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"manifest_version": 99}', "null"])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(RunFolderError, match=r"manifest.json"):
        from_json(text)


def test_a_manifest_is_read_back_as_it_was():
    strict = replace(ASKED, gate=replace(GATE, threshold=float("-inf")), preset="paper")
    assert from_json(to_json(strict)) == strict


class Full:
    """A file on a disk that has room for some bytes and no more."""

    def __init__(self, file, room):
        self._file = file
        self._room = room

    def write(self, data):
        self._file.write(data[: self._room])
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= len(data)

    def flush(self):
        self._file.flush()


def test_a_disk_that_fills_up_is_named_and_the_run_can_go_on(tmp_path):
    with open_folder(tmp_path, ASKED):
        pass
    with (tmp_path / RECORDS).open("ab") as file:
        full = Full(file, len(to_line(WHOLE[0]).encode()) + 40)
        folder = RunFolder(tmp_path, full, done=frozenset(), part=0)
        folder.add(WHOLE[0])
        with pytest.raises(StorageError, match=r"No space left.*after 1 records") as told:
            folder.add(WHOLE[1])
    assert "give the same command again" in str(told.value)
    assert len(read_run(tmp_path).records) == 1
    go_on(tmp_path)
    assert keys(read_run(tmp_path).records) == keys(WHOLE)


def test_grades_given_later_go_before_those_of_the_run(tmp_path):
    with open_folder(tmp_path, ASKED) as folder:
        for record in WHOLE:
            folder.add(record)
    key = {"method": WHOLE[0].method, "item_id": WHOLE[0].item_id}
    grades = [
        {**key, "grade": {"value": value, "answer": None, "explanation": "looked again"}}
        for value in ("wrong", "right")
    ]
    lines = "".join(json.dumps(grade) + "\n" for grade in grades) + '{"method": "ba'
    (tmp_path / GRADES).write_text(lines, encoding="utf-8")
    first, *rest = read_run(tmp_path).records
    assert (first.grade.value, first.grade.explanation) == ("right", "looked again")
    assert tuple(rest) == WHOLE[1:]
    (tmp_path / GRADES).write_text("{}\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"grades.jsonl, line 1"):
        read_run(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_twenty_times_the_record_set_is_that_of_an_unbroken_run(tmp_path):
    command = [sys.executable, "-m", "tests.killable"]
    subprocess.run(
        [*command, tmp_path / "unbroken", "120"], check=True, cwd=ROOT, capture_output=True
    )
    rng = random.Random(20261124)
    killed = 0
    while killed < 20:
        with subprocess.Popen(
            [*command, tmp_path / "killed", "120"], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.12))
            process.kill()
        killed += process.returncode == -9
        assert process.returncode in {-9, 0}
        if process.returncode == 0:
            break
    subprocess.run(
        [*command, tmp_path / "killed", "120"], check=True, cwd=ROOT, capture_output=True
    )
    print(f"killed {killed} times")
    assert killed == 20
    whole, broken = read_run(tmp_path / "unbroken"), read_run(tmp_path / "killed")
    assert broken.missing == 0
    assert keys(broken.records) == keys(whole.records)
    texts = [
        {(r.method, r.item_id): (r.text, r.grade) for r in run.records} for run in (whole, broken)
    ]
    assert texts[0] == texts[1]
