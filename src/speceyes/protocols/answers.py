"""Answers are found in replies here: after the thought, between tags, in a box, or as they stand.

It refuses to know questions and options: what an answer is worth is graded elsewhere.
"""

from __future__ import annotations

from typing import Final

from speceyes.types import FinalAnswer, Malformed

ANSWER, ANSWER_END = "<answer>", "</answer>"
BOXED: Final = "\\boxed{"
_THINK, _THINK_END = "<think>", "</think>"


def thought_chars(reply: str, *, is_opened: bool = False) -> int:
    """Count the characters of a leading thought that has an end.

    With `is_opened` the chat template may have opened the thought already, so that a reply may
    start inside it.
    """
    if not is_opened and not reply.lstrip().startswith(_THINK):
        return 0
    thought, end, _ = reply.partition(_THINK_END)
    return len(thought + end) if end else 0


def read_tagged(text: str) -> FinalAnswer | Malformed:
    """Read the last answer between tags."""
    closed = text.rpartition(ANSWER_END)[0] or text
    answer = closed.rpartition(ANSWER)[2].partition(ANSWER_END)[0]
    answer = unbox(answer).strip()
    if not answer:
        return Malformed("empty_answer", f"there is nothing inside {ANSWER}; say the answer there")
    return FinalAnswer(answer)


def read_boxed(text: str) -> FinalAnswer | Malformed:
    """Read what stands in the last LaTeX box; one left open ends with the reply."""
    answer, is_closed = _last_box(text)
    if not answer.strip():
        return Malformed("empty_answer", "there is nothing inside \\boxed{}; say the answer there")
    return FinalAnswer(answer.strip(), is_open=not is_closed)


def read_plain(text: str) -> FinalAnswer | Malformed:
    """Take a reply for an answer as it stands, but for a box within it."""
    if text.lstrip().startswith(_THINK):
        return Malformed("no_answer_no_call", f"the thought has no {_THINK_END}; end it, then act")
    answer = unbox(text).strip()
    if not answer:
        return Malformed(
            "no_answer_no_call", "the reply has neither an answer nor a call; give one of them"
        )
    return FinalAnswer(answer, is_open=True)


def unbox(answer: str) -> str:
    """Take what stands in the last LaTeX box, if there is one."""
    return _last_box(answer)[0] if BOXED in answer else answer


def _last_box(text: str) -> tuple[str, bool]:
    """Give what stands in the last box, whose braces may nest, and whether it is closed."""
    rest = text.rpartition(BOXED)[2]
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place], True
    return rest, False
