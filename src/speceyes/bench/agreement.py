"""Do two replies give the same answer? Told by the rules that grade, with neither known as right.

It refuses to know who replied, and to guess: what cannot be read is None, not agreement.
"""

from __future__ import annotations

from collections.abc import Sequence

from speceyes.bench.grade import Grade, grade


def agree(reply: str | None, other: str | None, options: Sequence[str] = ()) -> bool | None:
    """Say if a reply gives the answer that the other one gives; None if either cannot be read.

    >>> agree("B", "The answer is star.", ("ring", "star")), agree("Yes.", "no")
    (True, False)
    """
    meant = _meant(other, options)
    if meant is None or not (reply or "").strip():
        return None
    return _decided(grade(reply, meant, options))


def _meant(reply: str | None, options: Sequence[str]) -> str | None:
    if reply is None or not reply.strip():
        return None
    if options:
        return grade(reply, options[0], options).answer
    return grade(reply, "yes").answer or reply.strip()


def _decided(found: Grade) -> bool | None:
    return None if found.is_undecided else found.is_right
