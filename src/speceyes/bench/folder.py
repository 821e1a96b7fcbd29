"""A run's folder: its manifest, then one line per record, appended as they come.

It refuses to know what a run does. Whatever happens to the process, what is in the folder is whole:
a line cut off in the middle is taken away when the run is taken up again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from speceyes.bench.grade import Grade
from speceyes.bench.lines import read_records, to_line
from speceyes.bench.manifest import Manifest, check_same, from_json, to_json
from speceyes.bench.records import Method, Record
from speceyes.errors import ConfigError, InputError, RunFolderError, StorageError

MANIFEST: Final = "manifest.json"
RECORDS: Final = "records.jsonl"
GRADES: Final = "grades.jsonl"
GATE: Final = "gate.json"  # with its certificate, where the run used or made one
_LOCK: Final = ".lock"
_CHUNK_BYTES: Final = 1 << 16

Key: TypeAlias = tuple[Method, str]  # (method, item_id)


def key_of(record: Record) -> Key:
    """Give what a record is told apart by, within its run."""
    return (record.method, record.item_id)


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run has left behind so far."""

    manifest: Manifest
    records: Sequence[Record]
    name: str = ""

    @property
    def missing(self) -> int:
        """How many records are still to come."""
        manifest = self.manifest
        return manifest.suite.total * len(manifest.methods) - len(self.records)


class RunFolder:
    """A run that is being made: which records there are, and where the next one goes."""

    def __init__(self, path: Path, file: BinaryIO, *, done: frozenset[Key], part: int) -> None:
        self.path = path
        self.done = done
        self.part = part
        self._file = file
        self._written = len(done)

    def add(self, record: Record) -> None:
        """Append one record; once this returns, a killed process does not lose it.

        Raises: StorageError if it cannot be written, as on a disk that is full.
        """
        try:
            self._file.write(to_line(record).encode("utf-8") + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"{self.path / RECORDS}: {error.strerror}, after {self._written} records; they "
                "are whole. Make room, then give the same command again: it goes on from there"
            ) from error
        self._written += 1


@contextmanager
def open_folder(path: Path, manifest: Manifest, *, anew: bool = False) -> Iterator[RunFolder]:
    """Take up a run, or go on with it; `anew` throws away what an earlier one left.

    Raises: ConfigError if the folder cannot be written to; RunFolderError if it holds another run,
    is in use, or holds a record that cannot be read; StorageError if the manifest has no room.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("wb")
    except OSError as error:
        raise ConfigError("out", f"{path} cannot be written to: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(str(path), "another process is running there; wait for it") from (
                error
            )
        if anew:
            for name in (RECORDS, GRADES, MANIFEST):
                (path / name).unlink(missing_ok=True)
        _settle_manifest(path, manifest)
        _take_away_torn_line(path / RECORDS)
        done, part = _what_is_done(path / RECORDS)
        with (path / RECORDS).open("ab") as file:
            yield RunFolder(path, file, done=done, part=part)


def read_run(path: Path) -> Run:
    """Read what a run has left, with the grades given since, if any.

    A line that is cut off at the end is left out: its run was killed, or is still under way.
    Raises: RunFolderError if the folder holds no run, or a record that cannot be read.
    """
    try:
        manifest = from_json((path / MANIFEST).read_text(encoding="utf-8"))
        # By line feeds alone: what a model said may hold other ends of lines as they are.
        lines = list(StringIO((path / RECORDS).read_text(encoding="utf-8"), newline="\n"))
    except FileNotFoundError as error:
        raise RunFolderError(str(path), f"holds no run: there is no {error.filename}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(str(path), f"{RECORDS} is damaged: {error}") from error
    whole = (line for line in lines if line.endswith("\n"))
    try:
        records = tuple(read_records(whole))
    except InputError as error:
        raise RunFolderError(str(path / RECORDS), str(error)) from error
    grades = read_grades(path)
    graded = tuple(
        replace(record, grade=grades[key]) if (key := key_of(record)) in grades else record
        for record in records
    )
    return Run(manifest, graded, path.name)


def add_grade(path: Path, key: Key, grade: Grade) -> None:
    """Append a grade given after the run: the last one of a record is the one that counts.

    Raises: StorageError if it cannot be written.
    """
    line = json.dumps({"method": key[0], "item_id": key[1], "grade": asdict(grade)})
    try:
        _take_away_torn_line(path / GRADES)
        with (path / GRADES).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise StorageError(f"{path / GRADES}: {error.strerror}; make room, then again") from error


def read_grades(path: Path) -> dict[Key, Grade]:
    """Read the grades given after the run, the last one of each record. Raises: RunFolderError."""
    try:
        lines = (path / GRADES).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    found: dict[Key, Grade] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            continue
        try:
            raw = json.loads(line)
            found[raw["method"], raw["item_id"]] = Grade(**raw["grade"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{path / GRADES}, line {number}", f"is no grade ({error!r})"
            ) from (error)
    return found


def _settle_manifest(path: Path, manifest: Manifest) -> None:
    file = path / MANIFEST
    if file.exists():
        check_same(from_json(file.read_text(encoding="utf-8")), manifest)
        return
    if (path / RECORDS).exists():
        raise RunFolderError(
            str(path), f"holds {RECORDS} but no {MANIFEST}; give another --out, or --anew"
        )
    try:
        beside = file.with_suffix(".new")  # whole or not at all
        beside.write_text(to_json(manifest), encoding="utf-8")
        beside.rename(file)
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}; make room, then try again") from error


def _take_away_torn_line(file: Path) -> None:
    if not file.exists():
        return
    with file.open("r+b") as records:
        end = records.seek(0, os.SEEK_END)
        whole = end
        while whole > 0:
            start = max(0, whole - _CHUNK_BYTES)
            records.seek(start)
            newline = records.read(whole - start).rfind(b"\n")
            if newline >= 0:
                whole = start + newline + 1
                break
            whole = start
        if whole < end:
            records.truncate(whole)


def _what_is_done(file: Path) -> tuple[frozenset[Key], int]:
    # Read lightly: only who made which record, and in which part of the run.
    done: set[Key] = set()
    part = -1
    if file.exists():
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    raw = json.loads(line)
                    done.add((raw["method"], raw["item_id"]))
                    part = max(part, int(raw["part"]))
                except (ValueError, TypeError, KeyError) as error:
                    raise RunFolderError(
                        f"{file}, line {number}", f"is no record ({error!r}); remove that line"
                    ) from error
    return frozenset(done), part + 1
