"""A shelf keeps what was used lately, up to a number of bytes.

It refuses to know what stands on it. Any thread may use it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Shelf(Generic[Value]):
    """Keep values by key; what was not asked for longest goes first.

    Invariants: never holds more than `limit_bytes`; a value larger than that is not kept at all.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """What stands here now, in bytes."""
        return self._held_bytes

    def get(self, key: str) -> Value | None:
        """Give what is kept under a key, if it still is."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: str, value: Value, *, size_bytes: int) -> None:
        """Keep a value, and let the oldest go until all fits."""
        with self._lock:
            self._drop(key)
            if size_bytes > self._limit_bytes:
                return
            self._values[key] = (value, size_bytes)
            self._held_bytes += size_bytes
            while self._held_bytes > self._limit_bytes:
                self._drop(next(iter(self._values)))

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._values.clear()
            self._held_bytes = 0

    def _drop(self, key: str) -> None:
        _, size_bytes = self._values.pop(key, (None, 0))
        self._held_bytes -= size_bytes
