"""What a caller chose, in a settings file (`speceyes.toml`) or by flags, is read here.

It refuses to open engines. Strings are checked as they are read, so that a mistake is named before
anything is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from speceyes.calibration.certificate import Certificate, from_json
from speceyes.config import DEFAULTS, Settings, parse_policy, parse_protocol
from speceyes.engine_names import PairRole, parse_engine
from speceyes.engines.wire.settings import DEFAULT_HTTP, HttpSettings
from speceyes.errors import ConfigError
from speceyes.gate import PAPER, GateSpec
from speceyes.screen import ScreenSpec
from speceyes.specs import document_from_json, document_from_toml, read_closer_gate, read_gate
from speceyes.tables import as_table, as_text, check_keys, read_table
from speceyes.tools.limits import DEFAULT_LIMITS, SandboxLimits

GATE_CHOICES: Final = "paper, FILE.json, FILE.toml"
_KNOWN: Final = (
    "small",
    "large",
    "protocol",
    "policy",
    "system_prompt",
    "user_prompt",
    "gate",
    "closer_gate",
    "screen",
    "settings",
    "http",
    "sandbox",
)
GATEWAY_KEYS: Final = ("gateway", "engines", "routes")  # of the same file, for the gateway alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Say what a caller chose; None: not chosen, so the default counts.

    `small` and `large` are engine strings; the prompts are their words, not their files.
    `certificate` is the gate's, if it came with one.
    """

    small: str | None = None
    large: str | None = None
    protocol: str | None = None
    policy: str | None = None
    gate: GateSpec | None = None
    certificate: Certificate | None = None
    closer_gate: GateSpec | None = None
    screen: ScreenSpec | None = None
    settings: Settings = DEFAULTS
    http: HttpSettings = DEFAULT_HTTP
    sandbox: SandboxLimits = DEFAULT_LIMITS
    system_prompt: str | None = None
    user_prompt: str | None = None


def load_settings(path: str | Path) -> Choices:
    """Read a settings file; files that it names lie relative to it.

    Raises: ConfigError naming the key: unknown, of a wrong type, or out of its range.
    """
    file = Path(path)
    table = read_file(file)
    check_keys("", table, (*_KNOWN, *GATEWAY_KEYS))
    own = {key: value for key, value in table.items() if key not in GATEWAY_KEYS}
    return read_choices(own, file.parent)


def read_file(file: Path) -> dict[str, Any]:
    """Read a settings file's table. Raises: ConfigError."""
    try:
        return tomllib.loads(read_text("config", file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", f"{file} is no TOML: {error}") from error


def read_choices(table: Mapping[str, Any], folder: Path) -> Choices:
    """Read the choices in a table; files that it names lie relative to a folder.

    Raises: ConfigError naming the key: unknown, of a wrong type, or out of its range.
    """
    check_keys("", table, _KNOWN)
    names = {
        key: as_text(key, table[key])
        for key in ("protocol", "policy", "system_prompt", "user_prompt")
        if key in table
    }
    return Choices(
        small=_engine("small", table),
        large=_engine("large", table),
        protocol=parse_protocol(names["protocol"]) if "protocol" in names else None,
        policy=parse_policy(names["policy"]) if "policy" in names else None,
        gate=_gate("gate", table, folder),
        certificate=_certificate(table, folder),
        closer_gate=_closer_gate(table, folder),
        screen=read_table("screen", table["screen"], ScreenSpec) if "screen" in table else None,
        settings=read_table("settings", table.get("settings", {}), Settings),
        http=read_table("http", table.get("http", {}), HttpSettings),
        sandbox=read_table("sandbox", table.get("sandbox", {}), SandboxLimits),
        **{
            key: read_text(key, folder / names[key])
            for key in ("system_prompt", "user_prompt")
            if key in names
        },
    )


def load_gate(name: str, *, folder: Path = Path()) -> GateSpec:
    """Read a gate by its name: the published one, or a file's. Raises: ConfigError."""
    return PAPER if name == "paper" else read_gate(_document(folder / name))


def load_closer_gate(name: str, *, folder: Path = Path()) -> GateSpec | None:
    """Read what a gate's file has for answers after a closer look, if anything.

    Raises: ConfigError.
    """
    return None if name == "paper" else read_closer_gate(_document(folder / name))


def load_certificate(name: str, *, folder: Path = Path()) -> Certificate | None:
    """Read the certificate beside a gate in a file; None if there is none. Raises: ConfigError."""
    if not name.endswith(".json"):
        return None
    found = from_json(read_text("gate", folder / name))
    return None if found is None else found.certificate


def read_text(field: str, path: Path) -> str:
    """Read a file of text, as it is. Raises: ConfigError naming the field that named it."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(field, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(field, f"{path} is no UTF-8 text: {error.reason}") from error


def _document(file: Path) -> object:
    readers = {".json": document_from_json, ".toml": document_from_toml}
    if file.suffix not in readers:
        raise ConfigError("gate", f"{file.name!r} is no gate; choose from {GATE_CHOICES}")
    return readers[file.suffix](read_text("gate", file))


def _engine(role: PairRole, table: Mapping[str, Any]) -> str | None:
    if role not in table:
        return None
    entries = as_table(role, table[role])
    check_keys(role, entries, ("engine",))
    if "engine" not in entries:
        return None
    text = as_text(f"{role}.engine", entries["engine"])
    parse_engine(text, role=role)
    return text


def _gate(name: str, table: Mapping[str, Any], folder: Path) -> GateSpec | None:
    if name not in table:
        return None
    value = table[name]
    return load_gate(value, folder=folder) if isinstance(value, str) else read_gate({"gate": value})


def _closer_gate(table: Mapping[str, Any], folder: Path) -> GateSpec | None:
    own, value = _gate("closer_gate", table, folder), table.get("gate")
    beside = load_closer_gate(value, folder=folder) if isinstance(value, str) else None
    if own is not None and beside is not None:
        told = f"is in {value} too, chosen together with its gate; leave this one out"
        raise ConfigError("closer_gate", told)
    return own or beside


def _certificate(table: Mapping[str, Any], folder: Path) -> Certificate | None:
    value = table.get("gate")
    return load_certificate(value, folder=folder) if isinstance(value, str) else None
