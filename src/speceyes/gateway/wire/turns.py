"""A request's messages are read here into turns, and what of them the method does not know.

It refuses to know the request's other fields, and what a picture's URL holds: megabytes are passed
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Raw

from speceyes.errors import RequestMalformed
from speceyes.gateway.observing import BypassReason
from speceyes.gateway.wire.values import NULL, is_empty, read_value

Speaker: TypeAlias = Literal["system", "user", "assistant"]

_FIELD: Final = "messages"
_SPEAKERS: Final[Mapping[str, Speaker]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_TOOL_SPEAKERS: Final = frozenset({"tool", "function"})
_CALLS: Final = ("tool_calls", "function_call", "tool_call_id")
_ASIDE: Final = ("name", "refusal", "annotations", "reasoning_content", "reasoning")
_FILES: Final = frozenset({"file", "input_file", "image_file"})
_NOTHING: Final = Raw(NULL)


class _ImageUrl(msgspec.Struct):
    url: Raw
    detail: str | None = None


class _StrictImageUrl(_ImageUrl, forbid_unknown_fields=True):
    pass


_U = TypeVar("_U", bound=_ImageUrl)


class _Part(msgspec.Struct, Generic[_U]):
    type: str
    text: str | None = None
    image_url: _U | None = None


class _StrictPart(_Part[_StrictImageUrl], forbid_unknown_fields=True):
    pass


_P = TypeVar("_P", bound=_Part[Any])


class _Message(msgspec.Struct, Generic[_P]):
    role: str
    content: str | list[_P] | None = None
    name: Raw = _NOTHING
    tool_calls: Raw = _NOTHING
    function_call: Raw = _NOTHING
    tool_call_id: Raw = _NOTHING
    refusal: Raw = _NOTHING
    annotations: Raw = _NOTHING
    audio: Raw = _NOTHING
    reasoning_content: Raw = _NOTHING
    reasoning: Raw = _NOTHING


class _StrictMessage(_Message[_StrictPart], forbid_unknown_fields=True):
    pass


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture in a turn, not yet looked at: its URL as JSON, and the field it stands in."""

    url: Raw = field(repr=False)
    field: str


TurnPart: TypeAlias = str | ImagePart


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: whose it is, and what it holds."""

    role: Speaker
    parts: tuple[TurnPart, ...]

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """Its pictures, in order."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class Outside:
    """Why a request is outside the method, and which field makes it so."""

    reason: BypassReason
    field: str


@dataclass(slots=True)
class Reading:
    """What the messages came to: the turns that are known, what is outside, what is left out."""

    turns: list[Turn] = field(default_factory=list)
    outside: list[Outside] = field(default_factory=list)
    not_applied: list[str] = field(default_factory=list)

    def read(self, messages: Raw) -> None:
        """Read all messages. Raises: RequestMalformed naming the field."""
        said, is_known = _decode(messages)
        if not said:
            raise RequestMalformed(_FIELD, "is empty; send the conversation")
        for place, message in enumerate(said):
            self._take(message, f"{_FIELD}[{place}]")
        self.outside.extend(_outside_of(self.turns))
        if not is_known:
            self.outside.append(Outside("unknown_field", _FIELD))

    def _take(self, message: _Message[Any], name: str) -> None:
        called = [key for key in _CALLS if not is_empty(getattr(message, key))]
        if message.role in _TOOL_SPEAKERS or called:
            self.outside.append(Outside("tools", f"{name}.{called[0] if called else 'role'}"))
            return
        role = _SPEAKERS.get(message.role)
        if role is None:
            known = ", ".join((*_SPEAKERS, *sorted(_TOOL_SPEAKERS)))
            raise RequestMalformed(f"{name}.role", f"{message.role[:40]!r} is none of {known}")
        if message.content is None:
            raise RequestMalformed(f"{name}.content", "is missing; send a text or a list of parts")
        if not is_empty(message.audio):
            self.outside.append(Outside("modalities", f"{name}.audio"))
        for key in _ASIDE:
            if not is_empty(getattr(message, key)):
                self.not_applied.append(f"{name}.{key}")
        self.turns.append(Turn(role, self._parts(message.content, f"{name}.content")))

    def _parts(self, content: str | list[_Part[Any]], name: str) -> tuple[TurnPart, ...]:
        if isinstance(content, str):
            return (content,)
        read = (self._part(part, f"{name}[{place}]") for place, part in enumerate(content))
        return tuple(part for part in read if part is not None)

    def _part(self, part: _Part[Any], name: str) -> TurnPart | None:
        if part.type == "text":
            if part.text is None:
                raise RequestMalformed(f"{name}.text", "is missing")
            return part.text
        if part.type == "image_url":
            if part.image_url is None:
                raise RequestMalformed(f"{name}.image_url", 'is missing; send {"url": ...}')
            if part.image_url.detail not in {None, "auto"}:
                self.not_applied.append(f"{name}.image_url.detail")
            return ImagePart(part.image_url.url, f"{name}.image_url.url")
        if part.type in _FILES:
            raise RequestMalformed(
                name, "names a file, which is not supported; send the picture as a data: URL"
            )
        self.outside.append(Outside("content_part", f"{name}.type"))
        return None


def _decode(messages: Raw) -> tuple[list[Any], bool]:
    """Read the messages' form, and say if all their fields are known."""
    try:
        return read_value(_FIELD, messages, list[_StrictMessage]), True
    except RequestMalformed:
        return read_value(_FIELD, messages, list[_Message[_Part[_ImageUrl]]]), False


def _outside_of(turns: list[Turn]) -> list[Outside]:
    found = []
    if not any(turn.images for turn in turns if turn.role == "user"):
        found.append(Outside("no_image", _FIELD))
    elif turns[-1].role != "user":
        found.append(Outside("last_turn", _FIELD))
    elif not any(isinstance(part, str) and part.strip() for part in turns[-1].parts):
        found.append(Outside("no_question", _FIELD))
    heads = 0
    while heads < len(turns) and turns[heads].role == "system":
        heads += 1
    if any(turn.role == "system" for turn in turns[heads:]):
        found.append(Outside("system_turn", _FIELD))
    return found
