"""A request's pictures are taken up here, all of them or none, wherever each one lies.

It refuses to know what a request is for. A picture is its URL, as JSON has it, and the field that
the URL stands in, by which errors name it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import msgspec

from speceyes.errors import RequestMalformed
from speceyes.gateway.images.dataurls import is_data_url, open_bytes, open_data_url
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.settings import ImageSettings
from speceyes.gateway.wire.turns import ImagePart
from speceyes.types import Picture

_TEXT: Final = msgspec.json.Decoder(str)


class Intake:
    """Take up pictures within the settings' limits; close it when done.

    Raises: ConfigError for a host in `allow` that is none.
    """

    def __init__(self, settings: ImageSettings, *, fetcher: Fetcher | None = None) -> None:
        self._settings = settings
        self._fetcher = fetcher or Fetcher(settings)

    async def open(self, parts: Sequence[ImagePart]) -> tuple[Picture, ...]:
        """Take up pictures, in their order.

        Raises: RequestMalformed, PictureError; of several, the first one that shows.
        """
        most = self._settings.max_count
        if len(parts) > most:
            raise RequestMalformed(
                parts[most].field, f"is picture {most + 1} of {len(parts)}; send at most {most}"
            )
        if len(parts) == 1:
            return (await self._open(parts[0]),)
        pictures: dict[int, Picture] = {}
        errors: list[Exception] = []

        async def take(index: int, part: ImagePart) -> None:
            try:
                pictures[index] = await self._open(part)
            except Exception as error:  # noqa: BLE001 - raised below, alone, not as a group
                errors.append(error)
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for index, part in enumerate(parts):
                tasks.start_soon(take, index, part)
        if errors:
            raise errors[0]
        return tuple(pictures[index] for index in range(len(parts)))

    async def aclose(self) -> None:
        """Close the connections that pictures were fetched by."""
        await self._fetcher.aclose()

    async def _open(self, part: ImagePart) -> Picture:
        url, field = bytes(part.url), part.field
        if is_data_url(url):
            return await open_data_url(url, field, self._settings)
        address = _text(url, field)
        if not address.lower().startswith(("http://", "https://")):
            raise RequestMalformed(
                field, "is neither a data: URL nor https://HOST/PATH; file ids are not known here"
            )
        if not self._settings.fetch:
            raise RequestMalformed(
                field,
                "pictures are not fetched here; send it as data:image/TYPE;base64,DATA, or have "
                "gateway.images.fetch set",
            )
        data = await self._fetcher.fetch(address, field)
        return await anyio.to_thread.run_sync(open_bytes, data, field, self._settings)


def _text(url: bytes, field: str) -> str:
    try:
        return _TEXT.decode(url)
    except msgspec.DecodeError:
        raise RequestMalformed(field, "is to be a string; write a URL") from None
