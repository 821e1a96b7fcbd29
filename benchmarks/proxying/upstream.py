"""A server of the chat-completions API that costs next to nothing, keeps books and errs on request.

It refuses to know who asks. One process, one thread, no framework: what stands before it is what is
measured. Replies are made ahead; a mark in a request's last words says what else is to happen:
`[large:500]`, `[small:reset]`, `[screen:hold]`, `[large:drip120]`; `GET /ledger` gives the books.

    python benchmarks/proxying/upstream.py [--port 0]    # prints its port

The large model's address is /large/v1, the small one's /small/v1. Who asks for log-probabilities
gets some: the large one then says "no", no tool is needed (after `[screen:yes]`, "yes"); the small
one stands clear of its rivals (after `[small:doubt]` it does not).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import uvloop

Role: TypeAlias = Literal["screen", "small", "large"]

MODEL: Final = "stub"
ANSWER: Final = "<answer>red</answer>"
HOLD_S: Final = 3600.0  # longer than any run: whoever is still there then was forgotten
SLOW_PIECE_S: Final = 0.2
DRIP_PIECE_S: Final = 1.0
_HEAD_BYTES: Final = 1024  # of a body, and of its end, in which its marks are looked for
_KEPT_BYTES: Final = 8192
_WORDS: Final[dict[Role, tuple[str, ...]]] = {
    "screen": ("no",),
    "small": ("red",),
    "large": tuple(re.findall(r"\w+|\W+", ANSWER)),
}
_MARK: Final = re.compile(rb"\[(screen|small|large):([a-z]*)(\d*)\]")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM: Final = re.compile(rb'"stream": ?true')
_LOGPROBS: Final = re.compile(rb'"logprobs": ?true')
_TOP: Final = re.compile(rb'"top_logprobs": ?(\d+)')
_REASONS: Final = {200: b"OK", 404: b"Not Found", 429: b"Too Many Requests", 500: b"Server Error"}
_HEAD: Final = {"id": "chatcmpl-0", "created": 0, "model": MODEL}
END: Final = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Call:
    """What one request asks for, read off its path and its first and last bytes."""

    role: Role
    is_stream: bool
    candidates: int  # log-probabilities asked for; 0: none
    act: str = ""  # the mark's word, and its number
    number: int = 0


def read_call(path: bytes, head: bytes, tail: bytes) -> Call:
    """Read a call. Clients write the fields that count before the messages or after them."""
    wants = _LOGPROBS.search(tail) or _LOGPROBS.search(head)
    top = (_TOP.search(tail) or _TOP.search(head)) if wants else None
    is_small = path.startswith(b"/small")
    role: Role = "small" if is_small else "screen" if wants else "large"
    act, number = "", 0
    for mark in _MARK.finditer(tail):
        if mark[1].decode() == role:
            act, number = mark[2].decode(), int(mark[3] or 0)
    is_stream = bool(_STREAM.search(tail) or _STREAM.search(head))
    return Call(role, is_stream, int(top[1]) if top else 0, act, number)


def words_of(call: Call) -> tuple[str, ...]:
    """Give what is said, piece by piece."""
    return ("yes",) if (call.role, call.act) == ("screen", "yes") else _WORDS[call.role]


def respond(status: int, body: bytes, *more: bytes) -> bytes:
    """Lay out a reply in one piece."""
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json" % (status, _REASONS[status])
    return b"\r\n".join((head, b"content-length: %d" % len(body), *more, b"", body))


def chunk(data: bytes) -> bytes:
    """Lay out a piece of a reply whose length was not told."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    """Lay out one event of a stream."""
    told = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return chunk(b"data: %b\n\n" % json.dumps(told).encode())


@cache
def whole_reply(call: Call) -> bytes:
    """Make a reply in one piece."""
    words = words_of(call)
    rows, finish, usage = _account(call)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(words)},
        "finish_reason": finish,
        "logprobs": {"content": rows} if rows else None,
    }
    told = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": usage}
    return respond(200, json.dumps(told).encode())


@cache
def stream_reply(call: Call) -> tuple[bytes, ...]:
    """Make a reply as a stream: its head, a piece for each word, its end."""
    words = words_of(call)
    rows, finish, usage = _account(call)
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    pieces = []
    for place, word in enumerate(words):
        own = {"content": rows[place : place + 1]} if rows else None
        delta = {"index": 0, "delta": {"content": word}, "logprobs": own, "finish_reason": None}
        pieces.append(event([delta]))
    more = {"content": rows[len(words) :]} if rows else None
    last = {"index": 0, "delta": {}, "logprobs": more, "finish_reason": finish}
    end = event([last]) + event([], usage=usage) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return (STREAM_HEAD + event([first]), *pieces, end)


def _account(call: Call) -> tuple[list[dict[str, Any]], str, dict[str, int]]:
    """Give the log-probabilities, the finish reason and the usage, so that they agree."""
    is_cut = call.role == "screen"  # one token was asked for
    tokens = words_of(call) if is_cut else (*words_of(call), END)
    nearest = -0.5 if call.act == "doubt" else -12.0
    rows = _evidence(tokens, call.candidates, nearest) if call.candidates else []
    usage = {"prompt_tokens": 50, "completion_tokens": len(tokens), "total_tokens": 50}
    usage["total_tokens"] += len(tokens)
    return rows, "length" if is_cut else "stop", usage


def _evidence(tokens: tuple[str, ...], candidates: int, nearest: float) -> list[dict[str, Any]]:
    rows = []
    for token in tokens:
        own = {"token": token, "logprob": -0.01, "bytes": list(token.encode())}
        rivals = [
            {"token": f"~{n}", "logprob": nearest - n / 64, "bytes": None}
            for n in range(candidates - 1)
        ]
        rows.append(own | {"top_logprobs": [own, *rivals]})
    return rows


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
_FAILED: Final = json.dumps({"error": {"message": "on request", "type": "x", "code": 500}}).encode()
_BUSY: Final = json.dumps({"error": {"message": "later", "type": "x", "code": 429}}).encode()
_LISTED: Final = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()


class Books:
    """Count calls: each begun is finished, left by its client, or broken off on request."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.most_active = 0

    def begin(self, role: Role) -> None:
        """A call is there whole."""
        self.counts["begun"] += 1
        self.counts[f"begun_{role}"] += 1
        self.counts["active"] += 1
        self.most_active = max(self.most_active, self.counts["active"])

    def end(self, how: str) -> None:
        """It ended."""
        self.counts[how] += 1
        self.counts["active"] -= 1

    def told(self) -> bytes:
        """Give the books as JSON."""
        names = ("begun", "finished", "left", "broken", "active", "cut_short")
        counts = dict.fromkeys(names, 0) | self.counts
        return json.dumps(counts | {"most_active": self.most_active}).encode()


