"""Blocks of code are run one after the other; what one defines, the next one knows.

It refuses to know where the code comes from. Whatever a block does wrong is words in its outcome.
"""

from __future__ import annotations

import builtins
import io
import linecache
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from speceyes.tools.inside.plan import Plan
from speceyes.tools.inside.repairs import mend
from speceyes.tools.inside.showing import Gallery, Shown

_MAX_ERROR_CHARS: Final = 2_000
_MAX_LINE_CHARS: Final = 400


class TookTooLong(BaseException):
    """The block was interrupted; no `except Exception` of its own holds this up."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a block: what it printed, the pictures it showed, and what went wrong."""

    text: str
    error: str | None
    shown: tuple[Shown, ...]
    repairs: tuple[str, ...]

    def to_message(self) -> tuple[dict[str, Any], bytes]:
        """Lay it out: lengths in the head, all that is long in the body."""
        text = self.text.encode("utf-8", "replace")
        error = b"" if self.error is None else self.error.encode("utf-8", "replace")
        head = {
            "text": len(text),
            "error": None if self.error is None else len(error),
            "pictures": [picture.size for picture in self.shown],
            "repairs": self.repairs,
        }
        return head, b"".join((text, error, *(picture.rgb for picture in self.shown)))


class Printed(io.TextIOBase):
    """Keep what was printed, up to a number of characters; what comes after is counted."""

    def __init__(self, max_chars: int) -> None:
        self._room = max_chars
        self._parts: list[str] = []
        self._cut = 0

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, text: str, /) -> int:
        """Keep what there is room for."""
        if not isinstance(text, str):
            raise TypeError(f"write() needs a str, not {type(text).__name__}")
        kept = text[: self._room]
        if kept:
            self._parts.append(kept)
            self._room -= len(kept)
        self._cut += len(text) - len(kept)
        return len(text)

    def text(self) -> str:
        """Give what was kept, and say how much was not."""
        kept = "".join(self._parts)
        return f"{kept}\n... and {self._cut} characters more" if self._cut else kept


class Pad:
    """Hold one query's variables, and run its blocks over them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._count = 0
        self._gallery = Gallery(plan)
        self._variables = self._begin()
        signal.signal(signal.SIGALRM, self._interrupt)
        self._is_running = False

    def preload(self, paths: dict[str, str]) -> str | None:
        """Bind names to decoded pictures; give what went wrong, if anything did."""
        from PIL import Image

        for name, path in paths.items():
            try:
                with Image.open(path) as image:
                    image.load()
                    self._variables[name] = image.copy()
            except Exception as error:  # noqa: BLE001 - Pillow raises anything on damaged pixels
                return f"{name} could not be decoded: {type(error).__name__}"
        return None

    def run(self, code: str) -> Outcome:
        """Run one block."""
        self._count += 1
        name = f"<block {self._count}>"
        printed = Printed(self._plan.text_chars)
        self._gallery.clear()
        repairs: tuple[str, ...] = ()
        error: str | None = None
        try:
            with self._bounded(), self._diverted(printed):
                code, repairs = mend(code)
                linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
                exec(compile(code, name, "exec", dont_inherit=True), self._variables)  # noqa: S102
        except SystemExit:
            pass  # a block may end itself
        except BaseException as raised:  # noqa: BLE001 - whatever it is, it is the code's
            error = self._words(raised, name)
        text = printed.text()
        try:
            with self._bounded():
                complaint = self._gallery.collect(text)
        except BaseException as raised:  # noqa: BLE001 - the pictures, too, are the code's
            complaint = f"the pictures could not be read: {type(raised).__name__}"
        return Outcome(text, error or complaint, self._gallery.taken(), repairs)

    def _begin(self) -> dict[str, Any]:
        import numpy as np
        from PIL import Image

        begun = {
            "__name__": "__main__",
            "__builtins__": builtins,
            "Image": Image,
            "np": np,
            "io": io,
            "math": math,
            "os": os,
            "display": self._gallery.show,
        }
        if self._plan.collects != "printed":
            import matplotlib.pyplot as plt

            begun["plt"] = plt
        return begun

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        self._is_running = True
        signal.setitimer(signal.ITIMER_REAL, self._plan.interrupt_s)
        try:
            yield
        finally:
            self._is_running = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextmanager
    def _diverted(self, printed: Printed) -> Iterator[None]:
        before = sys.stdout, sys.stderr
        # Warnings would tell the model of libraries, not of its code.
        sys.stdout, sys.stderr = printed, Printed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            sys.stdout, sys.stderr = before

    def _interrupt(self, *_: object) -> None:
        if self._is_running:
            raise TookTooLong

    def _words(self, raised: BaseException, name: str) -> str:
        if isinstance(raised, TookTooLong):
            limit_s = self._plan.interrupt_s
            return f"the code was interrupted after {limit_s:.3g} s; do less, or in smaller pieces"
        if isinstance(raised, MemoryError):
            limit_mib = self._plan.memory_bytes // 2**20
            return f"MemoryError: the code may use {limit_mib} MiB; work on smaller arrays"
        try:
            return _brief(_trace(raised, name))
        except BaseException:  # noqa: BLE001 - an exception of the code's own may not even print
            return type(raised).__name__


def _trace(raised: BaseException, name: str) -> str:
    """Tell it as Python does, from the block on: not how the block came to be run."""
    trace = raised.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    told = traceback.TracebackException(type(raised), raised, trace, limit=-8, compact=True)
    return "".join(told.format(chain=False)).strip()


def _brief(text: str) -> str:
    lines = [line[:_MAX_LINE_CHARS] for line in text.splitlines()]
    joined = "\n".join(lines)
    if len(joined) <= _MAX_ERROR_CHARS:
        return joined
    return f"...\n{joined[-_MAX_ERROR_CHARS:]}"
