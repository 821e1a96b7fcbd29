"""A request's pictures are taken up here, all of them or none, each from where its URL says it is.

It refuses to know how either kind of URL is read, and what the pictures are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.to_thread

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
    """Take up pictures, all at once, and give them by the field that they stand in.

    Raises: RequestMalformed, PictureError; both name the field. Of several, the first that shows.
    """
    if len(images) > settings.max_count:
        raise PictureTooLarge(
            images[settings.max_count].field,
            f"is picture {settings.max_count + 1} of {len(images)}; at most {settings.max_count} "
            "are taken, so send fewer",
        )
    if len(images) == 1:
        return {images[0].field: await _open(images[0], settings, fetcher)}
    found: dict[str, Picture] = {}
    errors: list[Exception] = []

    async def take(image: ImagePart) -> None:
        try:
            found[image.field] = await _open(image, settings, fetcher)
        except Exception as error:  # noqa: BLE001 - raised below, alone, not as a group
            errors.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for image in images:
            tasks.start_soon(take, image)
    if errors:
        raise errors[0]
    return found


async def _open(image: ImagePart, settings: ImageSettings, fetcher: Fetcher) -> Picture:
    url = bytes(image.url)
    if is_data_url(url):
        return await open_data_url(url, image.field, settings)
    address: str = read_value(image.field, image.url, str)
    if not address.lower().startswith(("http://", "https://")):
        raise RequestMalformed(
            image.field,
            "is neither a data: URL nor https://HOST/PATH; file ids are not known here",
        )
    if not settings.fetch:
        raise RequestMalformed(
            image.field,
            "pictures are not fetched here; send it as data:image/TYPE;base64,DATA, or have "
            "gateway.images.fetch set",
        )
    data = await fetcher.fetch(address, image.field)
    return await anyio.to_thread.run_sync(open_bytes, data, image.field, settings)
