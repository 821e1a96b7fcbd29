"""Replies in which a tagged call and a tagged answer compete are read here, and put back.

It refuses to know what is inside a call.
"""

from __future__ import annotations

from speceyes.protocols.answers import ANSWER, read_tagged, thought_chars
from speceyes.protocols.calls import close_call
from speceyes.types import FinalAnswer, Malformed, Observation


def first_action(reply: str, *, call: str) -> FinalAnswer | Malformed | str:
    """Read a reply: whichever of call and answer comes first counts; a call is given as its text.

    A stop string would have ended the turn there, and what follows a call was said without having
    seen what it brings. Tags inside a thought that has ended are only thought of.
    """
    said = reply[thought_chars(reply) :]
    call_at, answer_at = said.find(call), said.find(ANSWER)
    if call_at < 0 and answer_at < 0:
        return Malformed(
            "no_answer_no_call",
            f"the reply has neither {call} nor {ANSWER}; give one of them, with its tags",
        )
    if call_at < 0 or 0 <= answer_at < call_at:
        return read_tagged(said[answer_at : call_at if call_at >= 0 else None])
    return said[call_at + len(call) :]


def spoken(
    reply: str, outcome: Observation | Malformed, *, call: str, end: str, glue: str = "\n"
) -> str:
    """Give what goes into the conversation: up to the call if it was made, or else all of it."""
    call_at = reply.find(call, thought_chars(reply))
    if call_at < 0 or isinstance(outcome, Malformed):
        return reply
    return close_call(reply, call_at, end, glue=glue)
