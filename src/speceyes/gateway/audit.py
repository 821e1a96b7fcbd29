"""The audit log is written here: one line of JSON for each request, whatever became of it.

It refuses to know pictures, and holds questions and answers only if it was asked to. Lines are
written by a thread of their own; a request never waits for the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import msgspec

from speceyes.errors import ConfigError
from speceyes.gateway.measures import Finished
from speceyes.gateway.observing import Seen
from speceyes.gateway.outbox import Outbox
from speceyes.gateway.settings import AuditSettings
from speceyes.gateway.stats import Told


class Line(Told, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the log: the request in short, who asked, how much, and when it ended (UTC)."""

    time: str
    key: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    question: str | None = None
    answer: str | None = None


class AuditLog:
    """Append to one file, from any number of workers at once.

    A file that was moved away is begun anew, so `logrotate` needs no signal; with `max_bytes` the
    log does that itself. Lines go out whole, by one call each batch, so workers do not mix them.
    """

    def __init__(self, settings: AuditSettings) -> None:
        if settings.file is None:
            raise ConfigError("gateway.audit.file", "is missing; name a file to append to")
        self._path = Path(settings.file)
        self._settings = settings
        self._file: FileIO | None = None
        self._is_torn = False
        self._outbox = Outbox("audit", self._write)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._outbox.dropped

    def open(self) -> None:
        """Open the file and begin to write. Raises: ConfigError if that cannot be done."""
        try:
            self._file = _append_to(self._path)
        except OSError as error:
            raise ConfigError(
                "gateway.audit.file",
                f"{self._path} cannot be opened ({error.strerror}); make its folder, or name "
                "another file",
            ) from error
        self._outbox.start()

    def hear(self, told: Told, finished: Finished, seen: Seen | None) -> None:
        """Take a request that ended."""
        self._outbox.put(line_of(told, finished, seen, prompts=self._settings.prompts))

    def close(self) -> None:
        """Write what is left and close the file. Waits."""
        self._outbox.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, lines: Sequence[Line]) -> None:
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        file = self._current()
        rest = memoryview(b"\n" + data if self._is_torn else data)
        self._is_torn = True  # until all of it is out: a full disk takes a part
        while rest:
            rest = rest[file.write(rest) :]
        self._is_torn = False
        limit = self._settings.max_bytes
        if limit is not None and file.tell() >= limit:
            self._rotate()

    def _current(self) -> FileIO:
        if self._file is None or not _is_at(self._file, self._path):
            if self._file is not None:
                self._file.close()
                self._file = None
            self._file = _append_to(self._path)
        return self._file

    def _rotate(self) -> None:
        # Another worker may be at it: whoever holds the lock moves the file, once.
        with _locked(self._current()) as file:
            limit = self._settings.max_bytes or 0
            if not _is_at(file, self._path) or os.fstat(file.fileno()).st_size < limit:
                return
            for number in range(self._settings.keep - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def line_of(told: Told, finished: Finished, seen: Seen | None, *, prompts: bool) -> Line:
    """Make a request's line; with `prompts` its last question and the funnel's answer stand in it.

    What the large engine said to a bypassed request was not read, so it cannot be told.
    """
    ended = finished.ended
    answer = None if ended.answer is None else ended.answer.text
    return Line(
        **{name: getattr(told, name) for name in Told.__struct_fields__},
        time=datetime.fromtimestamp(told.at_s, UTC).isoformat(timespec="milliseconds"),
        key=ended.key_name,
        bytes_in=ended.bytes_in,
        bytes_out=ended.bytes_out,
        question=seen.question if prompts and seen is not None else None,
        answer=answer if prompts else None,
    )


def _append_to(path: Path) -> FileIO:
    # Unbuffered and for the owner alone: a batch is one write at the file's end.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return FileIO(descriptor, "ab")


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


@contextmanager
def _locked(file: FileIO) -> Iterator[FileIO]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
