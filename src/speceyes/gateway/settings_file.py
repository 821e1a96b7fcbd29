"""The gateway's part of a settings file is read here: how it listens, and its routes.

It refuses to open engines. What stands at the file's top is every route's default, so that a file
without routes of its own makes one, named speceyes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from speceyes.engine_names import PairRole, parse_engine
from speceyes.errors import ConfigError, InputError
from speceyes.gateway.settings import (
    DEFAULT_ROUTE,
    AuditSettings,
    BreakerSettings,
    GatewaySettings,
    ImageSettings,
    Key,
    Limits,
    RouteSettings,
    Streaming,
    TlsSettings,
    TracingSettings,
)
from speceyes.settings_file import GATEWAY_KEYS, Choices, read_choices, read_file
from speceyes.shadow.settings import ShadowSettings
from speceyes.tables import as_table, as_text, check_keys, read_table

_Named = TypeVar("_Named", AuditSettings, TlsSettings, ShadowSettings)
_PARTS: Final[Mapping[str, type[Any]]] = {
    "limits": Limits,
    "images": ImageSettings,
    "streaming": Streaming,
    "breaker": BreakerSettings,
    "tracing": TracingSettings,
    "audit": AuditSettings,
    "tls": TlsSettings,
}
_FILES: Final[Mapping[str, tuple[str, ...]]] = {"audit": ("file",), "tls": ("certificate", "key")}
_ROLES: Final[tuple[PairRole, ...]] = ("small", "large")
_MERGED: Final = ("settings", "http", "sandbox")  # of these, single keys are changed
_OF_ROUTES: Final = tuple(entry.name for entry in fields(RouteSettings) if entry.name != "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """What is done under one model name, and who does it."""

    settings: RouteSettings
    choices: Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a gateway is made of; it can be sent to another process. Raises: ConfigError."""

    settings: GatewaySettings
    routes: tuple[RoutePlan, ...]

    def __post_init__(self) -> None:
        if not self.routes:
            raise ConfigError("routes", "is empty; leave it out, or give one")


def plan_of(table: Mapping[str, Any], folder: Path, *, flags: Mapping[str, Any]) -> Plan:
    """Make a plan of a settings file's table; `flags` go before what stands at its top.

    Files that it names lie relative to the folder. Raises: ConfigError naming the key.
    """
    top = {key: value for key, value in table.items() if key not in GATEWAY_KEYS}
    base = _over(top, flags)
    engines = _engines(table.get("engines", {}))
    told = as_table("routes", table.get("routes", {DEFAULT_ROUTE: {}}))
    return Plan(
        settings=_settings(table.get("gateway", {}), folder),
        routes=tuple(
            _route(name, as_table(f"routes.{name}", own), base, engines=engines, folder=folder)
            for name, own in told.items()
        ),
    )


def load_plan(path: Path | None, *, flags: Mapping[str, Any]) -> Plan:
    """Read a settings file; None: there is none, and the defaults count. Raises: ConfigError."""
    table = {} if path is None else read_file(path)
    return plan_of(table, Path() if path is None else path.parent, flags=flags)


def _settings(value: object, folder: Path) -> GatewaySettings:
    table = as_table("gateway", value)
    known = tuple(entry.name for entry in fields(GatewaySettings))
    check_keys("gateway", table, known)
    plain = {key: one for key, one in table.items() if key not in {*_PARTS, "keys"}}
    parts = {
        name: read_table(f"gateway.{name}", table[name], kind)
        for name, kind in _PARTS.items()
        if name in table
    }
    for name, files in _FILES.items():
        if name in parts:
            parts[name] = _placed(parts[name], files, folder)
    keys = table.get("keys", [])
    if not isinstance(keys, list):
        raise ConfigError("gateway.keys", "is to be a list of tables; write [[gateway.keys]]")
    try:
        return replace(
            read_table("gateway", plain, GatewaySettings),
            keys=tuple(
                read_table(f"gateway.keys[{place}]", key, Key) for place, key in enumerate(keys)
            ),
            **parts,
        )
    except ConfigError as error:
        raise _within("gateway", error) from error


def _engines(value: object) -> dict[str, str]:
    found = {}
    for name, engine in as_table("engines", value).items():
        table = as_table(f"engines.{name}", engine)
        check_keys(f"engines.{name}", table, ("engine",))
        if "engine" not in table:
            raise ConfigError(f"engines.{name}.engine", "is missing; say which engine it is")
        found[name] = as_text(f"engines.{name}.engine", table["engine"])
        try:
            parse_engine(found[name], role="large")
        except ConfigError as error:
            raise ConfigError(f"engines.{name}.engine", error.message) from error
    return found


def _route(
    name: str,
    own: Mapping[str, Any],
    base: Mapping[str, Any],
    *,
    engines: Mapping[str, str],
    folder: Path,
) -> RoutePlan:
    for_route = {key: value for key, value in own.items() if key in _OF_ROUTES}
    chosen = {key: value for key, value in own.items() if key not in _OF_ROUTES}
    for role in _ROLES:
        if role in chosen:
            text = as_text(f"routes.{name}.{role}", chosen[role])
            chosen[role] = {"engine": engines.get(text, text)}
    try:
        shadow = _shadow(for_route.pop("shadow", {}), folder)
        settings = read_table("", {**for_route, "name": name}, RouteSettings)
        settings = replace(settings, shadow=shadow)
        return RoutePlan(settings=settings, choices=read_choices(_over(base, chosen), folder))
    except ConfigError as error:
        is_own = error.field.lstrip(".").partition(".")[0] in {*own, "name"}
        raise (_within(f"routes.{name}", error) if is_own else error) from error


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    # What stands above goes before what stands below; of some tables, key by key.
    both = {
        key: {**as_table(key, below[key]), **as_table(key, above[key])}
        for key in _MERGED
        if key in below and key in above
    }
    return {**below, **above, **both}


def _shadow(value: object, folder: Path) -> ShadowSettings:
    settings = read_table("shadow", value, ShadowSettings)
    return _placed(settings, ("file", "state_folder"), folder)


def _placed(settings: _Named, names: Sequence[str], folder: Path) -> _Named:
    # What is named relative to the settings file lies in its folder.
    told = {name: getattr(settings, name) for name in names}
    placed: dict[str, Any] = {
        name: str(folder / path) for name, path in told.items() if path is not None
    }
    return replace(settings, **placed)


def _within(name: str, error: InputError) -> ConfigError:
    field = error.field.lstrip(".")
    return ConfigError(field if field.startswith(name) else f"{name}.{field}", error.message)
