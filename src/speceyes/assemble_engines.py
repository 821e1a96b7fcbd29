"""Engines given as strings are opened here; no other file names concrete ones.

It refuses to know what they are for. Who opens an engine closes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import anyio

from speceyes.engine_names import (
    BuiltinEngine,
    EngineSource,
    HttpEngineAt,
    LocalEngineAt,
    PairRole,
    parse_engine,
)
from speceyes.engines.wire.settings import DEFAULT_HTTP, HttpSettings
from speceyes.errors import ConfigError
from speceyes.extras import with_extra
from speceyes.phases import in_thread
from speceyes.types import Engine

_CLOSING_S: Final = 10.0  # an engine gets this long to close, also when cancelled
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


async def load_engine(role: PairRole, source: EngineSource, http: HttpSettings) -> Engine:
    """Load what an engine string means; who does so closes it.

    Raises: ConfigError for a directory that does not exist, a key that is not set, an extra that is
    not installed.
    """
    return await in_thread(partial(with_extra, role, partial(_load, role, source, http)))


@asynccontextmanager
async def open_engine(
    name: str, *, role: PairRole = "large", http: HttpSettings = DEFAULT_HTTP
) -> AsyncGenerator[Engine, None]:
    """Open one engine by its string, for work outside a funnel. Raises: ConfigError."""
    source = parse_engine(name, role=role)
    engine = await load_engine(role, source, http)
    try:
        yield engine
    finally:
        await close_engine(engine)


async def close_engine(engine: Engine) -> None:
    """Close an engine, within ten seconds, also when cancelled."""
    with anyio.move_on_after(_CLOSING_S, shield=True):
        await engine.aclose()


def _load(field: PairRole, source: EngineSource, http: HttpSettings) -> Engine:
    match source:
        case BuiltinEngine(name=name):
            from speceyes.builtin.pair import load

            return load(name)
        case LocalEngineAt(source=named):
            found = _find(field, named)
            from speceyes.engines.local import LocalEngine

            return LocalEngine.load(found, name=str(source))
        case HttpEngineAt(base_url=base_url, model=model, key_env=key_env):
            key = read_key(field, source)
            from speceyes.engines.http import HttpEngine

            return HttpEngine(base_url, model=model, key=key, key_env=key_env, settings=http)
        case _:
            assert_never(source)


def _find(field: PairRole, named: str) -> Path | str:
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_NAME.fullmatch(named):
        return named
    raise ConfigError(field, f"there is no directory {named}, and on the hub names are ORG/NAME")


def read_key(field: PairRole, source: HttpEngineAt) -> str | None:
    """Read the key that a server wants, if it wants one. Raises: ConfigError if it is not set."""
    if source.key_env is None:
        return None
    key = os.environ.get(source.key_env, "").strip()
    if not key:
        raise ConfigError(
            field,
            f"the environment variable {source.key_env}, which is to hold the key, is not set",
        )
    return key
