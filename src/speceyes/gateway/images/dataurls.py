"""A data: URL becomes a picture here: strictly read, bounded before it is decoded, never rendered.

It refuses to know requests and servers. Long ones are decoded in a thread, piece by piece, so that
other requests go on meanwhile.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

import anyio.to_thread
import msgspec

from speceyes.errors import (
    PictureError,
    PictureTooLarge,
    PictureUnknown,
    RequestMalformed,
)
from speceyes.gateway.settings import ImageSettings
from speceyes.pictures import PictureLimits, open_picture
from speceyes.types import Picture

_HEAD: Final = re.compile(rb"\"data:image/[a-z0-9][a-z0-9.+-]{0,63};base64,", re.IGNORECASE)
_FORM: Final = "write data:image/TYPE;base64,DATA"
_INLINE_BYTES: Final = 64 * 1024  # so few take less time than a thread's turn
_PIECE_BYTES: Final = 256 * 1024  # of base64, a multiple of 4; the interpreter is held so long
_PADDING: Final = ord("=")
_FROM_BASE64: Final = msgspec.json.Decoder(bytes)
_TEXT: Final = msgspec.json.Decoder(str)


def is_data_url(url: bytes) -> bool:
    """Say if a JSON string is a data: URL."""
    return url[:6].lower() == b'"data:'


async def open_data_url(url: bytes, field: str, settings: ImageSettings) -> Picture:
    """Take up a picture from a data: URL, a JSON string as it stands in the request.

    What the picture is, its bytes say; of the URL's own word for it only that it is an image
    counts. Raises: RequestMalformed, PictureError.
    """
    if len(url) <= _INLINE_BYTES:
        return _open(url, field, settings)
    return await anyio.to_thread.run_sync(partial(_open, url, field, settings))


def open_bytes(data: bytes, field: str, settings: ImageSettings) -> Picture:
    """Take up a picture whose header is sound and within the limits. Raises: PictureError."""
    limits = PictureLimits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes)
    try:
        picture = open_picture(data, limits)
    except PictureError as error:
        raise type(error)(field, error.message) from error
    if picture.media_type.removeprefix("image/") not in settings.formats:
        raise PictureUnknown(
            field, f"is {picture.media_type}; send one of {', '.join(settings.formats)}"
        )
    return picture


def _open(url: bytes, field: str, settings: ImageSettings) -> Picture:
    if b"\\" in url:  # some write every / as \/
        url = b'"%b"' % _text(url, field).encode()
    head = _HEAD.match(url)
    if head is None:
        raise RequestMalformed(field, f"is no data: URL of an image in base64; {_FORM}")
    data = memoryview(url)[head.end() : -1]
    if len(data) // 4 * 3 - 2 > settings.max_bytes:
        raise PictureTooLarge(field, f"is above {settings.max_bytes} bytes; send a smaller one")
    return open_bytes(_decoded(data, field), field, settings)


def _decoded(data: memoryview, field: str) -> bytes:
    pieces: list[bytes] = []
    for at in range(0, len(data), _PIECE_BYTES):
        if pieces and data[at - 1] == _PADDING:
            raise _unsound(field)
        try:
            pieces.append(_FROM_BASE64.decode(b'"%b"' % bytes(data[at : at + _PIECE_BYTES])))
        except msgspec.DecodeError:
            raise _unsound(field) from None
    return b"".join(pieces)


def _text(url: bytes, field: str) -> str:
    try:
        return _TEXT.decode(url)
    except msgspec.DecodeError:
        raise RequestMalformed(field, f"is no sound string; {_FORM}") from None


def _unsound(field: str) -> RequestMalformed:
    return RequestMalformed(
        field,
        "its base64 is unsound: only A-Z a-z 0-9 + / without line breaks, padded with = to a "
        "multiple of 4; was it cut, or made for URLs?",
    )
