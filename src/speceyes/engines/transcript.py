"""A transcript turns one answer's tokens into text, one by one, and notices where it ends.

It refuses to know the model; it sees token ids. Text is kept as bytes until asked for, because a
character may be spread over several tokens, and a stop string too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeAlias

Spelling: TypeAlias = Callable[[str], bytes]  # what a vocabulary's entry stands for

_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts(dict[int, str]):
    """Say what each token reads as, and which bytes it adds to an answer.

    Texts are for candidates: special tokens by name, a part of a character as U+FFFD. In an
    answer, special tokens are left out, as servers do by default.
    Raises: ValueError if the tokenizer writes its entries in a way not known here.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        spelling = spelling_of(tokenizer)
        if spelling is None:
            raise ValueError("the tokenizer's entries cannot be read as bytes")
        self._spelling = spelling
        self._tokenizer = tokenizer.backend_tokenizer
        self._added = {
            int(number): str(token.content)
            for number, token in tokenizer.added_tokens_decoder.items()
        }
        self._special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._bytes: dict[int, bytes] = {}

    def __missing__(self, token_id: int) -> str:
        text = self._raw(token_id).decode("utf-8", "replace")
        self[token_id] = text
        return text

    def answer_bytes(self, token_id: int) -> bytes:
        """Give what a token adds to an answer's text, in UTF-8."""
        known = self._bytes.get(token_id)
        if known is None:
            known = b"" if token_id in self._special else self._raw(token_id)
            self._bytes[token_id] = known
        return known

    def _raw(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        return self._spelling(self._tokenizer.id_to_token(token_id) or "")  # rows to spare


class Transcript:
    """Collect one answer, and end it at an end token, a stop string or the token limit.

    Invariants: `token_ids` are the answer's tokens, the end token not among them; `text` ends
    with the stop string if one ended it, even if the last token goes on after it.
    """

    def __init__(
        self,
        texts: TokenTexts,
        *,
        end_ids: frozenset[int],
        stop: Iterable[str] = (),
        max_tokens: int,
    ) -> None:
        self.token_ids: list[int] = []
        self.finish: Literal["stop", "length"] | None = None
        self.stop_string: str | None = None
        self.drawn_tokens = 0  # with the end token
        self._texts = texts
        self._end_ids = end_ids
        self._stops = [(text, text.encode()) for text in stop]
        self._reach = max((len(mark) for _, mark in self._stops), default=1) - 1
        self.max_tokens = max_tokens
        self._written = bytearray()

    @property
    def text(self) -> str:
        """What is written so far; bytes that are no UTF-8 read as U+FFFD."""
        return self._written.decode("utf-8", "replace")

    def add(self, token_id: int) -> bool:
        """Take in the next token; say if it belongs to the answer (the end token does not)."""
        self.drawn_tokens += 1
        if token_id in self._end_ids:
            self.finish = "stop"
            return False
        self.token_ids.append(token_id)
        before = len(self._written)
        self._written += self._texts.answer_bytes(token_id)
        if self._stops:
            self._look_for_stop(max(0, before - self._reach))
        if self.finish is None and len(self.token_ids) >= self.max_tokens:
            self.finish = "length"
        return True

    def _look_for_stop(self, start: int) -> None:
        # UTF-8 is self-synchronising: a match of bytes is a match of characters. The stop string
        # that is complete first counts; of two that end together, the longer one.
        found = [
            (at + len(mark), -len(mark), text)
            for text, mark in self._stops
            if (at := self._written.find(mark, start)) >= 0
        ]
        if found:
            end, _, self.stop_string = min(found)
            del self._written[end:]
            self.finish = "stop"


def spelling_of(tokenizer: Any) -> Spelling | None:
    """Say how a tokenizer's entries become bytes, by its decoder; None if they do not.

    Known are byte-level vocabularies (GPT-2's and what came of it), and those that mark a space by
    a letter of its own and spell rare characters as bytes (sentencepiece's).
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return None
    for step in _steps(json.loads(decoder.__getstate__())):
        match step:
            case {"type": "ByteLevel"}:
                return _spell_byte_level
            case {"type": "Metaspace", "replacement": str(mark)}:
                return lambda piece: _spell_marked(piece, mark)
            case {"type": "Replace", "pattern": {"String": str(mark)}, "content": " "}:
                return lambda piece: _spell_marked(piece, mark)
    return None


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
    for step in decoder.get("decoders", ()):
        yield from _steps(step)


def _spell_byte_level(piece: str) -> bytes:
    if not _BYTE_OF_LETTER.keys() >= set(piece):
        return piece.encode()
    return bytes(_BYTE_OF_LETTER[letter] for letter in piece)


def _spell_marked(piece: str, mark: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(mark, " ").encode()


def _letters_of_bytes() -> dict[str, int]:
    # Byte-level tokenizers write each byte as one printable letter (GPT-2's table).
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(0x100 + i): b for i, b in enumerate(moved)}


_BYTE_OF_LETTER = _letters_of_bytes()
