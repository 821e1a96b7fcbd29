"""Pictures become the URLs that they are sent in: the very bytes that came, wherever possible.

It refuses to know requests and servers. What every decoder reads alike goes as it is; the rest is
encoded once, in a thread, and kept for the picture's next call.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Final

import anyio
import anyio.to_thread

from speceyes.engines.shelf import Shelf
from speceyes.engines.wire.settings import ImageFormat
from speceyes.pictures import decode, encode_png
from speceyes.types import Picture

_JPEG_QUALITY: Final = 95
_INLINE_BYTES: Final = 256 * 1024  # so few take less time than a thread's turn


class DataUrls:
    """Give pictures as data URLs; each is worked on once while it stays on the shelf.

    Raises: PictureTruncated if one that must be encoded turns out to be damaged.
    """

    def __init__(self, image_format: ImageFormat, max_bytes: int) -> None:
        self._image_format = image_format
        self._shelf: Shelf[str] = Shelf(max_bytes)
        self._under_way: dict[str, anyio.Event] = {}
        self.made = 0  # how many were worked on

    async def show(self, pictures: Iterable[Picture]) -> dict[str, str]:
        """Give the URL of each picture by its digest."""
        return {picture.digest: await self._one(picture) for picture in pictures}

    async def _one(self, picture: Picture) -> str:
        key = picture.digest
        while (url := self._shelf.get(key)) is None and key in self._under_way:
            await self._under_way[key].wait()
        if url is not None:
            return url
        over = self._under_way[key] = anyio.Event()
        try:
            if picture.is_plain and len(picture.data) <= _INLINE_BYTES:
                url = self._make(picture)
            else:
                url = await anyio.to_thread.run_sync(self._make, picture)
            self._shelf.put(key, url, size_bytes=len(url))
            self.made += 1
        finally:
            del self._under_way[key]
            over.set()
        return url

    def _make(self, picture: Picture) -> str:
        sent = picture if picture.is_plain else encode(picture, self._image_format)
        return f"data:{sent.media_type};base64,{base64.b64encode(sent.data).decode('ascii')}"


def encode(picture: Picture, image_format: ImageFormat) -> Picture:
    """Write a picture anew, upright and without alpha, so that every decoder reads it alike."""
    image = decode(picture)
    if image_format == "png":
        return encode_png(image)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return Picture(buffer.getvalue(), "image/jpeg", image.width, image.height)
