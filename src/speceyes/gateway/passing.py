"""A request outside the method goes to the large engine's server, and its reply to the client.

It refuses to know why it is outside. Status, content type and bytes are the server's own.
"""

from __future__ import annotations

from typing import Final

import aiohttp

from speceyes.errors import EngineUnavailable, RequestMalformed
from speceyes.gateway.outgoing import Header
from speceyes.gateway.relay import Relay
from speceyes.gateway.routes import Route
from speceyes.gateway.visit import Visit
from speceyes.gateway.wire.reply import way_headers
from speceyes.gateway.wire.request import Asked, passed_on
from speceyes.gateway.wire.turns import Outside

_KEPT: Final = ("content-type", "content-length", "content-encoding", "retry-after")
_SHORT_BYTES: Final = 64 * 1024  # a reply of so few comes, and goes on, in one piece
_DOWN: Final = frozenset({500, 502, 503, 504})


async def pass_on(
    asked: Asked, route: Route, visit: Visit, *, outside: Outside, headers: dict[str, str]
) -> None:
    """Send a request on, and its reply back, byte for byte.

    Raises: RequestMalformed if the large engine is no server; EngineUnavailable if it is down, or
    its reply broke off.
    """
    visit.route, visit.reason = "bypass", outside.reason
    if route.relay is None:
        raise RequestMalformed(
            outside.field,
            f"is outside what {route.name} can answer ({outside.reason}), and its large engine is "
            "no server that the request could be passed on to",
        )
    asked_at_s = visit.clock()
    try:
        with route.large.breaker.call() as call:
            model = await route.relay.find_model()
            async with route.relay.call(passed_on(asked, model), headers) as response:
                call.hear()
                if response.status in _DOWN:
                    call.fail()
                told = way_headers({"route": "bypass", "reason": outside.reason})
                await _pour(response, route.relay, visit, headers=[*_kept(response), *told])
    finally:
        visit.upstream_s = visit.clock() - asked_at_s


async def _pour(
    response: aiohttp.ClientResponse, relay: Relay, visit: Visit, *, headers: list[Header]
) -> None:
    out = visit.out
    await out.start(response.status, headers)
    length = response.content_length
    try:
        if length is not None and length <= _SHORT_BYTES:
            await out.end(await response.read())
            return
        async for piece in response.content.iter_any():
            await out.write(piece)
    except aiohttp.ClientError as error:
        raise relay.broken(error) from error
    await out.end()


def _kept(response: aiohttp.ClientResponse) -> list[Header]:
    return [
        (name.encode(), response.headers[name].encode("latin-1", "replace"))
        for name in _KEPT
        if name in response.headers
    ]


def is_refusal(error: Exception) -> bool:
    """Say if an engine was not even asked, for its breaker is open."""
    return isinstance(error, EngineUnavailable) and error.retry_after_s is not None
