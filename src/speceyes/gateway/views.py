"""What the gateway shows of itself is served here: the page, its figures as JSON, and metrics.

It refuses to know what is shown: all three are made of the same value, asked for at each call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from speceyes.gateway.figures import Model
from speceyes.gateway.metrics import expose
from speceyes.gateway.observing import AsgiApp, Receive, Scope, Send
from speceyes.gateway.reports import Whole, overview

_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""What every view is sent with: nothing from elsewhere, no inline script, no framing."""

Ask = Callable[[], Awaitable[Whole]]
Answer = Callable[[Request], Awaitable[Response]]


def views_of(ask: Ask, models: Sequence[Model], *, version: str) -> Mapping[str, AsgiApp]:
    """Make all views, by path; `ask` gives what all workers did so far."""

    async def metrics(request: Request) -> Response:
        text, content_type = expose(await ask(), models, accept=request.headers.get("accept", ""))
        return Response(text, media_type=None, headers={"content-type": content_type})

    async def stats(_: Request) -> Response:
        shown = overview(await ask(), models, version=version)
        return Response(
            msgspec.json.encode(shown),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )

    views = {"/metrics": _view(metrics), "/v1/stats": _view(stats)}
    for path, (data, content_type) in _assets().items():
        views[path] = _view(_static(data, content_type))
    return views


def _assets() -> dict[str, tuple[bytes, str]]:
    found = {}
    for file in sorted(files("speceyes.gateway.page").iterdir(), key=lambda file: file.name):
        kind = file.name.rpartition(".")[2]
        if kind in _TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            found[path] = (file.read_bytes(), _TYPES[kind])
    return found


def _static(data: bytes, content_type: str) -> Answer:
    headers = {"content-type": content_type, "cache-control": "no-cache"}

    async def static(_: Request) -> Response:
        return Response(data, headers=headers)

    return static


def _view(answer: Answer) -> AsgiApp:
    async def view(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method in {"GET", "HEAD"}:
            response = await answer(request)
        else:
            response = PlainTextResponse(
                "this is for reading; use GET\n", 405, headers={"allow": "GET, HEAD"}
            )
        response.headers.update(SAFE_HEADERS)
        await response(scope, receive, send)

    return view
