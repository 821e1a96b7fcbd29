"""The paper's own numbers, for the suites and models that it measured.

It refuses to know what was measured here. Shares are 0..1; speedups are over the agent alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from speceyes.bench.records import Method

_NAMES: Final[Mapping[Method, str]] = {
    "baseline": "baseline",
    "specreason": "specreason",
    "speceyes": "speceyes_min",
}


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper reports of one method on one split."""

    accuracy: float
    speedup: float


def published(suite: str, protocol: str) -> dict[str, dict[Method, Published]]:
    """Give the paper's Table 1 by split and method; {} for what the paper did not measure.

    Source: arXiv 2603.23483, Table 1.

    >>> published("vstar", "deepeyes")["relative_position"]["speceyes"]
    Published(accuracy=0.8947, speedup=1.9)
    """
    table = _read()["table1"].get(protocol)
    if table is None:
        return {}
    found: dict[str, dict[Method, Published]] = {}
    for place, column in enumerate(_read()["columns"]):
        measured, _, split = column.partition("/")
        if measured == suite:
            found[split] = {
                method: Published(
                    round(table[name]["acc"][place] / 100, 4), table[name]["speedup"][place]
                )
                for method, name in _NAMES.items()
                if name in table
            }
    return found


def tables() -> dict[str, Any]:
    """Give all of the paper's tables, as they were printed."""
    return _read()


@cache
def _read() -> dict[str, Any]:
    path = files("speceyes.bench.page").joinpath("data", "published.json")
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read
