"""Pictures come in here: their headers are read, their limits held, their pixels decoded once.

It refuses to know models and prompts, and it trusts no byte: only a few formats are opened at all.
Pillow is loaded when the first picture comes, not before.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from speceyes.errors import (
    ConfigError,
    PictureEmpty,
    PictureError,
    PictureShapeError,
    PictureTooLarge,
    PictureTruncated,
    PictureUnknown,
    PictureUnreadable,
)
from speceyes.types import Box, Picture, Size

if TYPE_CHECKING:
    from PIL import Image as Pillow

    PillowImage: TypeAlias = Pillow.Image

# No EPS, PDF, SVG or WMF: they run interpreters.
_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_PLAIN_TYPES: Final = frozenset({"image/jpeg", "image/png", "image/webp"})
_ORIENTATION_TAG: Final = 0x0112
_QUARTER_TURNS: Final = frozenset({5, 6, 7, 8})
_PNG_EXIF_MARKS: Final = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_PNG_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_PNG_CHUNKS: Final = 20_000  # of more than these each is not looked at
_FIELD: Final = "picture"
_HEADER_STEPS: Final = 10_000
_BYTES_A_STEP: Final = 64


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Bound what a picture may be. Pillow itself refuses anything above 178 956 970 pixels.

    `max_aspect`: longer side over shorter side, as in Qwen's smart-resize.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 64 * 1024 * 1024
    max_aspect: float = 200.0

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_aspect"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"pictures.{name}", f"{getattr(self, name)} is below 1")


_DEFAULT_LIMITS: Final = PictureLimits()


def open_picture(
    source: str | PathLike[str] | bytes, limits: PictureLimits = _DEFAULT_LIMITS
) -> Picture:
    """Take up a picture from a file or from bytes; its header is read, its pixels are not.

    Raises: PictureError, by kind: unreadable, empty, unknown format, too large, of a bad shape.
    Truncated pixels show when they are decoded.
    """
    data = bytes(source) if isinstance(source, bytes) else _read(Path(source), limits)
    if not data:
        raise PictureEmpty(_FIELD, "has no bytes; was the upload or download complete?")
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), limits)
    file = _Header(data)
    image = _header(file)
    try:
        width_px, height_px = image.size
        _check_shape(image.size, limits)
        # An MPO, which phones write, is a JPEG with more behind it that other decoders ignore.
        is_animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        file.is_bounded = False
        rotation = _rotation(image, data)
    except PictureError:
        raise
    except Exception as error:  # Pillow raises anything on hostile headers
        raise _truncated(error) from error
    if rotation in _QUARTER_TURNS:
        width_px, height_px = height_px, width_px
    media_type = _media_type(image.format)
    is_plain = (
        image.mode in {"RGB", "L"}
        and "transparency" not in image.info
        and rotation == 1
        and not is_animated
        and media_type in _PLAIN_TYPES
    )
    return Picture(data, media_type, width_px, height_px, is_plain)


def decode(picture: Picture, *, least_scale: float = 1.0) -> PillowImage:
    """Decode a picture to 8-bit RGB as a person sees it.

    EXIF rotation applied, alpha laid over white, 16 bit scaled down, the first frame of an
    animation. With a `least_scale` below 1 a JPEG may come smaller, though no smaller than that:
    a large one then takes a fraction of the time and memory.
    Raises: PictureTruncated if the pixels end early or are damaged.
    """
    from PIL import ImageOps

    image = _header(io.BytesIO(picture.data))
    try:
        width_px, height_px = image.size
        if least_scale < 1.0:
            image.draft(
                None, (math.ceil(width_px * least_scale), math.ceil(height_px * least_scale))
            )
        is_reduced = image.size != (width_px, height_px)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # without it, a copy even if all is upright
        rgb = _to_rgb(image)
    except PictureError:
        raise
    except Exception as error:  # Pillow raises anything on damaged pixels
        raise _truncated(error) from error
    if rgb.size != picture.size and not is_reduced:
        raise PictureTruncated(_FIELD, f"its header says {picture.size}, its pixels {rgb.size}")
    rgb.info.clear()
    return rgb


def encode_png(image: PillowImage) -> Picture:
    """Make a picture of an RGB image, without loss."""
    rgb = image if image.mode == "RGB" else _to_rgb(image)
    buffer = io.BytesIO()
    rgb.save(buffer, format="PNG", compress_level=1)  # level 1: speed counts, bytes hardly do
    return Picture(buffer.getvalue(), "image/png", rgb.width, rgb.height)


def from_rgb(size: Size, rgb: bytes) -> Picture:
    """Make a picture of plain pixels: 8-bit RGB, row after row."""
    from PIL import Image as Pillow

    return encode_png(Pillow.frombytes("RGB", size, rgb))


class DecodedPictures:
    """Hold one query's pictures, decoding each at most once. Implements `types.Pixels`."""

    def __init__(self, pictures: tuple[Picture, ...]) -> None:
        self._pictures = pictures
        self._images: dict[int, PillowImage] = {}
        self._lock = threading.Lock()  # tools may run in threads

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The originals, in the query's order."""
        return self._pictures

    def image(self, index: int) -> PillowImage:
        """Give one original as an upright RGB image; it is shared, so do not write into it."""
        with self._lock:
            if index not in self._images:
                self._images[index] = decode(self._pictures[index])
            return self._images[index]

    def cut(self, box: Box, size: Size | None = None) -> Picture:
        """Cut a box out of an original, resized if `size` is given.

        Invariants: a whole, plain picture at its own size comes back as the bytes that came in.
        Raises: PictureShapeError if the box is not inside its picture or has no area.
        """
        from PIL import Image as Pillow

        original = self._original(box)
        size = size or box.size
        if min(size) < 1:
            raise PictureShapeError("size", f"{size} has a side of zero")
        if original.is_plain and box.size == size == original.size:
            return original
        edges = (box.left_px, box.top_px, box.right_px, box.bottom_px)
        image = self.image(box.picture_index)
        if box.size != original.size:  # cropped first: a resize with a box blends in its outside
            image = image.crop(edges)
        if size != box.size:
            image = image.resize(size, Pillow.Resampling.BICUBIC, reducing_gap=3.0)
        return encode_png(image)

    def _original(self, box: Box) -> Picture:
        if not 0 <= box.picture_index < len(self._pictures):
            raise PictureShapeError("box", f"there is no picture {box.picture_index}")
        original = self._pictures[box.picture_index]
        inside_x = 0 <= box.left_px < box.right_px <= original.width_px
        inside_y = 0 <= box.top_px < box.bottom_px <= original.height_px
        if not (inside_x and inside_y):
            raise PictureShapeError("box", f"{box} is not inside {original.size}, or has no area")
        return original


