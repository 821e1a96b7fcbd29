"""A picture is fetched here from a server of the internet: one that is allowed, public and quick.

It refuses to know what a picture is. All addresses of a name are checked, and those very ones are
connected to; each redirect is a new address. It runs on asyncio only, as aiohttp does.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

import aiohttp
import anyio
from aiohttp.abc import AbstractResolver, ResolveResult

from speceyes.errors import (
    PictureTooLarge,
    PictureUnknown,
    PictureUnreadable,
    RequestMalformed,
)
from speceyes.gateway.images.addresses import Address, why_not_public
from speceyes.gateway.images.urls import Target, follow, read_allowed, read_target
from speceyes.gateway.settings import ImageSettings

Judge = Callable[[Address], str | None]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 3
_MAX_CONNECTIONS: Final = 64
_MAX_TO_ONE_HOST: Final = 8
_PIECE_BYTES: Final = 64 * 1024
_HEADERS: Final = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "speceyes"}


class NotPublic(OSError):  # noqa: N818 - an OSError, so that connectors clean up after it
    """A name, or a connection, leads to an address that is not everybody's."""

    def __init__(self, what: str) -> None:
        super().__init__(f"leads to an address that is not public ({what})")


class CheckedResolver(AbstractResolver):
    """Look names up, and refuse one if any of its addresses is not public."""

    def __init__(self, inner: AbstractResolver, judge: Judge) -> None:
        self._inner = inner
        self._judge = judge

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give a name's addresses. Raises: NotPublic; OSError if there are none."""
        found = await self._inner.resolve(host, port, family)
        for one in found:
            what = self._judge(ip_address(one["host"]))
            if what is not None:
                raise NotPublic(what)
        return found

    async def close(self) -> None:
        """Close the resolver that it asks."""
        await self._inner.close()


class Fetcher:
    """Fetch pictures. Nothing is opened before the first one; close it when done.

    `resolver` None: the system's. `judge` says what keeps an address from being public.
    Raises: ConfigError if `allow` has an entry that is no host.
    """

    def __init__(
        self,
        settings: ImageSettings,
        *,
        resolver: AbstractResolver | None = None,
        judge: Judge = why_not_public,
    ) -> None:
        self._settings = settings
        self._allowed = read_allowed(settings.allow)
        self._resolver = resolver
        self._judge = judge
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, field: str) -> bytes:
        """Fetch what lies at an address. No credentials and no cookies are sent.

        Raises: RequestMalformed if it may not be asked; PictureUnreadable if no picture came in
        time; PictureTooLarge; PictureUnknown for what the server does not call a picture.
        """
        target = read_target(url, field, self._allowed)
        limit_s = self._settings.timeout_s
        try:
            with anyio.fail_after(limit_s):
                return await self._follow(target, field)
        except TimeoutError:
            raise PictureUnreadable(
                field, f"was not there within {limit_s:g} s; send it as a data: URL"
            ) from None

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _follow(self, target: Target, field: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            found = await self._ask(target, field)
            if isinstance(found, bytes):
                return found
            target = follow(target, found, field=field, allowed=self._allowed)
        raise PictureUnreadable(
            field, f"leads on more than {_MAX_REDIRECTS} times; give the address where it is"
        )

    async def _ask(self, target: Target, field: str) -> bytes | str:
        # The picture, or where it is said to be.
        try:
            async with self._open().get(target.url, allow_redirects=False) as response:
                location = response.headers.get("location")
                if response.status in _REDIRECTS and location is not None:
                    return location
                self._check_head(response, field)
                return await self._read(response, field)
        except aiohttp.ClientError as error:
            inner = getattr(error, "os_error", None)
            if isinstance(inner, NotPublic):
                raise RequestMalformed(field, str(inner)) from None
            raise PictureUnreadable(
                field,
                f"could not be fetched from {target.host} ({type(error).__name__}); send it as a "
                "data: URL",
            ) from error

    def _check_head(self, response: aiohttp.ClientResponse, field: str) -> None:
        if response.status != 200:
            raise PictureUnreadable(
                field, f"its server answered {response.status}; send it as a data: URL"
            )
        length = response.content_length
        if length is not None and length > self._settings.max_bytes:
            raise self._too_large(field)
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise PictureUnreadable(field, "came compressed, though that was not asked for")
        kind = response.content_type  # octet-stream where the server does not say
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise PictureUnknown(field, f"is no picture but {kind[:60]}, says its server")

    async def _read(self, response: aiohttp.ClientResponse, field: str) -> bytes:
        pieces: list[bytes] = []
        length = 0
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            length += len(piece)
            if length > self._settings.max_bytes:
                raise self._too_large(field)
            pieces.append(piece)
        return b"".join(pieces)

    def _too_large(self, field: str) -> PictureTooLarge:
        return PictureTooLarge(
            field, f"is above {self._settings.max_bytes} bytes; send a smaller one"
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            inner = self._resolver or aiohttp.ThreadedResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=CheckedResolver(inner, self._judge),
                    use_dns_cache=False,
                    force_close=True,
                    limit=_MAX_CONNECTIONS,
                    limit_per_host=_MAX_TO_ONE_HOST,
                    socket_factory=self._make_socket,
                ),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _make_socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        # The last word: whatever led here, this is where the connection goes.
        family, kind, protocol, _, address = found
        what = self._judge(ip_address(address[0]))
        if what is not None:
            raise NotPublic(what)
        return socket.socket(family=family, type=kind, proto=protocol)
