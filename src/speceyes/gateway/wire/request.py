"""A request's bytes are read here, and whether the method can answer it: inside, or why not.

It refuses to know routes, pictures and engines. Only what must be known is read, and a field that
nobody knows makes the request one to be passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import Raw

from speceyes.errors import RequestMalformed
from speceyes.gateway.settings import OnSampling
from speceyes.gateway.wire.fields import FIELDS, Wishes
from speceyes.gateway.wire.turns import Outside, Reading, Turn
from speceyes.gateway.wire.values import is_null, read_fields, read_value

_BOUNDS: Final = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it was read.

    `fields` is the whole body, to be passed on. `outside` is all that keeps it from the method,
    and `turns` are whole only if that is nothing. `not_applied` names the fields that the method
    does not follow; `bounds` those that bound the small model's answer, and not the agent's work.
    """

    model: str
    fields: Mapping[str, Raw] = field(repr=False)
    turns: tuple[Turn, ...] = ()
    outside: tuple[Outside, ...] = ()
    not_applied: tuple[str, ...] = ()
    max_tokens: int | None = None
    bounds: tuple[str, ...] = ()
    is_stream: bool = False
    include_usage: bool = False
    wants_boxes: bool = False


def read_request(body: bytes) -> Asked:
    """Read a request. Raises: RequestMalformed naming the field."""
    fields = read_fields(body)
    values = {name: _value(name, raw) for name, raw in fields.items() if not is_null(raw)}
    if not values.get("model"):
        raise RequestMalformed("model", "is missing; name one of those that /v1/models lists")
    if "messages" not in values:
        raise RequestMalformed("messages", "is missing; send the conversation")
    reading = Reading()
    reading.read(values["messages"])
    bounds = tuple(name for name in _BOUNDS if name in values)
    wishes: Wishes = values.get("speceyes", Wishes())
    return Asked(
        model=values["model"],
        fields=fields,
        turns=tuple(reading.turns),
        outside=(*reading.outside, *_outside_of(values)),
        not_applied=(*_left_out(values), *reading.not_applied),
        max_tokens=min((values[name] for name in bounds), default=None),
        bounds=bounds,
        is_stream=values.get("stream", False),
        include_usage=values.get("stream_options", {}).get("include_usage") is True,
        wants_boxes=wishes.boxes,
    )


def settle(asked: Asked, on_sampling: OnSampling) -> tuple[Outside | None, tuple[str, ...]]:
    """Say why a request goes past the method, or None; and which fields are not applied if not.

    With `on_sampling` "greedy" a request that asks for sampling is answered greedily.
    """
    kept = [one for one in asked.outside if one.reason != "sampling" or on_sampling == "bypass"]
    if kept:
        return kept[0], ()
    return None, (*asked.not_applied, *(one.field for one in asked.outside))


def passed_on(asked: Asked, model: str | None) -> bytes:
    """Write the body for the server that it is passed on to; `model` is its name there, if other.

    Each value is as it came. Of a field that was there twice the last one counts, here and there.
    """
    fields = {name: raw for name, raw in asked.fields.items() if name != "speceyes"}
    if model is not None:
        fields["model"] = Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _value(name: str, raw: Raw) -> Any:
    known = FIELDS.get(name)
    return raw if known is None or known.kind is Raw else read_value(name, raw, known.kind)


def _outside_of(values: Mapping[str, Any]) -> list[Outside]:
    found = []
    for name, value in values.items():
        reason = FIELDS[name].outside(value) if name in FIELDS else "unknown_field"
        if reason is not None:
            found.append(Outside(reason, name))
    return found


def _left_out(values: Mapping[str, Any]) -> list[str]:
    return [name for name in values if name in FIELDS and not FIELDS[name].is_applied]
