"""What lmms-eval's task asks of Python: a document's pictures, and the grade of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speceyes.bench.grade import grade


def pictures_of(doc: Mapping[str, Any]) -> list[Any]:
    """Give the document's pictures, decoded by datasets."""
    return list(doc["pictures"])


def grade_reply(doc: Mapping[str, Any], replies: list[str]) -> dict[str, float]:
    """Grade the one reply by speceyes' own grader."""
    (reply,) = replies
    return {"accuracy": float(grade(reply, doc["answer"], doc["options"]).is_right)}
