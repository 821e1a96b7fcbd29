"""Processes are started ahead, so that a query's first block need not wait for one.

It refuses to know what runs in them. Each serves one query and is ended after it; none is reused.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from speceyes.errors import ConfigError, ToolError
from speceyes.tools.inside.frames import FrameError
from speceyes.tools.launching import Launcher
from speceyes.tools.limits import SandboxLimits
from speceyes.tools.process import CellProcess, Ended
from speceyes.tools.refusals import SWITCHES, refused


class WarmPool:
    """Keep a few processes waiting, and bound how many there are. Use it within `async with`."""

    def __init__(self, launcher: Launcher, limits: SandboxLimits) -> None:
        self.launcher = launcher
        self._limits = limits
        self._stock: deque[CellProcess | ConfigError] = deque()
        self._in_stock = anyio.Semaphore(0)
        self._wanted = anyio.Semaphore(limits.warm)
        self._room = anyio.Semaphore(limits.at_once)
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> WarmPool:
        """Start the first ones. Raises: ConfigError with the mend if none can be started here."""
        await self._wanted.acquire()
        self._put(await self._prepare())
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._keep_stocked)
        return self

    async def __aexit__(self, *raised: object) -> None:
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)
        finally:  # also when whoever opened it was cancelled
            while self._stock:
                cell = self._stock.popleft()
                if isinstance(cell, CellProcess):
                    await cell.aclose()

    async def acquire(self) -> CellProcess:
        """Take a process that waits; it is the taker's until `release`. Raises: ToolError."""
        await self._room.acquire()
        try:
            await self._in_stock.acquire()
        except BaseException:
            self._room.release()
            raise
        cell = self._stock.popleft()
        self._wanted.release()
        if isinstance(cell, ConfigError):
            self._room.release()
            raise ToolError(cell.message)
        return cell

    async def release(self, cell: CellProcess) -> None:
        """End a process, with all that it began."""
        try:
            await cell.aclose()
        finally:
            self._room.release()

    async def _keep_stocked(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wanted.acquire()
                tasks.start_soon(self._stock_one)

    async def _stock_one(self) -> None:
        try:
            self._put(await self._prepare())
        except ConfigError as error:
            self._put(error)  # for who asks next

    def _put(self, cell: CellProcess | ConfigError) -> None:
        self._stock.append(cell)
        self._in_stock.release()

    async def _prepare(self) -> CellProcess:
        try:
            cell = CellProcess(self.launcher.launch())
        except OSError as error:
            raise refused(f"{error.filename or 'a process'}: {error.strerror}", {}) from error
        try:
            with anyio.fail_after(self._limits.start_s):
                await cell.admit(self.launcher.map_ids)
                await cell.hear(max_body_bytes=0)
        except (Ended, FrameError, OSError, TimeoutError) as error:
            words = cell.words() or str(error)
            await cell.aclose()
            raise refused(words, _read_switches()) from error
        except BaseException:
            await cell.aclose()
            raise
        return cell


def _read_switches() -> dict[str, str]:
    found = {}
    for name in SWITCHES:
        with suppress(OSError):
            found[name] = Path("/proc/sys", name.replace(".", "/")).read_text("ascii").strip()
    return found
