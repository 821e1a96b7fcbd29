"""Workers leave their reports in a folder of their own here, so that any of them can show them all.

It refuses to know what a report says. A report is replaced as a whole, so none is read in part.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from speceyes.errors import InputError
from speceyes.gateway.reports import Report, from_bytes, to_bytes

_LOG: Final = logging.getLogger(__name__)
_SUFFIX: Final = ".report"


class Folder:
    """One worker's place in the folder of all workers, which only their owner may enter."""

    def __init__(self, path: Path, worker: str) -> None:
        self._path = path
        self._mine = path / f"{worker}{_SUFFIX}"

    def write(self, report: Report) -> None:
        """Leave this worker's report, in place of the one before. Raises: OSError."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._mine.with_suffix(".new")
        new.write_bytes(to_bytes(report))
        new.replace(self._mine)

    def others(self) -> list[Report]:
        """Read what the other workers left; a report that cannot be read is left out, and told."""
        found = []
        for path in sorted(self._path.glob(f"*{_SUFFIX}")):
            if path == self._mine:
                continue
            try:
                found.append(from_bytes(path.read_bytes()))
            except (OSError, InputError) as error:
                _LOG.warning("report=%s message=%r", path.name, str(error))
        return found
