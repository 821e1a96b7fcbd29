"""Where a reply ends, and what ended it, is settled here: a stop string, an end token, the limit.

It refuses to know log-probabilities. Servers strip the stop string, keep it, or never heard of it,
and only some say which one it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from speceyes.engines.wire.heard import Heard, Unreadable
from speceyes.engines.wire.hermes import fold_calls

_CLOSING_TAG: Final = re.compile(r"</([\w-]+)>")


@dataclass(frozen=True, slots=True)
class Ending:
    """A reply's whole text, with the stop string if one ended it, and what ended it."""

    text: str
    finish: Literal["stop", "length"]
    stop_string: str | None = None

    @property
    def by_end_token(self) -> bool:
        """Say if the model ended the reply itself."""
        return self.finish == "stop" and self.stop_string is None


def end_of(heard: Heard, stops: Sequence[str], spelled: str = "") -> Ending:
    """Say where a reply ends; `spelled` is what its tokens read as, where they are told.

    In order: a stop string in the text ends it there. Else the server says which one it stripped.
    Else the tokens go on with one after the text. Else the text has opened a tag that a stop string
    closes, the innermost one counting: only so would text have ended there, and a model that
    forgot to close it means the same. Else an end token did it.
    Raises: Unreadable for a reply that came to another end (a filter, an abort).
    """
    text = fold_calls(heard.text, heard.calls)
    cut, stop = _first_stop(text, stops)
    if stop is not None:
        return Ending(text[:cut], "stop", stop)
    if heard.finish_reason == "length":
        return Ending(text, "length")
    if heard.finish_reason not in {"stop", "tool_calls", "function_call"}:
        raise Unreadable(f"its finish_reason is {heard.finish_reason[:40]!r}, so it is not whole")
    stop = (
        _stripped(heard, stops, text=text, spelled=spelled) if stops and not heard.calls else None
    )
    return Ending(text + (stop or ""), "stop", stop)


def _first_stop(text: str, stops: Sequence[str]) -> tuple[int, str | None]:
    # The one that is complete first; of two that end together, the longer one.
    found = [(at + len(stop), -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    end, _, stop = min(found, default=(len(text), 0, None))
    return end, stop


def _stripped(heard: Heard, stops: Sequence[str], *, text: str, spelled: str) -> str | None:
    said = heard.stopped_by
    if said is not None:
        return said if isinstance(said, str) and said in stops else None
    if spelled.startswith(text):
        follows = [stop for stop in stops if spelled.startswith(stop, len(text))]
        if follows:
            return max(follows, key=len)
    return _open_tag(text, stops)


def _open_tag(text: str, stops: Sequence[str]) -> str | None:
    opened = [
        (text.rindex(tag), stop)
        for stop in stops
        if (closing := _CLOSING_TAG.fullmatch(stop)) and (tag := f"<{closing[1]}>") in text
    ]
    return max(opened)[1] if opened else None
