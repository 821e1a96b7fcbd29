"""Calls written as JSON are read here, as liberally as is safe, and what is wrong is put in words.

It refuses to know tools, boxes and pictures: text in, a name and arguments out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from speceyes.types import Malformed, MalformedReason

ZOOM: Final = "image_zoom_in_tool"  # the zoom tool's own name, and most models' name for it
CALL, CALL_END = "<tool_call>", "</tool_call>"


class Unreadable(Exception):  # noqa: N818 - never leaves the protocols
    """A call that cannot be made, and what the model is told of it."""

    def __init__(self, reason: MalformedReason, detail: str) -> None:
        super().__init__(detail)
        self.malformed = Malformed(reason, detail)


def read_json(text: str, *, end: str, form: str) -> dict[str, Any]:
    """Read the object in front of the closing tag `end`; `form` is how a right call looks.

    From the first brace on: code fences around it, and words after it, do no harm.
    Raises: Unreadable.
    """
    body, is_closed, _ = text.partition(end)
    _, brace, rest = body.partition("{")
    try:
        return dict(json.JSONDecoder().raw_decode(brace + rest)[0])
    except (ValueError, RecursionError) as error:
        is_whole = is_closed or body.rstrip().endswith(("}", "```"))
        reason: MalformedReason = "bad_json" if is_whole else "truncated"
        detail = f"is not JSON ({error})" if is_whole else "breaks off"
    raise Unreadable(reason, f"the call {detail}; write {form}")


def read_arguments(call: Mapping[str, Any], *, name: str, form: str) -> Mapping[str, Any]:
    """Give the arguments of a call to the tool `name`. Raises: Unreadable."""
    called = call.get("name", call.get("function"))
    if called != name:
        raise Unreadable("unknown_tool", f"there is no tool {brief(called)}; there is {name} only")
    arguments = call.get("arguments")
    if isinstance(arguments, str):  # some chat templates quote them once more
        arguments = read_json(arguments + CALL_END, end=CALL_END, form=form)
    if arguments is None:
        raise Unreadable("missing_argument", f"the call has no arguments; write {form}")
    if not isinstance(arguments, dict):
        raise Unreadable("bad_argument", f"the arguments are not an object; write {form}")
    return arguments


def close_call(reply: str, call_at: int, end: str, *, glue: str = "\n") -> str:
    """Cut off what follows the call that starts there; close its tag if an engine swallowed it."""
    words, is_closed, _ = reply[call_at:].partition(end)
    return reply[:call_at] + (words if is_closed else words.rstrip() + glue) + end


def raw_call(text: str, end: str) -> str:
    """Give the call as it was written, without its tags."""
    return text.partition(end)[0].strip()


def label_of(arguments: Mapping[str, Any]) -> str | None:
    """Give what the model says the box holds, if it says so in words."""
    label = arguments.get("label")
    return label if isinstance(label, str) else None


def index_of(value: object) -> int | None:
    """Read a number that counts something; None if it is none. JSON writes some as 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def brief(value: object, chars: int = 60) -> str:
    """Quote a value back to the model, cut if it is long."""
    try:
        text = json.dumps(value)
    except RecursionError:  # a little less deep than what could not be read at all
        return "nested too deep"
    return text if len(text) <= chars else f"{text[:chars]}..."
