"""One pooled set of connections to one server: bytes out, bytes in, within time, again if it helps.

It refuses to know what the bytes mean. It runs on asyncio only, for aiohttp does. A call that is
cancelled closes its connection, which is how the server learns that nobody waits any more.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import aiohttp
import anyio

from speceyes.engines.payload import WholeBody
from speceyes.engines.wire.refusals import Refusal, clean, read_refusal
from speceyes.engines.wire.retry import RETRIED_STATUSES, retry_after_s, wait_before_retry
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import EngineProtocolError, EngineTimeout, EngineUnavailable

_MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
_MAX_REFUSAL_BYTES: Final = 64 * 1024
_LAST_BYTES_S: Final = 0.05
_CLOSED: Final = "is closed; make another one"

ONWARD: ContextVar[Mapping[str, str]] = ContextVar("onward")
"""Headers that all calls made within a task carry beside their own: its place in a trace, say."""


class Sink(Protocol):
    """Take a reply's bytes as they come."""

    def feed(self, piece: bytes, /) -> bool:
        """Take in the next piece; say if no more is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, what it is called in errors, and the key it wants."""

    base_url: str
    name: str
    key: str | None = field(repr=False)


class _Unreached(Exception):  # noqa: N818 - never leaves this file
    """The connection failed before a byte of the reply, so that trying again harms nobody."""

    def __init__(self, why: str, *, is_timeout: bool = False) -> None:
        super().__init__(why)
        self.is_timeout = is_timeout


@dataclass(slots=True)
class _Attempt:
    """One call, to be made once or more; `has_begun` once a byte of a reply has come."""

    session: aiohttp.ClientSession
    method: str
    url: str
    body: bytes | None
    open_sink: Callable[[str], Sink]
    has_begun: bool = False

    def start(self) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.session.request(
            self.method,
            self.url,
            data=None if self.body is None else WholeBody(self.body),
            headers=self._headers(),
            allow_redirects=False,  # the key is for this server alone
        )

    def _headers(self) -> dict[str, str]:
        own = {} if self.body is None else {"content-type": "application/json"}
        return {**ONWARD.get({}), **own}


@dataclass(slots=True)
class _Gather:
    """Keep all of a reply."""

    body: bytearray

    def feed(self, piece: bytes) -> bool:
        self.body += piece
        return False


