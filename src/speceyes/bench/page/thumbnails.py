"""Pictures become small data URIs here: a page with them needs no other file.

It refuses to know what is in them and where they are shown. Of a large picture no more is decoded
than its thumbnails need, and no more than one is in memory at a time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from speceyes.pictures import decode
from speceyes.types import Box, Picture

if TYPE_CHECKING:
    from PIL import Image as Pillow

    PillowImage = Pillow.Image

SCENE_PX: Final = 448
CROP_PX: Final = 176
_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """A picture made small, and the boxes cut out of it, in their order; all data URIs."""

    whole: str
    crops: tuple[str, ...]


def make_small(picture: Picture, boxes: Sequence[Box]) -> Thumbnails:
    """Make a picture small, and each of the boxes, which are in its own pixels.

    Raises: PictureError if it cannot be decoded.
    """
    needed = max(
        [SCENE_PX / max(picture.size), *(CROP_PX / max(box.size) for box in boxes)], default=1.0
    )
    image = decode(picture, least_scale=needed)
    across, down = image.width / picture.width_px, image.height / picture.height_px
    crops = tuple(_data_uri(image.crop(_scaled(box, across, down)), CROP_PX) for box in boxes)
    return Thumbnails(_data_uri(image, SCENE_PX), crops)


def _scaled(box: Box, across: float, down: float) -> tuple[int, int, int, int]:
    left, top = int(box.left_px * across), int(box.top_px * down)
    right, bottom = round(box.right_px * across), round(box.bottom_px * down)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _data_uri(image: PillowImage, px: int) -> str:
    from PIL import Image as Pillow

    scale = min(1.0, px / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Pillow.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
