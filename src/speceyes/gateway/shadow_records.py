"""What `observe` saw of each query is kept here: one line of JSON, without a word of what was said.

It refuses to know who observes. A file grows to a stated number of lines and no further.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One query: what screen and gate found, and whether the small answer gives the agent's.

    `passed`: the screen lets it be speculated on. `agrees` None: it cannot be read. The score is in
    the scale of the gate, which `k`, `definition`, `aggregation` and `scale` tell.
    """

    request_id: str
    model: str
    p_tool: float | None
    passed: bool
    score: float | None
    verdict: str
    threshold: float
    k: int
    definition: str
    aggregation: str
    scale: str
    agrees: bool | None


class Keep:
    """Append records to a file, as long as it has fewer than `most` lines. Its calls block."""

    def __init__(self, file: str, *, most: int) -> None:
        self._path = Path(file)
        self._most = most
        self._lines: int | None = None  # not counted yet

    def add(self, record: Record) -> bool:
        """Append one, and say if there was room. Raises: OSError."""
        if self._lines is None:
            self._lines = _lines_of(self._path)
        if self._lines >= self._most:
            return False
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(msgspec.json.encode(record) + b"\n")
        self._lines += 1
        return True


def _lines_of(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
