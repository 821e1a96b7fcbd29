"""What a shadow kept becomes trials here: traffic for a suite, the agent's answers for labels.

It refuses to know who kept it, and thresholds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

from speceyes.bench.manifest import Manifest
from speceyes.bench.trials import Trial
from speceyes.errors import InputError, RunFolderError
from speceyes.shadow.records import Setup, ShadowRecord, read_records


@dataclass(frozen=True, slots=True)
class Shadows:
    """The records that one file has, each with a digest of its line; `checksum` is of all lines."""

    name: str
    checksum: str
    records: Mapping[str, ShadowRecord]


def read_shadows(path: Path) -> Shadows:
    """Read what a shadow kept; a line cut off at the end is left out, and one twice there is one.

    Raises: RunFolderError if there is none, or a line that cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            records = dict(_read(lines))
    except OSError as error:
        raise RunFolderError(str(path), f"cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, InputError) as error:
        raise RunFolderError(str(path), str(error)) from error
    if not records:
        raise RunFolderError(str(path), "holds no record yet; let more queries be observed")
    return Shadows(path.name, _digest("".join(records)), records)


def _read(lines: Iterable[str]) -> Iterator[tuple[str, ShadowRecord]]:
    for_records, for_digests = tee(lines)
    for record, line in zip(read_records(for_records), for_digests, strict=False):
        yield _digest(line), record


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def trials_seen(shadows: Shadows) -> list[Trial]:
    """Make a trial of each query, named by its record's digest."""
    return [
        Trial(
            suite=f"shadow:{shadows.name}",
            checksum=shadows.checksum,
            item_id=digest,
            split=record.model,
            is_screened=record.passed,
            said=record.said,
            small_right=None,
            agent_maybe_right=None,
            agrees=record.agrees is True,
        )
        for digest, record in shadows.records.items()
    ]


def setup_of_run(manifest: Manifest) -> Setup:
    """Say who was asked in a run, and how, as a shadow says it."""
    settings = manifest.settings
    return Setup(
        small=manifest.small,
        large=manifest.large,
        protocol=manifest.protocol,
        prompts=dict(manifest.prompts),
        gate=manifest.gate,
        screen=manifest.screen,
        screen_by=settings.screen_by,
        max_answer_tokens=settings.max_answer_tokens,
        depth=settings.depth,
    )
