"""Work that was cut short is counted here: an engine notes what it had done, its phase reads it.

It refuses to know engines and phases. A meter goes with the task that opened it, so that an engine
needs no one's name to note to; where nobody measures, a note goes nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from speceyes.types import Usage


@dataclass(slots=True)
class Meter:
    """Add up what calls had cost that were cut short, by cancelling or by an error.

    `is_whole` is False once such a call ended without a note of its engine.
    """

    noted: Usage = Usage.zero
    notes: int = 0
    is_whole: bool = True

    @property
    def lost(self) -> Usage | None:
        """What was noted; None if nothing could be, though work was lost."""
        if self.is_whole:
            return self.noted
        return None if not self.notes else self.noted + Usage(0, None, 0, 0)


_METER: ContextVar[Meter | None] = ContextVar("speceyes_meter", default=None)


@contextmanager
def metering() -> Iterator[Meter]:
    """Measure what is cut short within."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


@contextmanager
def one_call() -> Iterator[None]:
    """Mark out one call of an engine, so that one which is cut short without a note is known."""
    meter = _METER.get()
    before = 0 if meter is None else meter.notes
    try:
        yield
    except BaseException:
        if meter is not None and meter.notes == before:
            meter.is_whole = False
        raise


def note_lost(usage: Usage) -> None:
    """Note what the call at hand had cost when it was cut short.

    For engines, from within `generate`. A `cached_tokens` of None says that it is not all.
    """
    meter = _METER.get()
    if meter is not None:
        meter.noted += usage
        meter.notes += 1
