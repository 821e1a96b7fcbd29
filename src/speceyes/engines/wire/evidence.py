"""A server's log-probabilities become evidence here, if they are those of the answer's tokens.

It refuses to judge values: nan, masked or constant ones are passed on for the gate to name. What it
settles is which tokens the rows belong to; rows that do not spell the answer are no evidence of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from speceyes.engines.wire.ending import Ending
from speceyes.types import Evidence

_LOST: Final = "\ufffd".encode()  # how servers write the parts of a character in several tokens
_CHARACTER_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One token as a server tells it; `ranked` are its candidates, the likeliest first."""

    spelling: bytes
    logp: float
    ranked: tuple[tuple[float, str], ...]


def read_rows(entries: Sequence[Any]) -> tuple[Row, ...]:
    """Read the entries of `logprobs.content`; what is not as agreed reads as nan or as nothing."""
    return tuple(_row(entry if isinstance(entry, dict) else {}) for entry in entries)


def spelling(rows: Sequence[Row]) -> str:
    """Give the text that the tokens make together."""
    return b"".join(row.spelling for row in rows).decode("utf-8", "replace")


def evidence_of(
    rows: Sequence[Row], ending: Ending, *, k: int, completion_tokens: int | None
) -> tuple[Evidence, int]:
    """Make evidence of the answer's tokens, and count them: (T, K) and T.

    K is the narrowest row's, at most `k`. The end token is left out. Rows that do not spell the
    answer, or are not as many as the server counts, give evidence without a row, whose length the
    gate finds wrong.
    """
    count = _covering([row.spelling for row in rows], ending, completion_tokens)
    kept = rows[:count] if count is not None else ()
    width = min((len(row.ranked) for row in kept or rows), default=0)
    width = min(width, k)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which the gate names
        logp_topk = np.array(
            [[logp for logp, _ in row.ranked[:width]] for row in kept], dtype=np.float32
        ).reshape(len(kept), width)  # (T, K), descending
        chosen = np.array([row.logp for row in kept], dtype=np.float32)  # (T,)
    candidates = tuple(tuple(text for _, text in row.ranked[:width]) for row in kept)
    tokens = answer_tokens(ending, completion_tokens) if count is None else count
    return Evidence(logp_topk, chosen, candidates), tokens


def answer_tokens(ending: Ending, completion_tokens: int | None) -> int:
    """Count the answer's tokens where no rows tell: the server's count without the end token."""
    least = 1 if ending.text else 0
    return max(least, (completion_tokens or 0) - ending.by_end_token)


def _row(entry: dict[str, Any]) -> Row:
    top = entry.get("top_logprobs")
    found = [one for one in top if isinstance(one, dict)] if isinstance(top, list) else []
    pairs = [(_number(one.get("logprob")), str(one.get("token", ""))) for one in found]
    # The sampled token may stand first. nan goes last, for order among numbers is all that counts.
    ranked = sorted(pairs, key=lambda pair: (math.isnan(pair[0]), -pair[0]))
    return Row(_spelling(entry), _number(entry.get("logprob")), tuple(ranked))


def _spelling(entry: dict[str, Any]) -> bytes:
    told = entry.get("bytes")
    try:
        if isinstance(told, list):
            return bytes(told)
    except (TypeError, ValueError):
        pass
    return str(entry.get("token", "")).encode("utf-8", "replace")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _covering(tokens: Sequence[bytes], ending: Ending, completion_tokens: int | None) -> int | None:
    """Say how many tokens make the answer, or None if these do not.

    Servers differ: the end token is in the rows or not, and is counted or not, which leaves one
    more or one less. Tokens that show no text (special ones) are believed only where the server's
    count is the rows', with or without the end token.
    """
    count = len(tokens)
    if completion_tokens is not None and abs(completion_tokens - count) > 1:
        return None
    for may_hide in (False, True) if completion_tokens in {count, count + 1} else (False,):
        reached = _reaching(tokens, ending, may_hide=may_hide)
        if ending.stop_string is not None:
            if reached:
                return reached[0]
            continue
        end_is_listed = ending.by_end_token and completion_tokens != count + 1
        if end_is_listed and count and count - 1 in reached:
            return count - 1
        if count in reached:
            return count
    return None


def _reaching(tokens: Sequence[bytes], ending: Ending, *, may_hide: bool) -> list[int]:
    """Give the numbers of tokens that spell the text; a stop string may end within the last one."""
    target, places = ending.text.encode("utf-8", "replace"), {0}
    reached = [0] if not target else []
    for count, token in enumerate(tokens, start=1):
        goes_past = ending.stop_string is not None and any(
            len(target) - place < len(token) and token.startswith(target[place:])
            for place in places
            if place < len(target)
        )
        after = _after(places, token, target)
        places = after | places if may_hide else after
        if goes_past or len(target) in places:
            reached.append(count)
    return reached


def _after(places: set[int], token: bytes, target: bytes) -> set[int]:
    first, *others = token.split(_LOST)
    ends = {place + len(first) for place in places if target.startswith(first, place)}
    for piece in others:  # a part of a character stands for none to all of its bytes
        ends = {
            start + len(piece)
            for end in ends
            for start in range(end, min(end + _CHARACTER_BYTES, len(target)) + 1)
            if target.startswith(piece, start)
        }
    return ends
