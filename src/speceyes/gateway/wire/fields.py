"""Every field of a request that is known here, and whether the method can answer with it.

It refuses to know messages and what becomes of a request. A field that is not in the table is
unknown, and is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from speceyes.gateway.observing import BypassReason

_Judge: TypeAlias = Callable[[Any], BypassReason | None]
_Count: TypeAlias = Annotated[int, Meta(ge=1)]
_Share: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]


class Wishes(msgspec.Struct, forbid_unknown_fields=True):
    """What a client wants to hear of the gateway's own: the field `speceyes`."""

    boxes: bool = False


class _ResponseFormat(msgspec.Struct):
    type: str


def _never(_: Any) -> BypassReason | None:
    return None


def _always(reason: BypassReason) -> _Judge:
    return lambda _: reason


def _unless(reason: BypassReason, *neutral: Any) -> _Judge:
    return lambda value: None if value in neutral else reason


@dataclass(frozen=True, slots=True)
class Field:
    """Say of which type a field is, and why a value of it is outside the method, if it is.

    `is_applied`: the method does as it says. If not, the answer says so (`not_applied`). A field
    that is null is not there.
    """

    kind: Any = Any
    outside: _Judge = _never
    is_applied: bool = True


def _stream_options(value: dict[str, Any]) -> BypassReason | None:
    is_known = value.keys() <= _STREAM_OPTIONS
    return None if is_known and not value.get("include_obfuscation") else "unknown_field"


_STREAM_OPTIONS: Final = frozenset({"include_usage", "include_obfuscation"})
_TEXT_ONLY: Final = ["text"]

FIELDS: Final[Mapping[str, Field]] = {
    # what the gateway itself reads
    "model": Field(str),
    "messages": Field(msgspec.Raw),
    "stream": Field(bool),
    "stream_options": Field(dict[str, Any], _stream_options),
    "max_tokens": Field(_Count),
    "max_completion_tokens": Field(_Count),
    "speceyes": Field(Wishes),
    # greedy decoding with one answer is what there is
    "n": Field(_Count, _unless("choices", 1)),
    "best_of": Field(_Count, _unless("choices", 1)),
    "seed": Field(int),
    "temperature": Field(Annotated[float, Meta(ge=0.0)], _unless("sampling", 0)),
    "top_p": Field(_Share, _unless("sampling", 1)),
    "top_k": Field(int, _unless("sampling", -1, 0)),
    "min_p": Field(_Share, _unless("sampling", 0)),
    "frequency_penalty": Field(float, _unless("sampling", 0)),
    "presence_penalty": Field(float, _unless("sampling", 0)),
    "repetition_penalty": Field(float, _unless("sampling", 1)),
    "logit_bias": Field(dict[str, Any], _unless("sampling", {})),
    # the client's own tools, and the shape of what is said
    "tools": Field(list[Any], _unless("tools", [])),
    "functions": Field(list[Any], _unless("tools", [])),
    "tool_choice": Field(str | dict[str, Any], _unless("tools", "none", "auto")),
    "function_call": Field(str | dict[str, Any], _unless("tools", "none", "auto")),
    "parallel_tool_calls": Field(bool),
    "web_search_options": Field(Any, _always("tools")),
    "stop": Field(str | list[str], _unless("stop", [], "")),
    "response_format": Field(
        _ResponseFormat, lambda wanted: None if wanted.type == "text" else "response_format"
    ),
    "logprobs": Field(bool, _unless("logprobs", 0)),
    "top_logprobs": Field(Annotated[int, Meta(ge=0)], _unless("logprobs", 0)),
    "modalities": Field(list[str], _unless("modalities", _TEXT_ONLY, [])),
    "audio": Field(Any, _always("modalities")),
    "reasoning_effort": Field(str, _always("reasoning")),
    "verbosity": Field(str, _always("reasoning")),
    # what changes no answer, and is not passed on to the funnel's engines
    "user": Field(str, is_applied=False),
    "metadata": Field(dict[str, Any], is_applied=False),
    "store": Field(bool, is_applied=False),
    "service_tier": Field(str, is_applied=False),
    "safety_identifier": Field(str, is_applied=False),
    "prompt_cache_key": Field(str, is_applied=False),
    "prompt_cache_retention": Field(str, is_applied=False),
    "prediction": Field(dict[str, Any], is_applied=False),
}
