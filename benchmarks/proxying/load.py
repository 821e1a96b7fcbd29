"""So many clients ask one after the other, each again as soon as it has its reply, and are timed.

It refuses to know who answers. A process of its own: it is told runs as lines of JSON on its
standard input and prints what it measured, a line each. Latencies are exact, from the first byte
sent to the last one read; no run ends before all that it began has ended.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

import httptools
import uvloop
from PIL import Image as Pillow

PATCH_PX: Final = 28  # Qwen's models see pictures in patches of so many pixels
QUESTION: Final = "What colour is the thing in the middle?"
GIVE_UP_S: Final = 120.0  # without a reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement: who asks whom for what, for how long.

    `image_bytes`: the length of the picture's base64, 0 for none. Each connection asks at least
    once. `warm_s` comes before and is not timed.
    """

    port: int
    model: str
    path: str = "/v1/chat/completions"
    image_bytes: int = 0
    is_odd: bool = False
    is_stream: bool = False
    connections: int = 1
    seconds: float = 2.0
    warm_s: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it. `errors` by their status, or name."""

    requests: int
    warm_requests: int
    seconds: float
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    errors: dict[str, int]


@cache
def picture_url(length: int, *, is_odd: bool = False) -> str:
    """Make a picture, of noise that cannot be packed, whose base64 has about this length.

    An odd one is of no size that models see pictures in: the funnel shows it to them resized.
    """
    side = max(PATCH_PX, round((length / 4) ** 0.5))
    if is_odd:
        side += side % PATCH_PX == 0
    else:
        side = round(side / PATCH_PX) * PATCH_PX
    noise = random.Random(length).randbytes(side * side * 3)  # noqa: S311 - nothing secret
    kept = io.BytesIO()
    Pillow.frombytes("RGB", (side, side), noise).save(kept, "PNG", compress_level=0)
    return f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"


def chat_body(
    model: str,
    *,
    image_bytes: int = 0,
    is_odd: bool = False,
    is_stream: bool = False,
    question: str = QUESTION,
) -> bytes:
    """Word a question as clients do."""
    content: Any = question
    if image_bytes:
        shown = {"type": "image_url", "image_url": {"url": picture_url(image_bytes, is_odd=is_odd)}}
        content = [shown, {"type": "text", "text": question}]
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    if is_stream:
        body |= {"stream": True}
    return json.dumps(body, separators=(",", ":")).encode()


def http_request(path: str, body: bytes, *more: str) -> bytes:
    """Lay out a request, ready to be sent."""
    lines = (
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        "authorization: Bearer none",
        f"content-length: {len(body)}",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


class Client(asyncio.Protocol):
    """One connection. `ask` gives the status and how long the whole reply took."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.reply: asyncio.Future[int] | None = None
        self.is_last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """A reply is there whole."""
        self.is_last = not self.parser.should_keep_alive()
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(self.parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        self.is_last = True
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(exc or ConnectionResetError("closed"))

    async def ask(self, request: bytes) -> tuple[int, float]:
        """Send a request, read the reply."""
        self.reply = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        self.transport.write(request)
        async with asyncio.timeout(GIVE_UP_S):
            status = await self.reply
        return status, time.perf_counter() - began_s


async def connect(port: int) -> Client:
    """Open a connection."""
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


async def measure(run: Run) -> Measured:
    """Ask for as long as the run says."""
    body = chat_body(
        run.model, image_bytes=run.image_bytes, is_odd=run.is_odd, is_stream=run.is_stream
    )
    request = http_request(run.path, body)
    warm, _ = await _ask_on(run, request, run.warm_s)
    began_s = time.perf_counter()
    latencies, errors = await _ask_on(run, request, run.seconds)
    took_s = time.perf_counter() - began_s
    latencies.sort()
    return Measured(
        requests=len(latencies),
        warm_requests=len(warm),
        seconds=took_s,
        rps=len(latencies) / took_s,
        p50_ms=quantile_ms(latencies, 0.5),
        p99_ms=quantile_ms(latencies, 0.99),
        errors=dict(errors),
    )


def quantile_ms(ordered_s: list[float], share: float) -> float | None:
    """Give the smallest value that so many are not above; None of nothing."""
    if not ordered_s:
        return None
    place = max(0, -(-len(ordered_s) * int(share * 1000) // 1000) - 1)
    return 1000 * ordered_s[place]


async def _ask_on(run: Run, request: bytes, seconds: float) -> tuple[list[float], Counter[str]]:
    latencies: list[float] = []
    errors = Counter[str]()
    end_s = time.perf_counter() + seconds

    async def one() -> None:
        client = await connect(run.port)
        while True:
            try:
                status, took_s = await client.ask(request)
            except (OSError, TimeoutError) as error:
                errors[type(error).__name__] += 1
                client.transport.abort()
                client.is_last = True
            else:
                if status == 200:
                    latencies.append(took_s)
                else:
                    errors[str(status)] += 1
            if time.perf_counter() >= end_s:
                client.transport.close()
                return
            if client.is_last:
                client = await connect(run.port)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(run.connections):
            tasks.create_task(one())
    return latencies, errors


def main() -> None:
    """Measure run after run."""
    for line in sys.stdin:
        measured = uvloop.run(measure(Run(**json.loads(line))))
        print(json.dumps(asdict(measured)), flush=True)


if __name__ == "__main__":
    main()
