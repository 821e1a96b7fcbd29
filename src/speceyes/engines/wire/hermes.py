"""Tool calls are written in two ways, as Hermes text and natively; here one becomes the other.

Protocols read and write text alone: `<tool_call>`, a line of JSON, `</tool_call>`. Servers that
read calls themselves want and give `tool_calls`. It refuses to know which tools there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

_OPEN: Final = "<tool_call>\n"
_CLOSE: Final = "\n</tool_call>"


@dataclass(frozen=True, slots=True)
class NativeCall:
    """One call as servers write it; `arguments` is JSON in a string, kept letter by letter."""

    name: str
    arguments: str


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: msgspec.Raw


def fold_calls(content: str, calls: Iterable[NativeCall]) -> str:
    """Write native calls as text, after what was said before them.

    The form is that of Qwen's chat templates, so that what is sent back reads as it was written.
    Arguments that are no JSON object are put in quotes.

    >>> print(fold_calls("Look.", [NativeCall("zoom", '{"x": 1}')]))
    Look.
    <tool_call>
    {"name": "zoom", "arguments": {"x": 1}}
    </tool_call>
    """
    text = content
    for call in calls:
        break_line = "\n" if text and not text.endswith("\n") else ""
        text += f"{break_line}{_OPEN}{_json_of(call)}{_CLOSE}"
    return text


def unfold_calls(text: str) -> tuple[str, tuple[NativeCall, ...]]:
    """Read text into what is said before the calls, and the calls; the opposite of `fold_calls`.

    Invariants: folding what this gives is the text again, to the letter. Text that could not be
    folded back (words after a call, other spacing, no JSON) comes back whole, without calls.
    """
    at = _first_call(text)
    content, calls = text[:at], list[NativeCall]()
    said = content.removesuffix("\n")
    if said and not said.endswith("\n"):
        content = said  # the break is the first call's
    for block in text[at:].split(_OPEN)[1:]:
        body, end, rest = block.rpartition(_CLOSE)
        call = _read_call(body) if end and not rest.strip("\n") else None
        if call is None:
            return text, ()
        calls.append(call)
    return (content, tuple(calls)) if fold_calls(content, calls) == text else (text, ())


def _first_call(text: str) -> int:
    at = 0 if text.startswith(_OPEN) else text.find("\n" + _OPEN) + 1
    return at if at or text.startswith(_OPEN) else len(text)


def _json_of(call: NativeCall) -> str:
    return f'{{"name": {_dump(call.name)}, "arguments": {_object_or_quoted(call.arguments)}}}'


def _object_or_quoted(arguments: str) -> str:
    try:
        value = msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        value = None
    return arguments if isinstance(value, dict) else _dump(arguments)


def _read_call(body: str) -> NativeCall | None:
    try:
        call = msgspec.json.decode(body, type=_Call)
        raw = bytes(call.arguments).decode()
        return NativeCall(call.name, msgspec.json.decode(raw) if raw[:1] == '"' else raw)
    except (ValueError, RecursionError):
        return None


def _dump(text: str) -> str:
    return msgspec.json.encode(text).decode()