def _read(path: Path, limits: PictureLimits) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        raise PictureUnreadable(_FIELD, f"{path} cannot be read: {error}") from error
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), limits)
    return data


class _Header(io.BytesIO):
    """Bytes that may be read in so many steps, enough for any honest header.

    A picture of nothing but padding, or of parts that hold nothing, is read byte by byte otherwise:
    seconds for each megabyte.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._steps_left = _HEADER_STEPS + len(data) // _BYTES_A_STEP
        self.is_bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_bounded:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise ValueError("its header does not come to an end")
        return super().read(size)


def _header(file: io.BytesIO) -> PillowImage:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():  # between 89 and 179 Mpx Pillow warns; limits decide here
            warnings.simplefilter("ignore")
            return Pillow.open(file, formats=_FORMATS)
    except Pillow.DecompressionBombError as error:
        raise PictureTooLarge(_FIELD, f"{error}; send a smaller one") from error
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise PictureUnknown(
            _FIELD, f"is none of {known}, or its header is cut or unsound"
        ) from error
    except Exception as error:  # Pillow raises anything on hostile headers
        raise _truncated(error) from error


def _rotation(image: PillowImage, data: bytes) -> int:
    # Pillow decodes a whole PNG in search of EXIF after the pixels; most have none anywhere.
    if image.format == "PNG" and not _may_be_rotated(data):
        return 1
    return int(image.getexif().get(_ORIENTATION_TAG, 1))


def _may_be_rotated(png: bytes) -> bool:
    # From chunk to chunk: a search through all bytes would hold up other threads for its time.
    at = 8
    for _ in range(_PNG_CHUNKS):
        if at + 8 > len(png):
            return False
        kind, start = png[at + 4 : at + 8], at + 8
        if kind == _PNG_EXIF_MARKS[0]:
            return True
        if kind in _PNG_TEXTS and png.startswith(_PNG_EXIF_MARKS[1:], start):
            return True
        at = start + int.from_bytes(png[at : at + 4], "big") + 4
    return any(mark in png for mark in _PNG_EXIF_MARKS)


def _check_shape(size: Size, limits: PictureLimits) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise PictureTooLarge(
            _FIELD, f"{size[0]}x{size[1]} is above {limits.max_pixels} pixels; send a smaller one"
        )
    if max(size) > limits.max_aspect * min(size):
        raise PictureShapeError(
            _FIELD,
            f"{size[0]}x{size[1]}: one side is over {limits.max_aspect:g} times the other; crop it",
        )


def _to_rgb(image: PillowImage) -> PillowImage:
    from PIL import Image as Pillow

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Pillow.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Pillow.new("RGBA", rgba.size, "white")
        return Pillow.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    # 16-bit integers keep their absolute scale; what has no agreed range is stretched over it.
    wide = values.astype(np.float64)
    if np.issubdtype(values.dtype, np.integer) and wide.min() >= 0 and wide.max() <= 65535:
        return np.asarray(np.rint(wide / 257.0), dtype=np.uint8)
    wide = np.nan_to_num(wide, nan=0.0, posinf=0.0, neginf=0.0)
    span = float(wide.max() - wide.min()) or 1.0
    return np.asarray(np.rint((wide - wide.min()) / span * 255.0), dtype=np.uint8)


def _media_type(format_name: str | None) -> str:
    if format_name in {"JPEG", "MPO"}:
        return "image/jpeg"
    if format_name == "PPM":
        return "image/x-portable-anymap"
    return f"image/{(format_name or 'unknown').lower()}"


def _too_many_bytes(count: int, limits: PictureLimits) -> PictureTooLarge:
    return PictureTooLarge(
        _FIELD, f"{count} bytes or more, above {limits.max_bytes}; send a smaller one"
    )


def _truncated(error: Exception) -> PictureTruncated:
    return PictureTruncated(_FIELD, f"its data ends early or is damaged ({error}); send it again")
