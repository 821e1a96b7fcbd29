"""An engine string says which engine is meant: built in, in a folder, on the hub, or on a server.

    builtin                       builtin:small           builtin:large           builtin:closer
    local:DIR                     local:ORG/NAME
    http://HOST:PORT/v1#MODEL     https://HOST/v1?key_env=NAME#MODEL

It refuses to open anything, and to hold a secret: a key is named by its environment variable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeAlias
from urllib.parse import SplitResult, urlsplit

from speceyes.errors import ConfigError

PairRole: TypeAlias = Literal["small", "large"]
BuiltinName: TypeAlias = Literal["small", "large", "closer"]

ENGINE_CHOICES: Final = (
    "builtin, builtin:small, builtin:closer, builtin:large, local:DIR, local:ORG/NAME, "
    "http://HOST:PORT/v1#MODEL (or https; ?key_env=NAME before the # names the environment "
    "variable with the key)"
)
_SERVERS: Final = frozenset({"http", "https"})
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_ADVICE: Final = "the address has no host, or a port that is none; write http://HOST:PORT/v1"
_KEY_ADVICE: Final = (
    "a key does not belong there, where it is shown and logged; put it into an environment "
    "variable and name that: ?key_env=NAME before the #"
)


@dataclass(frozen=True, slots=True)
class BuiltinEngine:
    """One of the models that come with speceyes; "closer" is a small one that may look closer."""

    name: BuiltinName

    def __str__(self) -> str:
        return f"builtin:{self.name}"


@dataclass(frozen=True, slots=True)
class LocalEngineAt:
    """A model run in this process: from a folder, or else by its name on the hub."""

    source: str

    def __str__(self) -> str:
        return f"local:{self.source}"


@dataclass(frozen=True, slots=True)
class HttpEngineAt:
    """A model on a server; None: its only one. `key_env` names the variable with the key."""

    base_url: str
    model: str | None = None
    key_env: str | None = None

    def __str__(self) -> str:
        query = "" if self.key_env is None else f"?key_env={self.key_env}"
        return f"{self.base_url}{query}{'' if self.model is None else f'#{self.model}'}"


EngineSource: TypeAlias = BuiltinEngine | LocalEngineAt | HttpEngineAt


def parse_engine(text: str, *, role: PairRole) -> EngineSource:
    """Read an engine string; `builtin` alone is the built-in model of the given role.

    Invariants: the string of what is read reads as the same again.
    Raises: ConfigError naming the choices; it shows no part of a string that may hold a key.

    >>> parse_engine("builtin", role="small")
    BuiltinEngine(name='small')
    >>> parse_engine("http://127.0.0.1:8000/v1#Qwen/Qwen3-VL-2B-Instruct", role="small")
    HttpEngineAt(base_url='http://127.0.0.1:8000/v1', model='Qwen/Qwen3-VL-2B-Instruct', ...)
    """
    kind, _, rest = text.partition(":")
    match (kind, rest):
        case ("builtin", "") if text == "builtin":
            return BuiltinEngine(role)
        case ("builtin", "small" | "large" | "closer" as named):
            return BuiltinEngine(named)
        case ("local", source) if source.strip() and source.isprintable():
            return LocalEngineAt(source)
        case _ if kind.lower() in _SERVERS and rest:
            return _parse_server(text, role)
        case _:
            shown = f"{kind[:20]}:..." if rest else kind[:40]
            raise ConfigError(role, f"{shown!r} is no engine; choose from {ENGINE_CHOICES}")


def is_pair(small: object, large: object) -> bool:
    """Say whether two engines are the built-in pair, whose gates are known."""
    is_small = small in (BuiltinEngine("small"), BuiltinEngine("closer"))
    return is_small and large == BuiltinEngine("large")


def small_engine(text: str, *, depth: int) -> str:
    """Name the small engine that is meant: one that may look closer takes a model that can.

    >>> small_engine("builtin", depth=1), small_engine("builtin", depth=0)
    ('builtin:closer', 'builtin')
    """
    return "builtin:closer" if text == "builtin" and depth > 0 else text


def model_of(text: str, *, role: PairRole) -> str | None:
    """Name the model that an engine string means, wherever it runs; None if it does not say.

    >>> model_of("http://127.0.0.1:8000/v1#Qwen/Qwen3-VL-2B-Instruct", role="small")
    'Qwen/Qwen3-VL-2B-Instruct'
    """
    try:
        source = parse_engine(text, role=role)
    except ConfigError:
        return None
    match source:
        case HttpEngineAt(model=model):
            return model
        case LocalEngineAt(source=named):
            return named
        case _:
            return str(source)


def _parse_server(text: str, role: PairRole) -> HttpEngineAt:
    address, has_model, model = text.partition("#")
    if not text.isprintable() or " " in address:
        _refuse(role, "the address holds a space or a control character; remove it")
    try:
        parts = urlsplit(address)
        has_host = parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        _refuse(role, _HOST_ADVICE)
    if "@" in parts.netloc:
        _refuse(role, f"the address holds a user or a password; {_KEY_ADVICE}")
    if not has_host:
        _refuse(role, _HOST_ADVICE)
    path = parts.path.rstrip("/")
    if not path:
        _refuse(role, "the address has no path; chat-completions servers want /v1: .../v1#MODEL")
    if has_model and (not model.strip() or "?" in model):
        _refuse(
            role,
            "behind the # stands a model's name and nothing else; leave the # out for "
            "the server's only model, and write ?key_env=NAME before it",
        )
    base_url = f"{parts.scheme}://{parts.netloc}{path}"
    return HttpEngineAt(base_url, model or None, _key_env(address, parts, role))


def _key_env(address: str, parts: SplitResult, role: PairRole) -> str | None:
    if "?" not in address:
        return None
    name, _, value = parts.query.partition("=")
    if name != "key_env" or "&" in value:
        _refuse(role, f"behind the ? stands key_env=NAME and nothing else; {_KEY_ADVICE}")
    if not _VARIABLE.fullmatch(value):
        _refuse(
            role,
            "key_env is not the name of an environment variable; give its name, not the "
            "key that it holds",
        )
    return value


def _refuse(role: PairRole, why: str) -> NoReturn:
    raise ConfigError(role, why)
