"""Zoom cuts a part out of an original picture, so that the model sees it at full resolution.

It refuses to know protocols and models: boxes come in original pixels, whoever asked for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from speceyes.errors import PictureShapeError, ToolError
from speceyes.types import Box, Observation, Pixels, ToolCall


@dataclass(frozen=True, slots=True)
class ZoomTool:
    """Cut out `box`, at `size` if that is given. Implements `types.Tool`.

    Invariants: the crop comes from the original's pixels, never from a view of it.
    """

    name: str = "image_zoom_in_tool"

    @asynccontextmanager
    async def open(self, pixels: Pixels) -> AsyncIterator[Zoom]:
        """Take up one query's pictures; nothing is kept."""
        yield Zoom(self.name, pixels)


@dataclass(frozen=True, slots=True)
class Zoom:
    """The zoom tool at work on one query. Implements `types.OpenTool`."""

    name: str
    pixels: Pixels

    async def run(self, call: ToolCall) -> Observation:
        """Cut once. A box that is not inside its picture is the model's fault: an observation.

        Raises: ToolError if the call holds no Box; PictureError if the picture is damaged.
        """
        box, size = call.arguments.get("box"), call.arguments.get("size")
        if not isinstance(box, Box):
            raise ToolError(f"{self.name} was called with {box!r} for a box; give a types.Box")
        try:
            crop = self.pixels.cut(box, size)
        except PictureShapeError as error:
            return Observation(error=f"that part cannot be shown: {error.message}")
        return Observation(pictures=(crop,), boxes_px=(box,))
