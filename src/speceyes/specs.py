"""A gate as text, JSON or TOML, and back: a threshold is written with all that makes it valid.

It refuses to know files. What was written is read as it was; unknown keys are errors, so that a
threshold never loses a condition on the way.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict
from typing import Any

from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.tables import as_table, read_table

FIELD = "gate"
CLOSER = "closer_gate"
CERTIFICATE = "certificate"


def read_gate(document: object) -> GateSpec:
    """Read a gate from a document: the table `gate` in it, as calibration writes it, or all of it.

    A certificate beside it must speak of this very gate, and of the closer one's, if there is one.
    Raises: ConfigError naming the key.

    >>> read_gate({"threshold": 4, "k": 16}).threshold
    4.0
    """
    table = as_table(FIELD, document)
    spec = read_table(FIELD, table.get(FIELD, table), GateSpec)
    if FIELD in table and CERTIFICATE in table:
        certified = as_table(CERTIFICATE, table[CERTIFICATE]).get("gate_id")
        if certified != gate_id(spec, read_closer_gate(document)):
            raise ConfigError(
                FIELD,
                "is not the gate that its certificate speaks of: a threshold is valid only with "
                "its K, models and prompts; calibrate again, or take the certificate out",
            )
    return spec


def read_closer_gate(document: object) -> GateSpec | None:
    """Read the gate of what is answered after a closer look: the table beside `gate`, if any.

    Raises: ConfigError naming the key.
    """
    table = as_table(FIELD, document)
    if FIELD not in table or table.get(CLOSER) is None:
        return None
    return read_table(CLOSER, table[CLOSER], GateSpec)


def gate_id(spec: GateSpec, closer: GateSpec | None = None) -> str:
    """Name a gate by all that it consists of, with the closer one's if there are two.

    >>> gate_id(GateSpec(threshold=4.0, k=16)) == gate_id(GateSpec(threshold=4.0, k=12))
    False
    """
    plain: Any = plain_gate(spec)
    if closer is not None:
        plain = [plain, plain_gate(closer)]
    written = json.dumps(plain, sort_keys=True)
    return hashlib.blake2b(written.encode(), digest_size=8).hexdigest()


def plain_gate(spec: GateSpec) -> dict[str, Any]:
    """Lay a gate out as plain values; without a depth, as it was before there was one."""
    plain = asdict(spec)
    if not spec.depth:
        del plain["depth"]
    return plain


def gate_from_json(text: str) -> GateSpec:
    """Read a gate from JSON. Raises: ConfigError."""
    return read_gate(document_from_json(text))


def gate_from_toml(text: str) -> GateSpec:
    """Read a gate from TOML. Raises: ConfigError."""
    return read_gate(document_from_toml(text))


def document_from_json(text: str) -> object:
    """Read JSON that is to hold a gate. Raises: ConfigError."""
    try:
        document: object = json.loads(text)
    except ValueError as error:
        raise ConfigError(FIELD, f"is no JSON: {error}") from error
    return document


def document_from_toml(text: str) -> object:
    """Read TOML that is to hold a gate. Raises: ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(FIELD, f"is no TOML: {error}") from error


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
