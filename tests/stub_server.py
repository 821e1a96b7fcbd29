"""A server of the chat-completions API in this process, on loopback, that does as its script says.

It can do all that real ones do, and all that they should not: refuse, stall, break off, lie. The
tokens, end token, usage and stop reason of `say` are told as vLLM tells them.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

END = "<|im_end|>"
Body = dict[str, Any]


@dataclass(frozen=True)
class Say:
    """One reply. `entries` are those of logprobs.content; `pieces` how the text is streamed."""

    pieces: tuple[str, ...]
    entries: tuple[Body, ...] = ()
    finish: str = "stop"
    choice: Body = field(default_factory=lambda: {"stop_reason": None})
    usage: Body | None = None
    calls: tuple[Body, ...] = ()
    token_s: float = 0.0
    wait_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True)
class Raw:
    """Any other reply, byte for byte."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    pieces: tuple[bytes, ...] = ()  # sent one by one; then the connection breaks, if so told
    breaks_off: bool = False
    hold_s: float = 0.0  # how long the connection stays after the last piece


@dataclass(frozen=True)
class Silence:
    """Take the request and say nothing."""

    seconds: float = 30.0


@dataclass(frozen=True)
class HangUp:
    """Close the connection without a word."""


Reply = Say | Raw | Silence | HangUp
Script = Callable[[Body], Reply]


def refusal(status: int, message: str, **more: Any) -> Raw:
    """Refuse as vLLM does; `headers` is kept, the rest is told in the error."""
    headers = tuple(more.pop("headers", {}).items())
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status} | more
    return Raw(status, json.dumps({"error": error}).encode(), headers=headers)


def entry(token: str, k: int, *, top: float = -0.05, sampled_first: bool = True) -> Body:
    """Tell one token: it, then k - 1 rivals, the nearest at -6 and each a bit farther."""
    rivals = [
        {"token": f"~{n}", "logprob": -6.0 - 0.5 * math.sqrt(n), "bytes": None}
        for n in range(k - 1)
    ]
    own = {"token": token, "logprob": top, "bytes": list(token.encode())}
    listed = [own, *rivals] if sampled_first else [*rivals, own]
    return own | {"top_logprobs": listed}


def say(body: Body, tokens: list[str], *, prompt_tokens: int = 50, **more: Any) -> Say:
    """Say these tokens, and then the end token, as far as the request's limits and stops let it."""
    limit, stops, k = body["max_tokens"], body.get("stop", []), body.get("top_logprobs", 0)
    said, text, stopped = [], "", None
    for token in tokens[:limit]:
        said.append(token)
        text += token
        stopped = next((stop for stop in stops if stop in text), None)
        if stopped is not None:
            text = text[: text.index(stopped)]
            break
    ended = stopped is None and len(tokens) < limit
    told = [*said, END] if ended else said
    pieces = [*said] if stopped is None else [text]
    return Say(
        pieces=tuple(pieces),
        entries=tuple(entry(token, k) for token in told) if k else (),
        finish="stop" if ended or stopped is not None else "length",
        choice={"stop_reason": stopped},
        usage={
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(told),
            "total_tokens": prompt_tokens + len(told),
            "prompt_tokens_details": {"cached_tokens": 32},
        },
        **more,
    )


