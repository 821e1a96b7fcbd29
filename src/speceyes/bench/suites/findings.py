"""What a suite is, known before its first item: sizes, digests of its files, and one checksum.

It refuses to know formats; it reads files as bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from speceyes.bench.items import SuiteFacts
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.sources import Source
from speceyes.errors import SuiteError


def facts_of(
    source: Source,
    choice: Choice,
    *,
    counts: Mapping[str, int],
    released: Mapping[str, int] | None = None,
    files: Mapping[str, str] | None = None,
    version: int = 1,
) -> SuiteFacts:
    """Put a suite's facts together; `version` is that of what makes its items.

    A bound on the splits bounds what the release would give as well.
    """
    read = {path: (files or {})[path] for path in sorted(files or {})}
    decisive = {
        "name": source.name,
        "version": version,
        "counts": dict(counts),
        "files": read,
        "splits": choice.splits,
        "seed": choice.seed,
        "as_released": choice.as_released,
        "per_split": choice.per_split,
    }
    canonical = json.dumps(decisive, sort_keys=True)
    return SuiteFacts(
        name=source.name,
        source=source.text,
        counts=counts,
        released={
            split: choice.bounded(size)
            for split, size in (released or {}).items()
            if split in choice.splits
        },
        files=read,
        seed=choice.seed,
        as_released=choice.as_released,
        per_split=choice.per_split,
        checksum=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def file_digest(path: Path) -> str:
    """Give a file's sha256, read in chunks. Raises: SuiteError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Give the sha256 of those files of a folder that can be read; the others spoil their rows."""
    digests: dict[str, str] = {}
    for name in names:
        if name not in digests:
            with suppress(SuiteError, ValueError):  # a NUL in a name is a ValueError
                digests[name] = file_digest(folder / name)
    return digests


def unreadable(path: Path, error: OSError) -> SuiteError:
    """Say that a file cannot be read, and why."""
    return SuiteError(path.name, f"cannot be read: {error.strerror or error}")
