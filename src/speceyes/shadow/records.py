"""What `observe` saw of one query, with all that makes it valid, as one line of JSON and back.

It refuses to know files and who observes. No picture is in it and no key; and no word of what was
said, unless it was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from speceyes.errors import ConfigError, InputError
from speceyes.gate import GateSpec
from speceyes.generations import from_plain, to_plain
from speceyes.screen import ScreenSpec
from speceyes.tables import read_table
from speceyes.types import Generation

SHADOW_VERSION: Final = 1
UNSAID: Final = "..."
"""Stands for an answer whose words were not to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Who was asked, in which words, and how it was decided: a threshold is valid for one alone."""

    small: str
    large: str
    protocol: str
    prompts: Mapping[str, str]
    gate: GateSpec
    screen: ScreenSpec
    screen_by: str
    max_answer_tokens: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRecord:
    """One query that the agent answered: what screen, small model and gate made of it beside.

    `model`: the name that it was asked under. `passed`: the screen lets it be speculated on. The
    score is in the scale of the setup's gate. `said`: the small answer with its evidence, None if
    the small model failed; `agrees`: whether it gives the agent's answer, None if that cannot be
    read. `answer`: the agent's, if words were to be kept.
    """

    query_id: str
    model: str
    p_tool: float | None
    passed: bool
    score: float | None
    verdict: str
    agrees: bool | None
    said: Generation | None
    answer: str | None
    setup: Setup


def without_words(record: ShadowRecord) -> ShadowRecord:
    """Leave out both answers; that the small one was empty, if it was, still shows."""
    said = record.said
    if said is not None:
        text = UNSAID if said.text.strip() else ""
        said = replace(said, text=text, stop_string=None, request_id=None)
    return replace(record, said=said, answer=None)


def to_line(record: ShadowRecord) -> str:
    """Write a record as one line of JSON, without the line's end."""
    plain = asdict(replace(record, said=None))
    if record.said is not None:
        plain["said"] = to_plain(record.said)
    document = {"shadow_version": SHADOW_VERSION, **plain}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> ShadowRecord:
    """Read a record back. Raises: InputError if it is none, or of another version."""
    try:
        raw = json.loads(line)
        version = raw.pop("shadow_version")
        if version != SHADOW_VERSION:
            raise InputError("shadow", f"is of version {version}, not {SHADOW_VERSION}")
        said = raw["said"]
        generation = None if said is None else from_plain(said)
        return ShadowRecord(**{**raw, "said": generation, "setup": _setup(raw["setup"])})
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        told = f"{line[:60]!r} is no record of a shadow ({error!r}); remove that line"
        raise InputError("shadow", told) from error


def read_records(lines: Iterable[str]) -> Iterator[ShadowRecord]:
    """Read a file's lines; one that is cut off at the end is left out.

    Raises: InputError naming the line.
    """
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        try:
            yield from_line(line)
        except InputError as error:
            raise InputError(f"{error.field}, line {number}", error.message) from error


def _setup(raw: Mapping[str, Any]) -> Setup:
    gate = read_table("gate", raw["gate"], GateSpec)
    screen = read_table("screen", raw["screen"], ScreenSpec)
    return Setup(**{**raw, "gate": gate, "screen": screen})
