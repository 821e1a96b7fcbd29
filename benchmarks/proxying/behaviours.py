"""Clients of every temper, each with what may come of it: patient, slow, rude, mistaken, gone.

It refuses to know who answers. What the server behind is to do stands in the question, as
`upstream` reads it.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from typing import Final, Literal, TypeAlias

from benchmarks.proxying.load import chat_body, http_request

Manner: TypeAlias = Literal["patient", "slow_reader", "slow_writer", "leaves", "cuts_body"]

LEFT: Final = "left"  # what came of a request whose client did not wait
_SMALL: Final = 10_000
_MEGABYTE: Final = 1_000_000
_PATIENCE_S: Final = 90.0
_RESET: Final = struct.pack("ii", 1, 0)  # close by a reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of request, how often it comes, and the statuses that may come of it.

    `mark` is for the upstream. `broken`: the reply may break off.
    """

    name: str
    weight: int
    model: str = "bypass"
    mark: str = ""
    image_bytes: int = 0
    is_stream: bool = False
    manner: Manner = "patient"
    statuses: frozenset[str] = frozenset({"200"})
    body: bytes | None = None

    def request(self) -> bytes:
        """Word the request."""
        body = self.body
        if body is None:
            body = chat_body(
                self.model,
                image_bytes=self.image_bytes,
                is_stream=self.is_stream,
                question=f"What colour is it? {self.mark}",
            )
        return http_request("/v1/chat/completions", body)


_FAILED: Final = frozenset({"500", "502", "503"})
_BROKEN: Final = frozenset({"502", "503", "broken"})
_GONE: Final = frozenset({LEFT})

KINDS: Final = (
    Kind(name="text", weight=20),
    Kind(name="text, stream", weight=10, is_stream=True),
    Kind(name="1 MB", weight=2, image_bytes=_MEGABYTE),
    Kind(name="accepted", weight=15, model="funnel", image_bytes=_SMALL),
    Kind(name="accepted, stream", weight=5, model="funnel", image_bytes=_SMALL, is_stream=True),
    Kind(name="doubted", weight=5, model="funnel", image_bytes=_SMALL, mark="[small:doubt]"),
    Kind(
        name="agent, stream",
        weight=5,
        model="funnel",
        image_bytes=_SMALL,
        mark="[screen:yes][large:slow]",
        is_stream=True,
    ),
    Kind(name="slow upstream", weight=3, mark="[large:slow]", is_stream=True),
    Kind(name="500", weight=2, mark="[large:500]", statuses=_FAILED),
    Kind(name="screen 500", weight=1, model="funnel", image_bytes=_SMALL, mark="[screen:500]"),
    Kind(name="small 500", weight=1, model="funnel", image_bytes=_SMALL, mark="[small:500]"),
    Kind(name="429", weight=1, mark="[large:429]", statuses=frozenset({"429"})),
    Kind(name="reset", weight=2, mark="[large:reset]", statuses=_BROKEN),
    Kind(name="small reset", weight=1, model="funnel", image_bytes=_SMALL, mark="[small:reset]"),
    Kind(name="breaks off", weight=1, mark="[large:break]", is_stream=True, statuses=_BROKEN),
    Kind(
        name="agent breaks off",
        weight=1,
        model="funnel",
        image_bytes=_SMALL,
        mark="[screen:yes][large:break]",
        statuses=frozenset({"200", "502", "503"}),
    ),
    Kind(name="slow reader", weight=2, mark="[large:slow]", is_stream=True, manner="slow_reader"),
    Kind(name="slow writer", weight=2, image_bytes=_SMALL, manner="slow_writer"),
    Kind(name="leaves", weight=3, mark="[large:hold]", manner="leaves", statuses=_GONE),
    Kind(
        name="leaves a stream",
        weight=3,
        mark="[large:drip900]",
        is_stream=True,
        manner="leaves",
        statuses=_GONE,
    ),
    Kind(
        name="leaves a screen",
        weight=2,
        model="funnel",
        image_bytes=_SMALL,
        mark="[screen:hold]",
        manner="leaves",
        statuses=_GONE,
    ),
    Kind(
        name="leaves a speculation",
        weight=2,
        model="funnel",
        image_bytes=_SMALL,
        mark="[small:hold]",
        manner="leaves",
        statuses=_GONE,
    ),
    Kind(
        name="leaves an agent",
        weight=2,
        model="funnel",
        image_bytes=_SMALL,
        mark="[screen:yes][large:drip900]",
        is_stream=True,
        manner="leaves",
        statuses=_GONE,
    ),
    Kind(name="cuts its body", weight=2, image_bytes=_SMALL, manner="cuts_body", statuses=_GONE),
    Kind(name="no JSON", weight=1, body=b'{"model": ', statuses=frozenset({"400"})),
    Kind(name="no such model", weight=1, model="other", statuses=frozenset({"404"})),
)


