"""A request's pictures are taken up here, each from where its URL says it is.

It refuses to know how either kind of URL is read, and what the pictures are for.
"""

from __future__ import annotations

from collections.abc import Sequence

from speceyes.errors import PictureTooLarge, RequestMalformed
from speceyes.gateway.images.dataurls import is_data_url, open_bytes, open_data_url
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.settings import ImageSettings
from speceyes.gateway.wire.turns import ImagePart
from speceyes.gateway.wire.values import read_value
from speceyes.types import Picture


async def open_images(
    images: Sequence[ImagePart], settings: ImageSettings, fetcher: Fetcher
) -> dict[str, Picture]:
    """Take up pictures, and give them by the field that they stand in.

    Raises: RequestMalformed, PictureError; both name the field.
    """
    if len(images) > settings.max_count:
        raise PictureTooLarge(
            images[settings.max_count].field,
            f"is picture {settings.max_count + 1} of {len(images)}; at most {settings.max_count} "
            "are taken, so send fewer",
        )
    return {image.field: await _open(image, settings, fetcher) for image in images}


async def _open(image: ImagePart, settings: ImageSettings, fetcher: Fetcher) -> Picture:
    url = bytes(image.url)
    if is_data_url(url):
        return await open_data_url(url, image.field, settings)
    address: str = read_value(image.field, image.url, str)
    if not settings.fetch:
        raise RequestMalformed(
            image.field,
            "is no data: URL, and pictures are not fetched here; send the picture itself",
        )
    return open_bytes(await fetcher.fetch(address, image.field), image.field, settings)
