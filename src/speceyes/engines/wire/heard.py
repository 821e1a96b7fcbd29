"""What a server answers, in one piece or as a stream, is gathered here into one value.

It refuses to know what was asked, and it judges nothing but the form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from speceyes.engines.wire.hermes import NativeCall
from speceyes.engines.wire.refusals import Refusal, refusal_in
from speceyes.types import Usage

DONE: Final = "[DONE]"


class Unreadable(ValueError):  # noqa: N818 - says what a reply is
    """A reply that does not have the agreed form; the text says in what."""


class Refused(Exception):  # noqa: N818 - says what happened
    """A reply or a stream that holds an error instead."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server names; how many tokens fit, and who owns it, where it says so."""

    model_id: str
    max_model_len: int | None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """One reply as it came. `stopped_by` is what the server says ended it.

    A string: that stop string. False: none did, an end token did. None: it does not say.
    `rows` are the entries of `logprobs.content`, unchecked; () if there are none.
    """

    text: str
    calls: tuple[NativeCall, ...]
    finish_reason: str
    stopped_by: str | bool | None
    rows: tuple[Any, ...]
    usage: Usage | None  # of the tokens alone
    reply_id: str | None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPart(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_CallPart] | None = None


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    stop_reason: Any = msgspec.UNSET  # vLLM
    matched_stop: Any = msgspec.UNSET  # SGLang


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Counts | None = None
    id: str | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


def read_models(body: bytes) -> tuple[ServedModel, ...]:
    """Read what a server says it serves. Raises: Unreadable."""
    models = _convert(_decode(body), _Models).data
    return tuple(ServedModel(model.id, model.max_model_len, model.owned_by) for model in models)


def hear(body: bytes, *, key: str | None = None) -> Heard:
    """Read a reply that came in one piece. Raises: Unreadable, Refused."""
    ear = Ear(key=key)
    ear.take(_decode(body))
    return ear.whole()


@dataclass(slots=True)
class Ear:
    """Gather a reply, piece by piece; of several choices only the first is heard."""

    key: str | None = field(default=None, repr=False)
    _text: list[str] = field(default_factory=list)
    _calls: dict[int, list[str]] = field(default_factory=dict)  # name, then pieces of arguments
    _rows: list[Any] = field(default_factory=list)
    _last: _Choice | None = None
    _usage: Usage | None = None
    _reply_id: str | None = None

    def take_event(self, data: str) -> bool:
        """Take in one event of a stream; say if it was the last. Raises: Unreadable, Refused."""
        if data.strip() == DONE:
            return True
        self.take(_decode(data.encode("utf-8", "surrogatepass")))
        return False

    def take(self, found: Any) -> None:
        """Take in one decoded reply, or a part of one. Raises: Unreadable, Refused."""
        if isinstance(found, dict) and "choices" not in found:
            refusal = refusal_in(found, key=self.key)
            if refusal is not None:
                raise Refused(refusal)
        reply = _convert(found, _Reply)
        self._reply_id = reply.id or self._reply_id
        if reply.usage is not None:
            self._usage = _usage(reply.usage)
        if not reply.choices:
            return
        choice = reply.choices[0]
        said = choice.message or choice.delta
        if said is not None:
            self._text.append(said.content or "")
            for place, part in enumerate(said.tool_calls or ()):
                self._take_call(place if part.index is None else part.index, part.function)
        content = choice.logprobs.get("content") if isinstance(choice.logprobs, dict) else None
        if isinstance(content, list):
            self._rows.extend(content)
        if choice.finish_reason is not None:
            self._last = choice

    @property
    def pieces(self) -> int:
        """How many pieces with words in them have come: a token each, on most servers."""
        return sum(1 for text in self._text if text)

    def whole(self) -> Heard:
        """Give the reply. Raises: Unreadable if its end is missing."""
        if self._last is None:
            raise Unreadable("it ended without a finish_reason")
        return Heard(
            text=_sound("".join(self._text)),
            calls=tuple(
                NativeCall(_sound(name), _sound("".join(pieces)))
                for _, (name, *pieces) in sorted(self._calls.items())
            ),
            finish_reason=str(self._last.finish_reason),
            stopped_by=_stopped_by(self._last),
            rows=tuple(self._rows),
            usage=self._usage,
            reply_id=self._reply_id,
        )

    def _take_call(self, place: int, function: _Function | None) -> None:
        if function is None:
            return
        pieces = self._calls.setdefault(place, [""])
        pieces[0] += function.name or ""
        pieces.append(function.arguments or "")


def _stopped_by(choice: _Choice) -> str | bool | None:
    # Both servers give a string for a stop string, and null or a token's number for an end token.
    for said in (choice.stop_reason, choice.matched_stop):
        if said is not msgspec.UNSET:
            return said if isinstance(said, str) else False
    return None


def _sound(text: str) -> str:
    # JSON can hold halves of a character, and a stream can send them one by one.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _usage(counts: _Counts) -> Usage:
    details = counts.prompt_tokens_details
    return Usage(
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=None if details is None else details.cached_tokens,
        completion_tokens=counts.completion_tokens or 0,
        images=0,
    )


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        pass
    # Some servers write NaN and Infinity, which are no JSON: the gate shall see and name them.
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no JSON ({error})") from None
    return found


def _convert(found: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(found, kind)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not of the agreed form ({error})") from None