@dataclass(frozen=True, slots=True)
class Line:
    """Both ends of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def play(kind: Kind, port: int, chance: random.Random) -> str:
    """Behave as this kind does; give the status, LEFT, or `broken` for a reply that broke off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await _MANNERS[kind.manner](kind.request(), Line(reader, writer), chance)
    except (ConnectionError, asyncio.IncompleteReadError):
        return "broken"
    except TimeoutError:
        return "silent"
    finally:
        writer.transport.abort()


async def read_reply(reader: asyncio.StreamReader, pause_s: float = 0.0) -> tuple[str, bytes]:
    """Read one reply whole: its status and its body. With a pause, a few bytes at a time.

    Raises: IncompleteReadError if it breaks off.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = head.split(b" ", 2)[1].decode()
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        return status, await reader.readexactly(length)
    told = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        piece = await reader.readexactly(size)
        await reader.readexactly(2)
        if not size:
            break
        told += piece
        if pause_s:
            await asyncio.sleep(pause_s)
    has_failed = b'data: {"error"' in told
    return ("broken" if has_failed else status), told


async def _patient(
    request: bytes,
    line: Line,
    chance: random.Random,  # noqa: ARG001 - all manners are asked alike
) -> str:
    line.writer.write(request)
    return (await read_reply(line.reader))[0]


async def _slow_reader(
    request: bytes,
    line: Line,
    chance: random.Random,
) -> str:
    line.writer.write(request)
    return (await read_reply(line.reader, chance.uniform(0.05, 0.3)))[0]


async def _slow_writer(
    request: bytes,
    line: Line,
    chance: random.Random,
) -> str:
    step = len(request) // 8 + 1
    for begin in range(0, len(request), step):
        line.writer.write(request[begin : begin + step])
        await asyncio.sleep(chance.uniform(0.02, 0.2))
    return (await read_reply(line.reader))[0]


async def _leaves(
    request: bytes,
    line: Line,
    chance: random.Random,
) -> str:
    line.writer.write(request)
    await asyncio.sleep(chance.uniform(0.2, 1.5))
    _close_rudely(line.writer, chance)
    return LEFT


async def _cuts_body(
    request: bytes,
    line: Line,
    chance: random.Random,
) -> str:
    line.writer.write(request[: len(request) // 2])
    await asyncio.sleep(chance.uniform(0.05, 0.3))
    _close_rudely(line.writer, chance)
    return LEFT


def _close_rudely(writer: asyncio.StreamWriter, chance: random.Random) -> None:
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _RESET)


_Manner: TypeAlias = Callable[[bytes, Line, random.Random], Awaitable[str]]
_MANNERS: Final[dict[Manner, _Manner]] = {
    "patient": _patient,
    "slow_reader": _slow_reader,
    "slow_writer": _slow_writer,
    "leaves": _leaves,
    "cuts_body": _cuts_body,
}
