"""How busy a server is, asked of the metrics that it keeps beside its API.

It refuses to know who wants to know. A server that has no metrics is asked once and not again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from speceyes.engines.transport import Server, Transport
from speceyes.engines.wire.prometheus import read_load
from speceyes.engines.wire.refusals import Refusal
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import EngineError
from speceyes.load import Load

_PATIENCE_S: Final = 1.0  # what comes later tells of another time


class ServerLoad:
    """Ask one server for its load. Implements `load.LoadProbe`.

    `server.base_url` is that of the API: the metrics lie beside its /v1.
    """

    def __init__(self, server: Server, settings: HttpSettings) -> None:
        beside = replace(server, base_url=server.base_url.removesuffix("/v1"))
        brief = replace(
            settings,
            connect_timeout_s=_PATIENCE_S,
            total_timeout_s=_PATIENCE_S,
            max_attempts=1,
        )
        self._transport = Transport(beside, brief)
        self._is_mute = False

    async def read(self) -> Load | None:
        """Find out; None if the server does not tell."""
        if self._is_mute:
            return None
        try:
            told = await self._transport.get("/metrics")
        except EngineError:
            return None
        load = None if isinstance(told, Refusal) else read_load(told.decode("utf-8", "replace"))
        self._is_mute = load is None
        return load

    async def aclose(self) -> None:
        """Close its connection."""
        await self._transport.aclose()
