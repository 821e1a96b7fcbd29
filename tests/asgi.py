"""Asks an ASGI application in this process, as a server would: with a body, and perhaps not long.

It keeps every message, so that tests see what was sent and when.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import anyio


@dataclass
class Reply:
    """What came back."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.messages if "status" in m), None)

    @property
    def headers(self) -> dict[str, str]:
        told = next((m["headers"] for m in self.messages if "headers" in m), [])
        return {name.decode(): value.decode() for name, value in told}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)

    @property
    def is_whole(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body") is False

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> Any:
        return self.json()["error"]

    def events(self) -> list[Any]:
        """Give the data of a stream, read; comments as they are."""
        told = []
        for block in self.body.decode().split("\n\n"):
            if block.startswith("data: "):
                data = block.removeprefix("data: ")
                told.append(data if data == "[DONE]" else json.loads(data))
            elif block.strip():
                told.append(block)
        return told


class Client:
    """Ask one application. `left` is set when the client leaves before the end."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def post(
        self,
        body: Any,
        *,
        path: str = "/v1/chat/completions",
        leaves_after_s: float | None = None,
        takes_s: float = 0.0,
        reply: Reply | None = None,
        **headers: str,
    ) -> Reply:
        """Send a body, JSON or bytes; headers with _ for -. `takes_s`: to take in each message."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        times_s = (leaves_after_s, takes_s)
        return await self._ask("POST", path, data, headers, times_s, reply or Reply())

    async def get(self, path: str, **headers: str) -> Reply:
        """Read what is at a path."""
        return await self._ask("GET", path, b"", headers, (None, 0.0), Reply())

    async def _ask(self, method, path, data, headers, times_s, reply) -> Reply:
        leaves_after_s, takes_s = times_s
        named = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *named],
            "server": ("test", 80),
        }
        pieces = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pieces:
                return pieces.pop()
            await (anyio.sleep_forever() if leaves_after_s is None else anyio.sleep(leaves_after_s))
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if takes_s:
                await anyio.sleep(takes_s)
            reply.messages.append(message)

        await self.app(scope, receive, send)
        return reply
