"""One process that runs one query's code: asked, heard, and ended with all that it began.

It refuses to know what it is asked. It trusts nothing that the process says: messages are bounded,
and what breaks their form is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from speceyes.errors import ToolError
from speceyes.tools.inside.frames import LENGTHS, lengths, pack, unpack_head

_ENDING_S: Final = 10.0  # a killed process is gone in milliseconds, unless the machine is stuck
_PAUSE_S: Final = 0.002
_CHUNK_BYTES: Final = 1 << 20
_MAX_TOLD_BYTES: Final = 4_096


class Ended(Exception):  # noqa: N818 - it says what happened
    """The process is not there any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What came of starting a program, to be closed by who takes it.

    `told` is what it says on its standard error. `info` is what bubblewrap reports by, if it is
    bubblewrap, and `go_ahead` what it waits for, if it does. `folder` goes when the process goes.
    """

    process: subprocess.Popen[bytes]
    stream: socket.socket
    told: int
    info: int | None = None
    go_ahead: int | None = None
    folder: str | None = None


@dataclass(eq=False)
class CellProcess:
    """Speak with a process behind walls, or with a bare one."""

    launch: Launch
    _first: int | None = field(default=None, init=False)  # stands for the first process inside
    _is_closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.launch.stream.settimeout(0.0)

    async def admit(self, map_ids: Callable[[int], None]) -> None:
        """Wait for bubblewrap's report of the first process inside, and let that go on.

        Raises: Ended if there is none; OSError if it may not be mapped.
        """
        launch = self.launch
        if launch.info is None:
            return
        report = b""
        while not report.rstrip().endswith(b"}"):
            await anyio.wait_readable(launch.info)
            part = os.read(launch.info, _MAX_TOLD_BYTES)
            if not part:
                raise Ended
            report += part
        child = int(json.loads(report)["child-pid"])
        self._first = os.pidfd_open(child)
        if launch.go_ahead is not None:
            map_ids(child)
            os.write(launch.go_ahead, b"\n")

    async def say(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Send a message. Raises: Ended."""
        rest = memoryview(pack(head, body))
        while rest:
            await anyio.wait_writable(self.launch.stream)
            try:
                rest = rest[self.launch.stream.send(rest[:_CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended from error

    async def hear(self, *, max_body_bytes: int) -> tuple[dict[str, Any], bytes]:
        """Receive a message. Raises: Ended, FrameError."""
        start = await self._read(LENGTHS.size)
        head_bytes, body_bytes = lengths(start, max_body_bytes=max_body_bytes)
        head = unpack_head(await self._read(head_bytes))
        return head, await self._read(body_bytes)

    def words(self) -> str:
        """Give what it has said on its standard error: why it could not start, say."""
        readable, _, _ = select.select([self.launch.told], [], [], 0)
        told = os.read(self.launch.told, _MAX_TOLD_BYTES) if readable else b""
        return told.decode("utf-8", "replace")

    async def aclose(self) -> None:
        """End it and all that it began, and wait until they are gone; safe to call twice.

        Raises: ToolError if it cannot be ended.
        """
        if self._is_closed:
            return
        self._is_closed = True
        launch = self.launch
        self._kill()
        launch.stream.close()
        for descriptor in (launch.told, launch.info, launch.go_ahead, self._first):
            if descriptor is not None:
                os.close(descriptor)
        with anyio.CancelScope(shield=True), anyio.move_on_after(_ENDING_S):
            # bubblewrap ends after the last process inside has ended.
            while launch.process.poll() is None:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(_PAUSE_S)
        if launch.folder is not None:
            shutil.rmtree(launch.folder, ignore_errors=True)
        if launch.process.returncode is None:
            raise ToolError(f"process {launch.process.pid}, which ran code, cannot be ended")

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._first is not None:  # the kernel ends all in its namespace with it
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            else:  # the first one inside, if there is one already, is still of bubblewrap's group
                os.killpg(self.launch.process.pid, signal.SIGKILL)

    async def _read(self, count: int) -> bytes:
        heard = bytearray()
        while len(heard) < count:
            await anyio.wait_readable(self.launch.stream)
            try:
                part = self.launch.stream.recv(min(_CHUNK_BYTES, count - len(heard)))
            except BlockingIOError:
                continue
            except OSError as error:
                raise Ended from error
            if not part:
                raise Ended
            heard += part
        return bytes(heard)
