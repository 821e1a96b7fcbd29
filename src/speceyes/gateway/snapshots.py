"""Workers leave their reports in a folder of their own here, so that any of them can show them all.

It refuses to know what a report says. A report is replaced as a whole, so none is read in part.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from speceyes.errors import InputError
from speceyes.gateway.reports import Report, from_bytes, put_together, to_bytes

_LOG: Final = logging.getLogger(__name__)
_SUFFIX: Final = ".report"
_PAST: Final = "0-past"  # what workers did that are gone


class Folder:
    """One worker's place in the folder of all workers, which only their owner may enter.

    A worker's name begins with its process id: by that it is known to be gone.
    """

    def __init__(self, path: Path, worker: str) -> None:
        self._path = path
        self._mine = path / f"{worker}{_SUFFIX}"

    def open(self) -> None:
        """Make the folder, and put what gone workers left into one report. Raises: OSError.

        However often workers die and come back, there are no more reports than workers, and one.
        """
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_EX):
            gone = [path for path in self._reports() if not _is_alive(path)]
            reports = list(filter(None, map(_read, gone)))
            if not reports:
                return
            past = put_together(reports, at_s=max(report.at_s for report in reports))
            left = Report(
                worker=_PAST,
                since_s=past.since_s,
                at_s=0.0,  # it says nothing of the moment
                in_flight=0,
                queued=0,
                breakers={},
                stats=past.stats,
            )
            _replace(self._path / f"{_PAST}{_SUFFIX}", to_bytes(left))
            for path in gone:
                if not path.name.startswith(_PAST):
                    path.unlink(missing_ok=True)

    def write(self, report: Report) -> None:
        """Leave this worker's report, in place of the one before. Raises: OSError."""
        _replace(self._mine, to_bytes(report))

    def others(self) -> list[Report]:
        """Read what the other workers left; a report that cannot be read is left out, and told."""
        if not self._path.is_dir():
            return []
        with self._locked(fcntl.LOCK_SH):
            return list(filter(None, map(_read, self._reports())))

    def _reports(self) -> list[Path]:
        return sorted(path for path in self._path.glob(f"*{_SUFFIX}") if path != self._mine)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        # Nobody reads while what is gone is put together: it would count twice.
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, kind)
            yield
        finally:
            os.close(folder)


def _read(path: Path) -> Report | None:
    try:
        return from_bytes(path.read_bytes())
    except (OSError, InputError) as error:
        _LOG.warning("report=%s message=%r", path.name, str(error))
        return None


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def _is_alive(path: Path) -> bool:
    process = path.name.partition("-")[0]
    if not process.isdecimal() or process == "0":
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
