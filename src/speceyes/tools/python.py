"""The python tool runs code that a model wrote, block by block, one process for each query.

It refuses to know protocols, and what the code is: it hands in pictures and blocks, and takes back
words and pixels. What the code does wrong is an observation that its model can act on.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final

import anyio
import anyio.to_thread

from speceyes.errors import PictureTruncated, ToolError
from speceyes.notebook import PYTHON, Notebook
from speceyes.pictures import from_rgb
from speceyes.tools.inside.frames import FrameError
from speceyes.tools.inside.repairs import PATHS
from speceyes.tools.launching import choose_launcher
from speceyes.tools.limits import DEFAULT_LIMITS, SandboxLimits
from speceyes.tools.outcomes import Result, max_body_bytes, read_result
from speceyes.tools.process import CellProcess, Ended
from speceyes.tools.warm_pool import WarmPool
from speceyes.types import Box, Observation, Picture, Pixels, Size, ToolCall

_WARNING: Final = (
    "speceyes: --unsafe-python: code that a model writes runs WITHOUT a sandbox, with your rights: "
    "it can read and change your files, and use the network.\n"
)
_GONE: Final = "all its variables are gone"
_ATTEMPTS: Final = 3
_MAX_TOLD_CHARS: Final = 300


def _as_made(size: Size) -> Size:
    return size


class PythonTool:
    """Run `code`. Implements `types.Tool`; use it within `async with`.

    With `unsafe` code runs in a bare process, which is said on the standard error at every start.
    `view_size` says at which size the model will see a picture that code made; it gets it so, as
    what an engine resizes is not what the zoom tool shows.
    Raises: ConfigError, when entered, where no sandbox can be had.
    """

    name: str = PYTHON

    def __init__(
        self,
        notebook: Notebook,
        limits: SandboxLimits = DEFAULT_LIMITS,
        *,
        unsafe: bool = False,
        view_size: Callable[[Size], Size] = _as_made,
    ) -> None:
        self._notebook = notebook
        self._limits = limits
        self._view_size = view_size
        self._unsafe = unsafe
        self._pool: WarmPool | None = None
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> PythonTool:
        if self._unsafe:
            sys.stderr.write(_WARNING)
        launcher = choose_launcher(self._notebook, self._limits, unsafe=self._unsafe)
        self._pool = await self._opened.enter_async_context(WarmPool(launcher, self._limits))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool = None
        await self._opened.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def open(self, pixels: Pixels) -> AsyncIterator[Blocks]:
        """Take up one query: its process is taken at its first block, and ended on leaving."""
        if self._pool is None:
            raise ToolError("the python tool is not open; use it within `async with`")
        blocks = Blocks(
            self._pool, pixels, self._notebook, limits=self._limits, view_size=self._view_size
        )
        try:
            yield blocks
        finally:
            await blocks.aclose()


class Blocks:
    """The python tool at work on one query. Implements `types.OpenTool`."""

    def __init__(
        self,
        pool: WarmPool,
        pixels: Pixels,
        notebook: Notebook,
        *,
        limits: SandboxLimits,
        view_size: Callable[[Size], Size],
    ) -> None:
        self._pool = pool
        self._pixels = pixels
        self._notebook = notebook
        self._limits = limits
        self._view_size = view_size
        self._cell: CellProcess | None = None

    async def run(self, call: ToolCall) -> Observation:
        """Run one block over the variables of those before it.

        Raises: ToolError if the call holds no code, or no process can be had; PictureError if one
        of the query's pictures is damaged.
        """
        code = call.arguments.get("code")
        if not isinstance(code, str):
            raise ToolError(f"{PYTHON} was called with {code!r} for code; give a string")
        if not code.strip():
            return Observation(error="there is no code in the call")
        if len(code) > self._limits.code_chars:
            return Observation(error=f"the code is over {self._limits.code_chars} characters")
        cell = self._cell or await self._take_cell()
        moved = self._pool.launcher.moved(cell.launch)
        kept = _replaced(code, moved)
        try:
            with anyio.fail_after(self._limits.block_s):
                await cell.say({}, kept.encode("utf-8", "replace"))
                heard = await cell.hear(max_body_bytes=max_body_bytes(self._limits))
            result = read_result(*heard, self._limits)
        except TimeoutError:
            error = f"the code was ended after {self._limits.block_s:g} s; {_GONE}"
        except Ended:
            error = f"the process that ran the code has ended, perhaps for want of memory; {_GONE}"
        except FrameError:
            error = f"the code broke what runs it; {_GONE}"
        else:
            return await self._observe(result, (PATHS,) if kept != code else ())
        await self.aclose()
        return Observation(error=error)

    async def aclose(self) -> None:
        """End the process, if there is one."""
        cell, self._cell = self._cell, None
        if cell is not None:
            await self._pool.release(cell)

    async def _take_cell(self) -> CellProcess:
        pictures = await anyio.to_thread.run_sync(partial(_upright, self._pixels))
        words = ""
        for _ in range(_ATTEMPTS):  # one that waited may have died of what befell the machine
            self._cell = cell = await self._pool.acquire()
            try:
                with anyio.fail_after(self._limits.start_s):
                    await self._hand_in(cell, pictures)
            except (TimeoutError, Ended, FrameError) as error:
                words = cell.words().strip() or f"{type(error).__name__} {error}"
                await self.aclose()
            else:
                return cell
        raise ToolError(f"no process for code could be readied: {words[-_MAX_TOLD_CHARS:]}")

    async def _hand_in(self, cell: CellProcess, pictures: list[tuple[Picture, bytes]]) -> None:
        notebook, moved = self._notebook, self._pool.launcher.moved(cell.launch)
        named = [
            (_replaced(notebook.path_of(index, picture), moved), len(data), notebook.name_of(index))
            for index, (picture, data) in enumerate(pictures)
        ]
        await cell.say({"pictures": named}, b"".join(data for _, data in pictures))
        head, _ = await cell.hear(max_body_bytes=0)  # it is still trusted: no code has run in it
        if head.get("locked") is not self._pool.launcher.walls:
            raise FrameError("it did not lock itself up")
        if head.get("mistake") is not None:
            raise PictureTruncated("picture", f"{head['mistake']}; send it again")

    async def _observe(self, result: Result, repairs: tuple[str, ...]) -> Observation:
        pictures: tuple[Picture, ...] = ()
        if result.pictures:
            encode = partial(_encode, result, self._view_size)
            pictures = await anyio.to_thread.run_sync(encode)
        return Observation(
            text=result.text,
            pictures=pictures,
            boxes_px=(None,) * len(pictures),
            error=result.error,
            repairs=(*repairs, *result.repairs),
        )


def _upright(pixels: Pixels) -> list[tuple[Picture, bytes]]:
    # As they came if every decoder reads them alike, and else as upright PNG in 8-bit RGB.
    return [
        (picture, pixels.cut(Box(0, 0, *picture.size, index)).data)
        for index, picture in enumerate(pixels.pictures)
    ]


def _encode(result: Result, view_size: Callable[[Size], Size]) -> tuple[Picture, ...]:
    return tuple(from_rgb(size, rgb, shown=view_size(size)) for size, rgb in result.pictures)


def _replaced(text: str, moved: Mapping[str, str]) -> str:
    for known, actual in moved.items():
        text = text.replace(known, actual)
    return text
