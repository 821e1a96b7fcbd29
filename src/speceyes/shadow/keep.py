"""Records go to a file here, appended line by line, up to a stated number.

It refuses to know what a record says. Any number of processes may write to one file: each line goes
out whole, by one call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 20


class Keep:
    """Append lines to a file, as long as it has fewer than `most`. Its calls block.

    Processes that write at the same moment may each go beyond by one.
    """

    def __init__(self, file: str, *, most: int) -> None:
        self._path = Path(file)
        self._most = most
        self._lines = 0  # that end before `_end`
        self._end = 0

    def add(self, line: str) -> bool:
        """Append one, and say if there was room. Raises: OSError.

        What an interrupted write left without a line's end is given one, so that it spoils no more
        than itself.
        """
        data = line.encode("utf-8") + b"\n"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            last = self._catch_up(file)
            if self._lines >= self._most:
                return False
            _write(file, data if last == b"\n" else b"\n" + data)
        finally:
            os.close(file)
        return True

    def _catch_up(self, file: int) -> bytes:
        # Counts what came since, from whomever; gives the last byte.
        size = os.fstat(file).st_size
        if size < self._end:  # another file has taken its place
            self._lines = self._end = 0
        while self._end < size:
            chunk = os.pread(file, min(_CHUNK_BYTES, size - self._end), self._end)
            if not chunk:
                break
            self._lines += chunk.count(b"\n")
            self._end += len(chunk)
        return os.pread(file, 1, size - 1) if size else b"\n"


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
