"""Where a suite's files are: a suite string is read, and a folder found, here or on the hub.

It refuses to know what is in the files. A folder that exists goes before a name on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from speceyes.errors import ConfigError, SuiteError

SuiteName: TypeAlias = Literal["builtin", "vstar", "hrbench", "pope", "jsonl"]

HUB_IDS: Final[Mapping[SuiteName, str]] = {
    "vstar": "craigwu/vstar_bench",
    "hrbench": "DreamMr/HR-Bench",
    "pope": "lmms-lab/POPE",
}
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FORMS: Final = (
    "builtin[:COUNT], vstar[:DIR], hrbench[:DIR], pope[:DIR] (or :ORG/NAME), or jsonl:FILE"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A suite string, read: which suite, and which folder, file or name on the hub ("": none).

    Of the built-in suite `place` is how many items to draw.
    """

    text: str
    name: SuiteName
    place: str


def parse_source(text: str) -> Source:
    """Read a suite string. Raises: ConfigError if it names no suite.

    >>> parse_source("vstar").place, parse_source("vstar:data/vstar").place
    ('craigwu/vstar_bench', 'data/vstar')
    """
    named, _, place = text.partition(":")
    for name in get_args(SuiteName):
        if named == name:
            break
    else:
        raise ConfigError("suite", f"{text!r} is unknown; give {_FORMS}")
    if name == "builtin" and place and not (place.isdecimal() and int(place)):
        raise ConfigError(
            "suite", f"{text!r}: builtin is drawn from a seed; give a number of items, or nothing"
        )
    if name == "jsonl" and not place:
        raise ConfigError("suite", "jsonl names no file; give jsonl:FILE")
    return Source(text, name, place or HUB_IDS.get(name, ""))


def find_folder(source: Source, patterns: Sequence[str]) -> Path:
    """Find a suite's folder; from the hub come only the files that match one of the patterns.

    Raises: SuiteError saying what to do, if it is neither here nor to be had from the hub.
    """
    folder = Path(source.place)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(source.place):
        raise SuiteError(
            source.text, f"{source.place} is no folder here; give one that exists, or ORG/NAME"
        )
    return _from_hub(source, patterns)


def _from_hub(source: Source, patterns: Sequence[str]) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise SuiteError(
            source.text,
            f"{source.place} is no folder here, and to ask the hub takes huggingface_hub: "
            "pip install 'speceyes[lab]', or give a folder",
        ) from error
    here = f"the hub was asked for {source.place}, which is no folder here"
    try:
        return Path(
            snapshot_download(source.place, repo_type="dataset", allow_patterns=list(patterns))
        )
    except errors.GatedRepoError as error:
        raise SuiteError(
            source.text, f"{here}: ask for access on its page, then log in (`hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SuiteError(
            source.text,
            f"{here}: no such dataset, or a private one; check the spelling, log in "
            "(`hf auth login`), or give a folder",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise SuiteError(
            source.text,
            f"{here}: it cannot be reached and is not in the cache; give a folder, or point "
            "HF_HUB_CACHE at a cache that has it",
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise SuiteError(source.text, f"{here}: {error}; try again, or give a folder") from error
