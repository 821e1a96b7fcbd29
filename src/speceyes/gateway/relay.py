"""What the method cannot answer is passed on here, untouched, and so is what comes back.

It refuses to know what is asked and answered: bytes go out, bytes come in. It runs on asyncio only,
as aiohttp does. A call that is cancelled closes its connection, so that the server stops as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from speceyes.engines.payload import WholeBody
from speceyes.engines.wire.refusals import clean
from speceyes.errors import EngineUnavailable

_HEADERS: Final = {"content-type": "application/json", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A server to pass requests on to: its name in errors, where it is, the key it wants.

    `find_model` gives the model to ask for there.
    """

    name: str
    base_url: str
    key: str | None = field(repr=False)
    find_model: Callable[[], Awaitable[str]]
    connect_timeout_s: float = 5.0


class Relay:
    """Pass requests on to one server. Nothing is opened before the first; close it when done."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The server, as errors call it."""
        return self._upstream.name

    async def find_model(self) -> str:
        """Give the model to ask for. Raises: EngineError."""
        return await self._upstream.find_model()

    @asynccontextmanager
    async def call(
        self, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a body, and give the reply, of which no byte was read; leaving ends the call.

        Sent again only if the connection broke before a byte of a reply. Raises: EngineUnavailable.
        """
        async with await self._reply(body, headers) as response:
            yield response

    def broken(self, error: Exception) -> EngineUnavailable:
        """Make the error of a reply that broke off."""
        why = clean(str(error) or type(error).__name__, key=self._upstream.key)
        return EngineUnavailable(
            self.name, f"broke off within its reply ({why}); its log tells why"
        )

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _reply(self, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        try:
            # A connection that was kept open may have been closed meanwhile.
            with suppress(aiohttp.ClientConnectionError):
                return await self._post(body, headers)
            return await self._post(body, headers)
        except aiohttp.ClientError as error:
            why = clean(str(error) or type(error).__name__, key=self._upstream.key)
            raise EngineUnavailable(
                self.name, f"cannot be reached ({why}); start the server, or mend the address"
            ) from error

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        return await self._open().post(
            f"{self._upstream.base_url}/chat/completions",
            data=WholeBody(body),
            headers=headers,
            allow_redirects=False,  # the key is for this server alone
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = self._upstream.key
            secret = {} if key is None else {"authorization": f"Bearer {key}"}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # those let in are the limit
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._upstream.connect_timeout_s
                ),
                headers={**_HEADERS, **secret},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session
