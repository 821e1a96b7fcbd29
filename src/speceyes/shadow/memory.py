"""A shadow's place in a folder, where what it has seen outlives its process.

It refuses to know what a state says. Each place has one file and one holder at a time, by a lock
that ends with its process; a file is replaced as a whole, so none is ever left in part.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.to_thread

from speceyes.errors import ConfigError, InputError
from speceyes.shadow.state import (
    Kept,
    changed_terms,
    differing,
    doubted,
    from_text,
    loosened,
    resumed,
    setup_id,
    to_text,
)
from speceyes.shadow.watch import Watch

_LOG: Final = logging.getLogger(__name__)
_BEAT_S: Final = 5.0
_LEAVE_S: Final = 5.0
_MOST_PLACES: Final = 1000
_MOST_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class _Place:
    file: Path
    lock: int  # a descriptor


class Memory:
    """Keep one shadow's watch in a folder, and go on from what was left there before.

    Invariants: at most one holder for each place, so that any number of processes may share a
    folder. A change of the gate is written at once, counts every few seconds and on leaving.
    """

    def __init__(self, folder: str, *, name: str, mode: str) -> None:
        self._folder = Path(folder)
        self._name = name
        self._stem = f"{quote(name, safe='')}.{mode}-"
        self._setup: Mapping[str, Any] = {}
        self._place: _Place | None = None
        self._written: Watch | None = None
        self._is_broken = False
        self._due: anyio.Event | None = None

    async def open(self, setup: Mapping[str, Any], fresh: Watch) -> Watch:
        """Take a place, and go on from what was left. Raises: ConfigError naming the folder."""
        return await anyio.to_thread.run_sync(self._open, setup, fresh)

    async def keep(self, current: Callable[[], Watch]) -> None:
        """Write down what there is, again and again, until cancelled."""
        self._due = anyio.Event()
        while True:
            with anyio.move_on_after(_BEAT_S):
                await self._due.wait()
            self._due = anyio.Event()
            await anyio.to_thread.run_sync(self._try_write, current())

    def hurry(self) -> None:
        """Have it written now: the gate in force has changed."""
        if self._due is not None:
            self._due.set()

    async def leave(self, watch: Watch) -> None:
        """Write down the last of it, and let others have the place."""
        with anyio.move_on_after(_LEAVE_S, shield=True):
            await anyio.to_thread.run_sync(self._try_write, watch, abandon_on_cancel=True)
        self._release()

    def _open(self, setup: Mapping[str, Any], fresh: Watch) -> Watch:
        self._setup = setup
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._place = self._claim(f"{self._stem}{setup_id(setup)}")
            watch = self._resume(self._place, fresh)
            self._write(watch)
        except OSError as error:
            self._release()
            told = (
                f"{self._folder} cannot be used: {error.strerror or error}; name a folder of ours"
            )
            raise ConfigError("shadow.state_folder", told) from error
        return watch

    def _claim(self, stem: str) -> _Place:
        for number in range(_MOST_PLACES):
            path = self._folder / f"{stem}-{number}"
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(lock)
                if not isinstance(error, BlockingIOError):
                    raise
            else:
                return _Place(Path(f"{path}.json"), lock)
        raise OSError(f"{_MOST_PLACES} others are at work there")

    def _resume(self, place: _Place, fresh: Watch) -> Watch:
        files = sorted(self._folder.glob(f"{self._stem}{setup_id(self._setup)}-*.json"))
        found: dict[Path, Watch] = {}
        is_doubtful = False
        for file in files:
            try:
                kept = _read(file)
            except InputError as error:
                is_doubtful = True
                self._warn(f"{file} {error.message}; it counts as a breach until it is deleted")
            else:
                if kept.setup == self._setup:
                    found[file] = kept.watch
        if not files:
            self._tell_of_others()
        mine = found.pop(place.file, None)
        watch = resumed(fresh, mine, found.values())
        watch = doubted(watch) if is_doubtful else watch
        self._tell(watch, fresh, mine=mine, others=found)
        return watch

    def _tell(
        self, watch: Watch, fresh: Watch, *, mine: Watch | None, others: Mapping[Path, Watch]
    ) -> None:
        known = [*([] if mine is None else [mine]), *others.values()]
        freed = sorted({name for one in known for name in loosened(one, fresh)})
        if freed:
            self._warn(f"{', '.join(freed)} allows more now: what was found before does not count")
        terms = () if mine is None else changed_terms(mine, fresh)
        if terms:
            self._warn(f"counts begin anew, as another {', '.join(terms)} is in force now")
        if known:
            _LOG.log(
                logging.INFO if watch.state == "watching" else logging.WARNING,
                "model=%s message=%r folder=%s state=%s threshold=%g queries=%d checked=%d",
                self._name,
                "goes on from what was seen before",
                self._folder,
                watch.state,
                watch.gate.threshold,
                watch.audit.queries,
                watch.audit.checked,
            )

    def _tell_of_others(self) -> None:
        # Of another setup: which of its parts differ, by the one that was written last.
        files = sorted(
            self._folder.glob(f"{self._stem}*.json"), key=lambda one: one.stat().st_mtime
        )
        if not files:
            return
        try:
            names = ", ".join(differing(_read(files[-1]).setup, self._setup))
        except InputError:
            names = "unknown"
        told = f"what {files[-1]} holds is of another setup ({names}); it does not apply here"
        self._warn(told)

    def _warn(self, told: str) -> None:
        _LOG.warning("model=%s message=%r", self._name, told)

    def _try_write(self, watch: Watch) -> None:
        if watch is self._written:
            return
        try:
            self._write(watch)
        except OSError as error:
            if not self._is_broken:  # said once, until it works again
                self._warn(f"cannot keep its state in {self._folder}: {error}")
            self._is_broken = True
        else:
            self._is_broken = False

    def _write(self, watch: Watch) -> None:
        if self._place is None:
            return
        _replace(self._place.file, to_text(Kept(self._setup, watch)).encode())
        self._written = watch

    def _release(self) -> None:
        place, self._place, self._written = self._place, None, None
        self._due = None
        if place is not None:
            os.close(place.lock)


def _read(file: Path) -> Kept:
    with file.open("rb") as source:
        data = source.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError("state", f"is above {_MOST_BYTES} bytes")
    try:
        return from_text(data.decode())
    except UnicodeDecodeError as error:
        raise InputError("state", f"is no text ({error})") from error


def _replace(file: Path, data: bytes) -> None:
    # Whole or not at all, also where the power fails.
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
