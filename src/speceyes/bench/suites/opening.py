"""A suite string becomes a suite here.

It refuses to know formats; it knows which file knows which.
"""

from __future__ import annotations

from typing import assert_never

from speceyes.bench.items import Suite
from speceyes.bench.suites.builtin import Builtin
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.hrbench import HrBench
from speceyes.bench.suites.own import OwnFile
from speceyes.bench.suites.pope import Pope
from speceyes.bench.suites.sources import parse_source
from speceyes.bench.suites.vstar import VStar


def open_suite(
    text: str,
    *,
    splits: tuple[str, ...] = (),
    seed: int = 0,
    as_released: bool = False,
    per_split: int | None = None,
) -> Suite:
    """Open `builtin`, `vstar[:PLACE]`, `hrbench[:PLACE]`, `pope[:PLACE]` or `jsonl:FILE`.

    PLACE is a folder or, where there is none of that name, ORG/NAME on the hub; without it the
    release's own name there. `splits` () means all. `seed` orders V*'s options unless
    `as_released`, and draws the built-in suite. `per_split` bounds each split to its first entries;
    the built-in suite has 40 of each if it is left out.
    Raises: ConfigError naming the argument; SuiteError if the files cannot be had.
    """
    choice = Choice(splits=splits, seed=seed, as_released=as_released, per_split=per_split)
    source = parse_source(text)
    match source.name:
        case "builtin":
            return Builtin(source, choice)
        case "vstar":
            return VStar(source, choice)
        case "hrbench":
            return HrBench(source, choice)
        case "pope":
            return Pope(source, choice)
        case "jsonl":
            return OwnFile(source, choice)
        case _:
            assert_never(source.name)
