"""Code is found in replies here, as the model wrote it, and what came of it is sorted out.

It refuses to know what the code does and where it runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from speceyes.notebook import PYTHON
from speceyes.protocols.answers import ANSWER, ANSWER_END, read_tagged
from speceyes.protocols.calls import close_call, raw_call
from speceyes.types import Malformed, Observation, Picture, Reply, ToolCall

CODE, CODE_END = "<code>", "</code>"
FENCED: Final = f"{CODE}\n```python\n# your code\n```\n{CODE_END}"
_EMPTY: Final = re.compile(r"\s*(```\s*(python|py)?\s*)?(```\s*)?")


def read_code(reply: str, *, thought: int = 0) -> Reply:
    """Read a reply: whichever of code and answer comes first counts.

    `thought` counts the characters of a thought in which code is only thought of. An answer may
    have been opened before the reply began, as it is on a last turn.
    """
    said = reply[thought:]
    code_at, answer_at = said.find(CODE), said.find(ANSWER)
    if answer_at < 0 and ANSWER_END in said[: code_at if code_at >= 0 else None]:
        answer_at = 0
    if code_at < 0 and answer_at < 0:
        return Malformed(
            "no_answer_no_call",
            f"the reply has neither {CODE} nor {ANSWER}; give one of them, with its tags",
        )
    if code_at < 0 or 0 <= answer_at < code_at:
        return read_tagged(said[answer_at : code_at if code_at >= 0 else None])
    return _read_call(said[code_at + len(CODE) :])


def coded(reply: str, outcome: Observation | Malformed, *, thought: int = 0) -> str:
    """Give what goes into the conversation: up to the code if it was run, or else all of it."""
    code_at = reply.find(CODE, thought)
    if code_at < 0 or isinstance(outcome, Malformed):
        return reply
    return close_call(reply, code_at, CODE_END)


@dataclass(frozen=True, slots=True)
class Brought:
    """What there is to tell of a reply: what its code printed, what went wrong, what it showed."""

    printed: str
    error: str
    pictures: tuple[Picture, ...]

    @classmethod
    def of(cls, outcome: Observation | Malformed) -> Brought:
        """Take up what came of a reply, run or not."""
        if isinstance(outcome, Malformed):
            return cls("", outcome.detail, ())
        return cls(outcome.text.strip(), (outcome.error or "").strip(), outcome.pictures)


def _read_call(text: str) -> Reply:
    code, is_closed, _ = text.partition(CODE_END)
    if not is_closed and not code.rstrip().endswith("```"):
        return Malformed("truncated", f"the code breaks off; end it with {CODE_END}")
    if _EMPTY.fullmatch(code):
        return Malformed("missing_argument", f"there is no code; write\n{FENCED}")
    return ToolCall(PYTHON, {"code": code}, raw=raw_call(text, CODE_END))
