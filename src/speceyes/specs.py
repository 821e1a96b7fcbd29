"""A gate as text, JSON or TOML, and back: a threshold is written with all that makes it valid.

It refuses to know files. What was written is read as it was; unknown keys are errors, so that a
threshold never loses a condition on the way.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict

from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.tables import as_table, read_table

FIELD = "gate"
CERTIFICATE = "certificate"


def read_gate(document: object) -> GateSpec:
    """Read a gate from a document: the table `gate` in it, as calibration writes it, or all of it.

    A certificate beside it must speak of this very gate.
    Raises: ConfigError naming the key.

    >>> read_gate({"threshold": 4, "k": 16}).threshold
    4.0
    """
    table = as_table(FIELD, document)
    spec = read_table(FIELD, table.get(FIELD, table), GateSpec)
    if FIELD in table and CERTIFICATE in table:
        certified = as_table(CERTIFICATE, table[CERTIFICATE]).get("gate_id")
        if certified != gate_id(spec):
            raise ConfigError(
                FIELD,
                "is not the gate that its certificate speaks of: a threshold is valid only with "
                "its K, models and prompts; calibrate again, or take the certificate out",
            )
    return spec


def gate_id(spec: GateSpec) -> str:
    """Name a gate by all that it consists of.

    >>> gate_id(GateSpec(threshold=4.0, k=16)) == gate_id(GateSpec(threshold=4.0, k=12))
    False
    """
    written = json.dumps(asdict(spec), sort_keys=True)
    return hashlib.blake2b(written.encode(), digest_size=8).hexdigest()


def gate_from_json(text: str) -> GateSpec:
    """Read a gate from JSON. Raises: ConfigError."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(FIELD, f"is no JSON: {error}") from error
    return read_gate(document)


def gate_from_toml(text: str) -> GateSpec:
    """Read a gate from TOML. Raises: ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(FIELD, f"is no TOML: {error}") from error
    return read_gate(document)


def gate_to_json(spec: GateSpec) -> str:
    """Write a gate as a JSON document of its own, which a calibration's could be part of."""
    return json.dumps({FIELD: asdict(spec)}, indent=2)


def gate_to_toml(spec: GateSpec) -> str:
    """Write a gate as the table that a settings file takes; what is not recorded is left out.

    >>> print(gate_to_toml(GateSpec(threshold=4.0, k=16)).splitlines()[:3])
    ['[gate]', 'threshold = 4.0', 'k = 16']
    """
    entries = ((key, value) for key, value in asdict(spec).items() if value is not None)
    return "\n".join([f"[{FIELD}]", *(f"{key} = {_toml(value)}" for key, value in entries), ""])


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():  # as in JSON, but for the one control character that JSON leaves bare
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return repr(value)
