"""The lines of a file one by one, however long, each with where it begins.

It refuses to know what a line means. At most one line is in memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from speceyes.bench.suites.findings import unreadable
from speceyes.errors import SuiteError

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineTooLong:
    """A line beyond the bound; it was read past."""

    bound_bytes: int


class LongLines:
    """Read a file line by line; each byte is hashed once, even if it is read again.

    Use it within `with`. Raises: SuiteError if the file cannot be read.
    """

    def __init__(self, path: Path, *, bound_bytes: int, hashing: bool = False) -> None:
        self.path = path
        self.position = 0  # where the next line begins
        self._bound_bytes = bound_bytes
        self._digest = hashlib.sha256() if hashing else None
        self._hashed_to = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise unreadable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self) -> bytes | LineTooLong | None:
        """Give the next line with its end, without a byte order mark; None at the file's end."""
        starts = self.position == 0
        line = self._piece()
        if not line:
            return None
        if len(line) > self._bound_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = self._piece()
            return LineTooLong(self._bound_bytes)
        return line.removeprefix(_BYTE_ORDER_MARK) if starts else line

    def seek(self, position: int) -> None:
        """Go on from a place that was `position` once."""
        self._file.seek(position)
        self.position = position

    def digest(self) -> str:
        """Give the sha256 of what was read. Raises: SuiteError if nothing was hashed."""
        if self._digest is None:
            raise SuiteError(self.path.name, "was not hashed while it was read")
        return self._digest.hexdigest()

    def _piece(self) -> bytes:
        try:
            piece = self._file.readline(self._bound_bytes + 1)
        except OSError as error:
            raise unreadable(self.path, error) from error
        end = self.position + len(piece)
        if self._digest is not None and end > self._hashed_to:
            self._digest.update(memoryview(piece)[self._hashed_to - self.position :])
            self._hashed_to = end
        self.position = end
        return piece
