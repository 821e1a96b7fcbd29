"""A manifest says what a run is: all that decides its records, known before the first of them.

It refuses to know files. Two runs whose manifests differ in anything but the hour may not be mixed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from speceyes.bench.grade import GRADER_VERSION
from speceyes.bench.items import SuiteFacts
from speceyes.bench.machine import Machine
from speceyes.bench.records import RECORD_VERSION, Method
from speceyes.config import PolicyName, Settings
from speceyes.errors import ConfigError, InputError, RunFolderError
from speceyes.gate import GateSpec
from speceyes.screen import ScreenSpec
from speceyes.tables import read_table

MANIFEST_VERSION: Final = 1
_OF_THE_HOUR: Final = ("started_at", "machine.load")
_SHOWN: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run is to do, and with what.

    `closer_gate` is for answers after a closer look; `least_score` is SpecReason's; `prompts`
    identify the wording of every prompt; `started_at` is when the run was first taken up (ISO 8601,
    UTC).
    """

    suite: SuiteFacts
    methods: tuple[Method, ...]
    concurrency: int
    small: str
    large: str
    protocol: str
    gate: GateSpec
    screen: ScreenSpec
    settings: Settings
    least_score: int
    prompts: Mapping[str, str]
    started_at: str
    commit: str | None
    versions: Mapping[str, str]
    machine: Machine
    preset: str | None = None
    policy: PolicyName = "serial"
    closer_gate: GateSpec | None = None
    grader_version: int = field(default=GRADER_VERSION)
    record_version: int = field(default=RECORD_VERSION)
    manifest_version: int = field(default=MANIFEST_VERSION)


def to_json(manifest: Manifest) -> str:
    """Write a manifest as a JSON document."""
    return json.dumps(asdict(manifest), ensure_ascii=False, indent=2) + "\n"


def from_json(text: str) -> Manifest:
    """Read a manifest back. Raises: RunFolderError if it is none, or of another version."""
    try:
        raw = json.loads(text)
        _check_version(raw["manifest_version"])
        return Manifest(
            **{
                **raw,
                "suite": SuiteFacts(**raw["suite"]),
                "methods": tuple(raw["methods"]),
                "gate": read_table("gate", raw["gate"], GateSpec),
                "closer_gate": _closer_gate(raw.get("closer_gate")),
                "screen": read_table("screen", raw["screen"], ScreenSpec),
                "settings": read_table("settings", raw["settings"], Settings),
                "machine": _machine(raw["machine"]),
            }
        )
    except RunFolderError:
        raise
    except (ValueError, TypeError, KeyError, InputError) as error:
        raise RunFolderError("manifest.json", f"is no manifest of a run ({error})") from error


def _closer_gate(raw: object) -> GateSpec | None:
    return None if raw is None else read_table("closer_gate", raw, GateSpec)


def _machine(raw: Mapping[str, Any]) -> Machine:
    return Machine(**{**raw, "accelerators": tuple(raw["accelerators"])})


def _check_version(version: object) -> None:
    if version != MANIFEST_VERSION:
        told = f"is of version {version}, not {MANIFEST_VERSION}"
        raise RunFolderError("manifest.json", f"{told}; run it anew in another folder")


def check_same(found: Manifest, wanted: Manifest) -> None:
    """See that a run may be gone on with. Raises: RunFolderError naming what differs."""
    before, now = dict(_leaves(asdict(found))), dict(_leaves(asdict(wanted)))
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in dict.fromkeys([*before, *now])
        if key not in _OF_THE_HOUR and before.get(key) != now.get(key)
    ]
    if differing:
        more = len(differing) - _SHOWN
        told = "; ".join(differing[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise RunFolderError(
            "manifest.json",
            f"the folder holds another run: {told}. Give another --out, or --anew to replace it",
        )


def check_first_sight(manifests: Iterable[Manifest]) -> None:
    """See that runs can be judged by another threshold than theirs.

    Where the small model looks closer if the gate is in doubt, what it says depends on the gate.
    Raises: ConfigError.
    """
    if any(manifest.settings.depth for manifest in manifests):
        raise ConfigError(
            "run",
            "its small model looked closer where the gate was in doubt, so what it said depends on "
            "the threshold; give runs made with depth 0",
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value
