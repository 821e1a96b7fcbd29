"""What the code of one family of models finds around it: where pictures lie, how it shows them.

It refuses to know how code is run, and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

from speceyes.types import Picture

PYTHON: Final = "python"  # the tool that runs code, by this name in `ToolCall.tool`
OUTPUT_FOLDER: Final = "/mnt/data/temp_processed_images"  # where code may write, and begins

Collects: TypeAlias = Literal["printed", "shown", "both"]

_SUFFIXES: Final[Mapping[str, str]] = {"image/jpeg": ".jpg", "image/webp": ".webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notebook:
    """Say what the code of one family of models finds around it, and how it shows pictures.

    `picture_path` is where an original lies, for the code to open: a template in which {number} and
    {suffix} (".png") are filled in; all lie in one folder. `picture_name`, if any, is the variable
    that holds it, decoded. `collects`: pictures whose paths the code printed, those that it showed
    (`plt.show()`, `image.show()`, `display(image)`), or both.
    """

    picture_path: str = "/mnt/data/user_images/image_{number}{suffix}"
    picture_name: str | None = None
    first_number: int = 1
    collects: Collects = "both"

    def path_of(self, index: int, picture: Picture) -> str:
        """Say where the original of this index lies."""
        # What is not plain is handed in upright and as 8-bit RGB, which makes a PNG of it.
        suffix = _SUFFIXES.get(picture.media_type, ".png") if picture.is_plain else ".png"
        return self.picture_path.format(number=self.first_number + index, suffix=suffix)

    def name_of(self, index: int) -> str | None:
        """Say which variable holds the original of this index."""
        if self.picture_name is None:
            return None
        return self.picture_name.format(number=self.first_number + index)


@runtime_checkable
class WritesCode(Protocol):
    """A `ToolProtocol` whose model writes Python, to be run by the tool of that name."""

    @property
    def notebook(self) -> Notebook:
        """Say what its code finds around it."""
        ...
