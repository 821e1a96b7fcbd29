"""A table, as TOML and JSON have them, becomes a frozen value here, or an error that names the key.

It refuses to know files and what the values mean. The value's own class says which keys there are,
of which types, and which have defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from speceyes.errors import ConfigError

T = TypeVar("T")

_KINDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    NoneType: "nothing",
}


def read_table(name: str, table: object, kind: type[T]) -> T:
    """Make a dataclass of a table's entries; keys that are left out keep their defaults.

    A field that is a dataclass itself takes a table in turn.
    Raises: ConfigError naming the key: unknown, missing, of a wrong type or out of its range.
    """
    entries = as_table(name, table)
    known = {entry.name: entry for entry in fields(kind) if entry.init}  # type: ignore[arg-type]
    check_keys(name, entries, tuple(known))
    hints = get_type_hints(kind)
    values = {key: _value(f"{name}.{key}", entries[key], hints[key]) for key in entries}
    for key, entry in known.items():
        if key not in values and entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{name}.{key}", "is missing; it has no default")
    try:
        return kind(**values)
    except ConfigError as error:
        if error.field.startswith(f"{name}."):
            raise
        raise ConfigError(f"{name}.{error.field}", error.message) from error


def as_table(name: str, value: object) -> Mapping[str, Any]:
    """Take a value for a table. Raises: ConfigError if it is none."""
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"is to be a table with keys, not {_shown(value)}")
    return value


def as_text(name: str, value: object) -> str:
    """Take a value for a string. Raises: ConfigError if it is none."""
    text: str = _value(name, value, str)
    return text


def check_keys(name: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Refuse a key that is not known. Raises: ConfigError naming it, and those that are."""
    for key in table:
        if key not in known:
            field = f"{name}.{key}" if name else key
            raise ConfigError(field, f"is unknown; known are {', '.join(known)}")


def _value(field: str, value: object, hint: Any) -> Any:
    choices = _choices(hint)
    if choices:
        if value not in choices:
            named = ", ".join(str(choice) for choice in choices if choice is not None)
            raise ConfigError(field, f"{_shown(value)} is unknown; choose from {named}")
        return value
    if get_origin(hint) is tuple:
        return _values(field, value, get_args(hint)[0])
    kinds = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    for kind in kinds:
        if is_dataclass(kind) and isinstance(kind, type) and value is not None:
            return read_table(field, value, kind)
    if type(value) in kinds:
        return value
    if type(value) is int and float in kinds:
        return float(value)
    wanted = " or ".join(_KINDS.get(kind, str(kind)) for kind in kinds if kind is not NoneType)
    raise ConfigError(field, f"is to be {wanted}, not {_shown(value)}")


def _values(field: str, value: object, hint: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(field, f"is to be a list, not {_shown(value)}")
    return tuple(_value(f"{field}[{place}]", one, hint) for place, one in enumerate(value))


def _choices(hint: Any) -> tuple[object, ...]:
    if get_origin(hint) in {Union, UnionType}:  # one of a few words, or nothing
        *words, last = get_args(hint)
        found = [choice for word in words for choice in _choices(word)]
        return (*found, None) if found and last is NoneType else ()
    return get_args(hint) if get_origin(hint) is Literal else ()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
