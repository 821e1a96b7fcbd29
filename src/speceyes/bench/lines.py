"""A record is written as one line of JSON here, and read back from it as it was.

It refuses to know files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from speceyes.bench.grade import Grade
from speceyes.bench.records import (
    RECORD_VERSION,
    Look,
    Mishap,
    Proposal,
    Record,
    Span,
    Speculation,
    Turn,
)
from speceyes.errors import InputError
from speceyes.generations import from_plain, to_plain
from speceyes.types import Box, Usage


def to_line(record: Record) -> str:
    """Write a record as one line of JSON, without the line's end."""
    plain = asdict(replace(record, speculation=None))
    if record.speculation is not None:
        said = record.speculation
        bare = tuple(replace(look, generation=None) for look in said.looks)
        written = asdict(replace(said, generation=None, looks=bare))
        kept = (said.generation, *(look.generation for look in said.looks))
        for table, generation in zip((written, *written["looks"]), kept, strict=True):
            if generation is not None:
                table["generation"] = to_plain(generation)
        plain["speculation"] = written
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> Record:
    """Read a record back from its line. Raises: InputError if it is none, or of another version."""
    try:
        raw = json.loads(line)
        if raw["record_version"] != RECORD_VERSION:
            raise InputError("record", f"version {raw['record_version']}, not {RECORD_VERSION}")
        return _record(raw)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("record", f"{line[:60]!r} is no record ({error!r})") from error


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """Read records from the lines of a file. Raises: InputError naming the line."""
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except InputError as error:
            raise InputError(f"records, line {number}", error.message) from error


def _record(raw: dict[str, Any]) -> Record:
    speculation = raw["speculation"]
    mishap = raw["mishap"]
    return Record(
        **{
            **raw,
            "options": tuple(raw["options"]),
            "targets_px": _boxes(raw["targets_px"]),
            "mishap": None if mishap is None else Mishap(**mishap),
            "grade": Grade(**raw["grade"]),
            "speculation": None if speculation is None else _speculation_of(speculation),
            "released_order": tuple(raw["released_order"]),
            "turns": tuple(_turn(turn) for turn in raw["turns"]),
            "usage_by_phase": {
                name: Usage(**usage) for name, usage in raw["usage_by_phase"].items()
            },
        }
    )


def _speculation_of(raw: dict[str, Any]) -> Speculation:
    scores = {int(k): by_aggregation for k, by_aggregation in raw["scores"].items()}
    looks = tuple(_look(look) for look in raw.get("looks", ()))
    return Speculation(**{**raw, **_heard(raw), "scores": scores, "looks": looks})


def _look(raw: dict[str, Any]) -> Look:
    box = raw["box_px"]
    return Look(**{**raw, **_heard(raw), "box_px": None if box is None else Box(**box)})


def _heard(raw: dict[str, Any]) -> dict[str, Any]:
    said, span = raw.get("generation"), raw.get("span")
    return {
        "generation": None if said is None else from_plain(said),
        "span": None if span is None else Span(**span),
    }


def _turn(raw: dict[str, Any]) -> Turn:
    made = raw["proposal"]
    proposal = None if made is None else Proposal(**{**made, "usage": Usage(**made["usage"])})
    read = {
        "boxes_px": _boxes(raw["boxes_px"]),
        "usage": Usage(**raw["usage"]),
        "repairs": tuple(raw["repairs"]),
        "proposal": proposal,
    }
    return Turn(**{**raw, **read})


def _boxes(raw: list[dict[str, int]]) -> tuple[Box, ...]:
    return tuple(Box(**box) for box in raw)
