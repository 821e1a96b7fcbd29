"""A proxy in front of a real server: it alters what goes up, or falsifies what comes down.

Each falsehood is one way in which engines are known to spoil log-probabilities, and has the gate's
reason that must name it.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from aiohttp import web

from speceyes.events import Reason

Json = dict[str, Any]
Entries = list[Json]
_UPSTREAM: Final = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True)
class Falsehood:
    """What is done to one whole reply, and the reason that the gate must give."""

    name: str
    falsify: Callable[[Json], None]
    reason: Reason


def keep(_: Json) -> None:
    """Leave it as it is."""


@dataclass(eq=False)
class Proxy:
    """Where it listens, and how many replies passed through it; a list of models is none."""

    url: str
    replies: int = 0


@asynccontextmanager
async def proxying(
    upstream: str,
    *,
    ask: Callable[[Json], None] = keep,
    falsify: Callable[[Json], None] | None = None,
) -> AsyncIterator[Proxy]:
    """Pass all requests on, `ask` having altered their bodies.

    With `falsify` replies must come whole, not as streams; without it they pass as they come.
    """
    proxy = Proxy("")
    async with aiohttp.ClientSession(timeout=_UPSTREAM) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            if body:
                asked = json.loads(body)
                ask(asked)
                body = json.dumps(asked).encode()
            url = upstream + request.path.removeprefix("/v1")
            async with session.request(
                request.method, url, data=body, headers={"Content-Type": "application/json"}
            ) as reply:
                proxy.replies += request.method == "POST"
                if falsify is not None and reply.status == 200 and request.method == "POST":
                    told = await reply.json()
                    falsify(told)
                    # Python writes NaN and Infinity as some servers do: as they are no JSON.
                    return web.Response(text=json.dumps(told), content_type="application/json")
                return await _relay(request, reply)

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield proxy
        finally:
            await runner.cleanup()


async def _relay(request: web.Request, reply: aiohttp.ClientResponse) -> web.StreamResponse:
    relayed = web.StreamResponse(
        status=reply.status, headers={"Content-Type": reply.headers["Content-Type"]}
    )
    await relayed.prepare(request)
    async for piece in reply.content.iter_any():
        await relayed.write(piece)
    await relayed.write_eof()
    return relayed


def _entries(change: Callable[[Entries], Entries | None]) -> Callable[[Json], None]:
    def falsify(reply: Json) -> None:
        logprobs = reply["choices"][0]["logprobs"]
        logprobs["content"] = change(copy.deepcopy(logprobs["content"]))

    return falsify


def _rivals(change: Callable[[int, float], float | None]) -> Callable[[Json], None]:
    """Change each candidate but the first, given its place and its log-probability."""

    def falsify(entries: Entries) -> Entries:
        for entry in entries:
            for place, candidate in enumerate(entry["top_logprobs"][1:], start=1):
                candidate["logprob"] = change(place, candidate["logprob"])
        return entries

    return _entries(falsify)


def _without(reply: Json) -> None:
    reply["choices"][0]["logprobs"] = None


def _fewer(entries: Entries) -> Entries:
    entries[0]["top_logprobs"].pop()  # one row short of one candidate is enough
    return entries


def _zeroed(entries: Entries) -> Entries:
    for entry in entries:
        entry["logprob"] = entry["top_logprobs"][0]["logprob"] = 0.0
    return entries


def _sampled(entries: Entries) -> Entries:
    entries[0]["logprob"] = entries[0]["top_logprobs"][1]["logprob"]
    return entries


def _cut_off(reply: Json) -> None:
    reply["choices"][0]["finish_reason"] = "length"


def _second(value: float | None) -> Callable[[Json], None]:
    return _rivals(lambda place, logp: value if place == 2 else logp)


def _last_again(entries: Entries) -> Entries:
    return [*entries, entries[-1]]


FALSEHOODS: Final = (
    Falsehood("missing", _without, "no_evidence"),
    Falsehood("empty", _entries(lambda _: []), "no_evidence"),
    Falsehood("fewer than K", _entries(_fewer), "too_few_candidates"),
    Falsehood("shorter", _entries(lambda entries: entries[1:]), "length_mismatch"),
    Falsehood("longer", _entries(_last_again), "length_mismatch"),
    Falsehood("not a number", _second(None), "non_finite"),
    Falsehood("infinite, so no JSON", _second(math.inf), "non_finite"),
    Falsehood("masked", _rivals(lambda place, logp: -9999.0 if place > 3 else logp), "masked"),
    Falsehood("constant", _rivals(lambda _place, _logp: -12.0), "constant"),
    Falsehood("all chosen exactly 0", _entries(_zeroed), "zeroed"),
    Falsehood("not greedy", _entries(_sampled), "not_greedy"),
    Falsehood("truncated", _cut_off, "truncated"),
)
