"""A stepwise job runs in a thread of its own, and only while it is told to go on.

It refuses to know what the job does. It turns a loop that belongs to somebody else inside out:
the loop calls `halt` once per round, and whoever holds the job decides when the next round is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

Halt: TypeAlias = Callable[[], None]


class _Ended(BaseException):
    """The job is not wanted any more. No Exception, so that no loop takes it for a failure."""


class Stepwise:
    """Run a job from halt to halt. One thread at a time may hold it."""

    def __init__(self, job: Callable[[Halt], object], *, name: str) -> None:
        self._job = job
        self._may_run = threading.Semaphore(0)
        self._has_halted = threading.Semaphore(0)
        self._is_wanted = True
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def advance(self) -> bool:
        """Let the job run to its next halt; say if it came to one. Raises: what the job raised."""
        if self._is_over:
            return False
        if self._thread.ident is None:
            self._thread.start()
        self._may_run.release()
        self._has_halted.acquire()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return not self._is_over

    def end(self) -> None:
        """Leave the job at the halt where it stands, and wait for its thread; safe to repeat."""
        self._is_wanted = False
        if self._thread.ident is not None:
            self._may_run.release()
            self._thread.join()
        self._is_over = True

    def _halt(self) -> None:
        self._has_halted.release()
        self._may_run.acquire()
        if not self._is_wanted:
            raise _Ended

    def _run(self) -> None:
        self._may_run.acquire()
        try:
            if self._is_wanted:
                self._job(self._halt)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where `advance` was called
            self._error = error
        finally:
            self._is_over = True
            self._has_halted.release()
