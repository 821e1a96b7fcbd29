"""What a server said no with becomes a named error here, with what to do about it.

It refuses to know sockets. What servers say is passed on only after cleaning: cut short, on one
line, and without the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from speceyes.errors import ContextTooLong, EngineError, EngineProtocolError, EngineUnavailable

# How servers say that a prompt does not fit: OpenAI, vLLM and SGLang in words, llama.cpp by type.
_TOO_LONG_CODES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TOO_LONG_WORDS: Final = (
    "maximum context length",
    "maximum model length",
    "model's context length",
    "available context size",
    "encoder cache size",  # vLLM: one picture with more tokens than it takes at once
)
_MOST_CHARS: Final = 200
_EXCERPT_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that is no answer: its HTTP status, and what the server said."""

    status: int
    message: str = ""
    code: str = ""
    parameter: str = ""
    asked_wait_s: float | None = None
    request_id: str | None = None

    @property
    def is_too_long(self) -> bool:
        """Say if the conversation does not fit."""
        said = self.message.casefold()
        return (
            self.status == 413
            or self.code in _TOO_LONG_CODES
            or any(words in said for words in _TOO_LONG_WORDS)
        )

    @property
    def misses_pictures(self) -> bool:
        """Say if a picture that was named, not sent, is not there any more (vLLM's words)."""
        said = self.message.casefold()
        return "cache miss" in said and ("image" in said or "multi-modal" in said)

    @property
    def may_miss_pictures(self) -> bool:
        """Say if it may be for want of pictures that were named, whatever the words."""
        is_about_body = self.status in {400, 422, 500} and not self.is_too_long
        return self.misses_pictures or (is_about_body and not self.names_logprobs)

    @property
    def names_logprobs(self) -> bool:
        """Say if it is about log-probabilities."""
        return "logprobs" in self.parameter or "logprobs" in self.message


def read_refusal(status: int, body: bytes, *, key: str | None = None) -> Refusal:
    """Read what a server said with an error status, whatever its form.

    Known forms: {"error": {...}}, {"error": "..."}, {"object": "error", "message": ...} and
    {"detail": ...}; anything else is quoted.
    """
    try:
        found: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return Refusal(status, clean(body.decode("utf-8", "replace"), key=key))
    return replace(refusal_in(found, key=key) or Refusal(status), status=status)


def refusal_in(found: dict[str, Any], *, key: str | None = None) -> Refusal | None:
    """Find the error that a reply or a stream holds, if it does; its status is its code, or 200."""
    error = found.get("error")
    if error is None and ("detail" in found or found.get("object") == "error"):
        error = found
    if error is None:
        return Refusal(200, clean(str(found["message"]), key=key)) if "message" in found else None
    if not isinstance(error, dict):
        return Refusal(200, clean(str(error), key=key))
    code = error.get("code")
    return Refusal(
        status=code if isinstance(code, int) and not isinstance(code, bool) else 200,
        message=clean(str(error.get("message", error.get("detail", ""))), key=key),
        code=str(code if isinstance(code, str) else error.get("type") or ""),
        parameter=str(error.get("param") or ""),
    )


def error_of(refusal: Refusal, *, engine: str, key_env: str | None = None) -> EngineError:
    """Name the error that a refusal is."""
    said = f": {refusal.message}" if refusal.message else ""
    trace = f" [request {refusal.request_id}]" if refusal.request_id else ""
    status = refusal.status
    if refusal.is_too_long:
        return ContextTooLong(
            engine,
            f"the conversation does not fit{said}; send fewer or smaller pictures, or serve the "
            f"model with a longer context{trace}",
        )
    if status in {401, 403}:
        where = f"the environment variable {key_env}" if key_env else "key_env (?key_env=NAME)"
        return EngineUnavailable(
            engine, f"refuses the key ({status}){said}; set the server's key by {where}{trace}"
        )
    if status == 429:
        return EngineUnavailable(
            engine, f"has too much to do (429){said}; ask for less at once, or try later{trace}"
        )
    if status >= 500:
        return EngineUnavailable(
            engine, f"failed ({status}){said}; its log tells why, then try again{trace}"
        )
    if status == 200:
        return EngineProtocolError(
            engine, f"sent an error instead of a reply{said}; its log tells why{trace}"
        )
    if 300 <= status < 400:
        return EngineProtocolError(
            engine, f"points elsewhere ({status}); give the address where it really is{trace}"
        )
    return EngineProtocolError(
        engine,
        f"refused the request ({status}){said}; see what it takes: speceyes doctor{trace}",
    )


def strange_reply(
    engine: str, *, content_type: str, body: bytes, key: str | None = None
) -> EngineProtocolError:
    """Name a reply that is not of the API, such as a proxy's page."""
    start = clean(body.decode("utf-8", "replace"), key=key, most=_EXCERPT_CHARS)
    return EngineProtocolError(
        engine,
        f"sent {clean(content_type, key=key) or 'no content type'} instead of the agreed JSON "
        f"({start!r}); does the address lead to a chat-completions API, and end in /v1?",
    )


def clean(text: str, *, key: str | None = None, most: int = _MOST_CHARS) -> str:
    """Make foreign text fit for an error: on one line, cut short, without the key."""
    if key:
        text = text.replace(key, "***")
    line = " ".join(re.sub(r"[^\S ]|[^\x20-\x7e\u00a0-\U0010ffff]", " ", text).split())
    return line if len(line) <= most else f"{line[:most]}..."