class Connection(asyncio.Protocol):
    """One connection: request after request, in order."""

    transport: asyncio.Transport

    def __init__(self, books: Books) -> None:
        self.books = books
        self.loop = asyncio.get_running_loop()
        self.call: Call | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._await_head()

    def _await_head(self) -> None:
        self.path, self.left = b"", -1  # bytes of the body to come; -1: the head is not whole
        self.head, self.tail = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a protocol's method
        """Write down that a client left, if it did not have its reply."""
        if self.timer is not None:
            self.timer.cancel()
        if self.call is not None:
            self._done("left")
        elif self.left > 0:
            self.books.counts["cut_short"] += 1

    def data_received(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.left < 0:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            top, data = self.head[:end], self.head[end + 4 :]
            length = _LENGTH.search(top)
            self.left = int(length[1]) if length else 0
            self.path = top.split(b" ", 2)[1]
            self.head = b""
        if len(self.head) < _HEAD_BYTES:
            self.head += data[:_HEAD_BYTES]
        self.left -= len(data)
        self.tail = data[-_KEPT_BYTES:] if len(data) >= _KEPT_BYTES else self.tail + data
        if self.left <= 0:
            self._answer()

    def _answer(self) -> None:
        if not self.path.endswith(b"/chat/completions"):
            told = self.books.told() if self.path == b"/ledger" else _LISTED
            self._await_head()
            self.transport.write(respond(200, told))
            return
        call = read_call(self.path, self.head, self.tail[-_KEPT_BYTES:])
        self._await_head()
        self.call = call
        self.books.begin(call.role)
        match call.act:
            case "hold":
                self.timer = self.loop.call_later(HOLD_S, self._break_off)
            case "reset":
                self._break_off()
            case "break":
                self._send_part(call)
            case "":
                if call.number:
                    status, told = (429, _BUSY) if call.number == 429 else (500, _FAILED)
                    self._finish(respond(status, told))
                else:
                    self._reply(call)
            case "slow" | "drip":
                self._send_slowly(call)
            case _:
                self._reply(call)

    def _reply(self, call: Call) -> None:
        plain = Call(call.role, call.is_stream, call.candidates, call.act)
        reply = b"".join(stream_reply(plain)) if call.is_stream else whole_reply(plain)
        self._finish(reply)

    def _send_part(self, call: Call) -> None:
        part = stream_reply(call)[0] if call.is_stream else whole_reply(call)[:-20]
        self.transport.write(part)
        self.timer = self.loop.call_later(0.05, self._break_off)

    def _send_slowly(self, call: Call) -> None:
        """Say it piece by piece: `slow` in about two seconds, `dripN` in N, a piece a second."""
        is_drip = call.act == "drip"
        head, *words, end = stream_reply(Call(call.role, call.is_stream, call.candidates))
        if not call.is_stream:
            pause_s = float(call.number or 1) if is_drip else 1.0
            self.timer = self.loop.call_later(pause_s, self._reply, call)
            return
        pause_s = DRIP_PIECE_S if is_drip else SLOW_PIECE_S
        count = (call.number or 1) if is_drip else len(words)
        said = iter([*(words[n % len(words)] for n in range(count)), end])
        self.transport.write(head)
        due_s = self.loop.time()

        def go_on() -> None:
            nonlocal due_s
            piece = next(said)
            if piece is end:
                self._finish(end)
                return
            self.transport.write(piece)
            due_s += pause_s
            self.timer = self.loop.call_at(due_s, go_on)

        go_on()

    def _break_off(self) -> None:
        if self.call is not None:
            self._done("broken")
        self.transport.abort()

    def _finish(self, reply: bytes) -> None:
        self._done("finished")
        self.transport.write(reply)

    def _done(self, how: str) -> None:
        self.call, self.timer = None, None
        self.books.end(how)


async def serve(port: int) -> None:
    """Serve until told to end."""
    loop, books, ended = asyncio.get_running_loop(), Books(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(
        lambda: Connection(books), "127.0.0.1", port, backlog=4096, reuse_address=True
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    """Read the flags, serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