class Transport:
    """Call one server. No socket is opened before the first call.

    Invariants: at most `max_connections` calls are under way, the others wait in order; after a
    call, however it ended, its connection is back in the pool or closed.
    """

    def __init__(self, server: Server, settings: HttpSettings) -> None:
        self._server = server
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._slots: anyio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[anyio.CancelScope] = set()
        self._is_closed = False

    async def get(self, path: str) -> bytes | Refusal:
        """Fetch what is at a path. Raises: EngineError."""
        body = bytearray()

        def gather(_: str) -> Sink:
            return _Gather(body)

        refusal = await self._call("GET", path, body=None, open_sink=gather)
        return bytes(body) if refusal is None else refusal

    async def post(
        self, path: str, body: bytes, open_sink: Callable[[str], Sink]
    ) -> Refusal | None:
        """Send JSON, and pour the reply into a sink made for its content type.

        Raises: EngineError; and what the sink raises.
        """
        return await self._call("POST", path, body=body, open_sink=open_sink)

    def check_open(self) -> None:
        """Say at once if no call can be made. Raises: EngineUnavailable."""
        self._open()

    async def aclose(self) -> None:
        """Close all connections; calls under way end in EngineUnavailable."""
        self._is_closed = True
        for call in tuple(self._calls):
            call.cancel()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self, method: str, path: str, *, body: bytes | None, open_sink: Callable[[str], Sink]
    ) -> Refusal | None:
        session, slots = self._open()
        total_s, name = self._settings.total_timeout_s, self._server.name
        attempt = _Attempt(session, method, f"{self._server.base_url}{path}", body, open_sink)
        call = anyio.CancelScope()
        self._calls.add(call)
        try:
            with anyio.fail_after(total_s), call:
                async with slots:
                    return await self._persist(attempt)
        except TimeoutError:
            raise EngineTimeout(
                name, f"no whole reply within {total_s:g} s (http.total_timeout_s)"
            ) from None
        finally:
            self._calls.discard(call)
        raise self._unavailable(_CLOSED)  # closing cancelled it

    async def _persist(self, attempt: _Attempt) -> Refusal | None:
        started_s, attempts = anyio.current_time(), 0
        while True:
            attempts += 1
            refusal: Refusal | None = None
            cause: _Unreached | None = None
            try:
                refusal = await self._once(attempt)
                if refusal is None or refusal.status not in RETRIED_STATUSES:
                    return refusal
            except _Unreached as error:
                cause = error
            wait_s = wait_before_retry(
                self._settings,
                attempts=attempts,
                elapsed_s=anyio.current_time() - started_s,
                asked_s=None if refusal is None else refusal.asked_wait_s,
                draw=random.random(),  # noqa: S311 - spreads callers in time, guards nothing
            )
            if wait_s is not None:
                await anyio.sleep(wait_s)
            elif cause is not None:
                kind = EngineTimeout if cause.is_timeout else EngineUnavailable
                raise kind(
                    self._server.name,
                    f"cannot be reached at {self._server.base_url} ({cause}; {attempts} attempts); "
                    "start the server, or mend the address",
                ) from cause
            else:
                return refusal

    async def _once(self, attempt: _Attempt) -> Refusal | None:
        first_byte_s = self._settings.first_byte_timeout_s
        try:
            with anyio.fail_after(first_byte_s) as patience:
                if not self._settings.stream and attempt.body is not None:
                    patience.deadline = math.inf  # the first byte comes when all is said
                return await self._exchange(attempt, patience)
        except TimeoutError:
            raise EngineTimeout(
                self._server.name,
                f"no byte within {first_byte_s:g} s (http.first_byte_timeout_s); it is stuck, or "
                "has too much to do",
            ) from None
        except (aiohttp.ClientError, RuntimeError) as error:
            raise self._named(error, has_begun=attempt.has_begun) from error

    async def _exchange(self, attempt: _Attempt, patience: anyio.CancelScope) -> Refusal | None:
        try:
            async with attempt.start() as response:
                attempt.has_begun = True
                if response.status != 200:
                    return await self._refusal(response)
                await self._pour(response, attempt, patience)
        except aiohttp.ConnectionTimeoutError:
            limit_s = self._settings.connect_timeout_s
            raise _Unreached(
                f"no connection within {limit_s:g} s, http.connect_timeout_s", is_timeout=True
            ) from None
        return None

    async def _pour(
        self, response: aiohttp.ClientResponse, attempt: _Attempt, patience: anyio.CancelScope
    ) -> None:
        sink, taken = attempt.open_sink(response.headers.get("content-type", "")), 0
        async for piece in response.content.iter_any():
            patience.deadline = math.inf
            taken += len(piece)
            if taken > _MAX_REPLY_BYTES:
                raise EngineProtocolError(
                    self._server.name, f"sent over {_MAX_REPLY_BYTES} bytes; no answer is so long"
                )
            if sink.feed(piece):
                # Read to its very end, a connection can serve again; else it will be closed.
                with anyio.move_on_after(_LAST_BYTES_S):
                    await response.content.read()
                return

    async def _refusal(self, response: aiohttp.ClientResponse) -> Refusal:
        said = await response.content.read(_MAX_REFUSAL_BYTES)
        return replace(
            read_refusal(response.status, said, key=self._server.key),
            asked_wait_s=retry_after_s(response.headers.get("retry-after"), now=datetime.now(UTC)),
            request_id=response.headers.get("x-request-id"),
        )

    def _named(self, error: aiohttp.ClientError | RuntimeError, *, has_begun: bool) -> Exception:
        why = clean(str(error) or type(error).__name__, key=self._server.key)
        if self._is_closed:
            return self._unavailable(_CLOSED)
        if isinstance(error, RuntimeError):
            return error
        if isinstance(error, aiohttp.ClientSSLError):
            return self._unavailable(f"has a certificate that is not accepted ({why})")
        if not isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
            return EngineProtocolError(
                self._server.name, f"does not speak HTTP as agreed ({why}); is the port right?"
            )
        if has_begun:
            return self._unavailable(f"broke off within its reply ({why}); its log tells why")
        return _Unreached(why)

    def _unavailable(self, message: str) -> EngineUnavailable:
        return EngineUnavailable(self._server.name, message)

    def _open(self) -> tuple[aiohttp.ClientSession, anyio.Semaphore]:
        if self._is_closed:
            raise self._unavailable(_CLOSED)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise self._unavailable(
                "runs on asyncio only; start the program with anyio.run(main, backend='asyncio')"
            ) from None
        if self._session is None or self._slots is None:
            self._session = self._new_session()
            self._slots = anyio.Semaphore(self._settings.max_connections)
            self._loop = loop
        if self._loop is not loop:
            raise self._unavailable(
                "belongs to the event loop that it was first used in; make one for each"
            )
        return self._session, self._slots

    def _new_session(self) -> aiohttp.ClientSession:
        key = self._server.key
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the slots are the limit
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.connect_timeout_s
            ),
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
