"""Patches are a picture as the vision tower takes it: cut up once per engine, then kept.

It refuses to know the model and the prompt. It is called from many threads at once.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from speceyes.engines.shelf import Shelf
from speceyes.errors import PictureShapeError
from speceyes.pictures import decode
from speceyes.types import Picture

Grid: TypeAlias = tuple[int, int, int]  # (frames, rows, columns), in patches


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Hold one picture cut into patches, each merge x merge of which become one token."""

    digest: str
    pixels: torch.Tensor  # (rows * columns, patch values) float32
    grid: Grid
    merge: int

    @property
    def token_grid(self) -> Grid:
        """Frames, rows and columns in tokens."""
        frames, rows, columns = self.grid
        return (frames, rows // self.merge, columns // self.merge)

    @property
    def token_count(self) -> int:
        """How many tokens of the prompt stand for the picture."""
        return math.prod(self.token_grid)


class PatchCutter:
    """Cut pictures into patches with a checkpoint's image processor, each picture once.

    Who asks for a picture that is being cut waits for that cut. Recent ones are kept, by digest,
    up to `limit_bytes`.
    """

    def __init__(self, image_processor: Any, *, merge: int, limit_bytes: int) -> None:
        self._processor = image_processor
        self._merge = merge
        self._shelf: Shelf[Patches] = Shelf(limit_bytes)
        self._underway: dict[str, Future[Patches]] = {}
        self._lock = threading.Lock()

    def cut(self, picture: Picture) -> Patches:
        """Decode, resize and cut a picture. Raises: PictureError, by kind."""
        with self._lock:
            kept = self._shelf.get(picture.digest)
            if kept is not None:
                return kept
            theirs = self._underway.get(picture.digest)
            mine: Future[Patches] = Future()
            if theirs is None:
                self._underway[picture.digest] = mine
        return theirs.result() if theirs is not None else self._cut_for_all(picture, mine)

    def forget(self) -> None:
        """Let go of all patches kept."""
        with self._lock:
            self._shelf.clear()

    def _cut_for_all(self, picture: Picture, waited_for: Future[Patches]) -> Patches:
        try:
            patches = self._cut(picture)
        except BaseException as error:
            with self._lock:
                del self._underway[picture.digest]
            waited_for.set_exception(error)
            raise
        with self._lock:
            del self._underway[picture.digest]
            self._shelf.put(picture.digest, patches, size_bytes=int(patches.pixels.nbytes))
        waited_for.set_result(patches)
        return patches

    def _cut(self, picture: Picture) -> Patches:
        image = decode(picture)
        try:
            cut = self._processor(images=[image], return_tensors="pt")
        except ValueError as error:  # the processor's own bounds, such as its widest aspect
            raise PictureShapeError("picture", f"{picture.size} px: {error}") from error
        frames, rows, columns = (int(n) for n in cut["image_grid_thw"][0])
        pixels = cut["pixel_values"].to(torch.float32)
        return Patches(picture.digest, pixels, (frames, rows, columns), self._merge)