def image_urls(body: Body) -> list[str]:
    """Give the URLs of a request's pictures."""
    return [
        part["image_url"]["url"]
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def last_text(body: Body) -> str:
    """Give the text of a request's last message."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


class StubServer:
    """Serve a script. It keeps what was asked of it, and counts who went away before the end."""

    def __init__(self, script: Script, *, models: tuple[Body, ...] | None = None) -> None:
        self.script = script
        self.models = ({"id": "stub", "max_model_len": 2048},) if models is None else models
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.lookups = 0
        self.finished = 0
        self.disconnects = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._wanted = 0
        self._enough = asyncio.Event()
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def connections(self) -> int:
        """Count the connections that are open."""
        server = self._runner.server if self._runner else None
        return len(server.connections) if server else 0

    async def start(self) -> None:
        """Listen; after a stop, at the same port again."""
        app = web.Application(client_max_size=256 * 1024 * 1024)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, backlog=2048)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Die: open connections break."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    def hold(self, count: int) -> None:
        """Reply to nobody until so many requests are in flight together, and then to all."""
        self._wanted, self._enough = count, asyncio.Event()

    def release(self) -> None:
        """Reply to all that are held, and hold no more."""
        self._wanted = 0
        self._enough.set()

    async def until(self, is_so: Callable[[StubServer], bool], *, within_s: float = 5.0) -> None:
        """Wait until something is so of this server."""
        async with asyncio.timeout(within_s):
            while not is_so(self):  # noqa: ASYNC110 - connections have no event to wait for
                await asyncio.sleep(0.002)

    async def _list(self, request: web.Request) -> web.Response:
        self.lookups += 1
        return web.json_response({"object": "list", "data": list(self.models)})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            if self.in_flight >= self._wanted:
                self._enough.set()
            await self._enough.wait()
            response = await self._reply(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.disconnects += 1
            raise
        else:
            self.finished += 1
            return response
        finally:
            self.in_flight -= 1

    async def _reply(self, request: web.Request, body: Body) -> web.StreamResponse:
        reply = self.script(body)
        match reply:
            case Say():
                await asyncio.sleep(reply.wait_s)
                send = _stream if body.get("stream") else _whole
                return await send(request, reply)
            case Raw():
                return await _raw(request, reply)
            case Silence(seconds=seconds):
                await asyncio.sleep(seconds)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@asynccontextmanager
async def serving(script: Script, **more: Any):
    """Serve a script for a while."""
    server = StubServer(script, **more)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def altered(reply: Say, change: Callable[[list[Body]], list[Body]]) -> Say:
    """Corrupt the entries of a reply, as a broken server or proxy would."""
    copied = json.loads(json.dumps(reply.entries))
    return replace(reply, entries=tuple(change(copied)))


async def _whole(request: web.Request, reply: Say) -> web.Response:
    await asyncio.sleep(reply.token_s * len(reply.pieces))
    message: Body = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = list(reply.calls)
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": reply.finish,
        "logprobs": {"content": list(reply.entries)} if reply.entries else None,
    }
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice | reply.choice]}
    if reply.usage is not None:
        whole["usage"] = reply.usage
    return web.json_response(whole)


async def _stream(request: web.Request, reply: Say) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)

    async def tell(choices: list[Body], **more: Any) -> None:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices} | more
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

    await tell([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    rows = list(reply.entries)
    for piece in reply.pieces:
        await asyncio.sleep(reply.token_s)
        told = {"content": [rows.pop(0)]} if rows else None
        delta = {"content": piece}
        await tell([{"index": 0, "delta": delta, "logprobs": told, "finish_reason": None}])
    for place, call in enumerate(reply.calls):
        head = {"index": place, "id": call["id"], "type": "function"}
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        half = len(arguments) // 2
        for part in (
            head | {"function": {"name": name, "arguments": arguments[:half]}},
            {"index": place, "function": {"arguments": arguments[half:]}},
        ):
            await tell([{"index": 0, "delta": {"tool_calls": [part]}}])
    last = {"index": 0, "delta": {}, "finish_reason": reply.finish}
    last["logprobs"] = {"content": rows} if rows else None
    await tell([last | reply.choice])
    if reply.usage is not None:
        await tell([], usage=reply.usage)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _raw(request: web.Request, reply: Raw) -> web.StreamResponse:
    headers = {"content-type": reply.content_type} | dict(reply.headers)
    if not reply.pieces and not reply.breaks_off:
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    await response.prepare(request)
    for piece in reply.pieces:
        await response.write(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(reply.hold_s)
    if reply.breaks_off and request.transport is not None:
        await asyncio.sleep(0.02)
        request.transport.abort()
    else:
        await response.write_eof()
    return response
