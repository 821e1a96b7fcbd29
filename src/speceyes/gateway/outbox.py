"""What is to be written somewhere slow waits here, and a thread of its own takes it there.

It refuses to know what is written, and where. Who puts something in never waits: when there is no
room left it is thrown away, and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)
_BATCH: Final = 500
_PATIENCE_S: Final = 5.0


class Outbox(Generic[T]):
    """Hand items on to `write` in order, some at a time, from one thread.

    `write` may raise: what it was given is then lost and counted, and the next is tried again.
    """

    def __init__(
        self, name: str, write: Callable[[Sequence[T]], None], *, capacity: int = 10_000
    ) -> None:
        self._name = name
        self._write = write
        self._waiting: queue.Queue[T | None] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self._turned_away = 0  # counted by the one who puts, the other by the thread
        self._lost = 0
        self._is_broken = False

    @property
    def dropped(self) -> int:
        """How many items were thrown away so far."""
        return self._turned_away + self._lost

    def start(self) -> None:
        """Begin to hand on."""
        self._thread = threading.Thread(target=self._run, name=f"{self._name}-outbox", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Leave an item here; never waits."""
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._turned_away += 1

    def close(self) -> None:
        """Hand on what is left, as far as a few seconds allow, and end. Waits."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._waiting.put(None, timeout=_PATIENCE_S)
        except queue.Full:
            pass
        else:
            thread.join(_PATIENCE_S)
        if thread.is_alive():
            _LOG.warning("outbox=%s left=%d message=%r", self._name, self._waiting.qsize(), "stuck")

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch: list[T] = []
            item = self._waiting.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= _BATCH:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            else:
                is_open = False
            if batch:
                self._hand_on(batch)

    def _hand_on(self, batch: Sequence[T]) -> None:
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001 - counted and told; the thread must live on
            self._lost += len(batch)
            if not self._is_broken:  # said once, until it works again
                _LOG.error("outbox=%s lost=%d error=%r", self._name, len(batch), error)
            self._is_broken = True
        else:
            self._is_broken = False
