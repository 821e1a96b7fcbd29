"""Pictures that code printed the paths of, or showed, leave as plain pixels, within bounds.

It refuses to know how the code ran. What is outside reads pixels only, never a file that code made.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from speceyes.tools.inside.plan import Plan

if TYPE_CHECKING:
    from PIL import Image as Pillow

    PillowImage: TypeAlias = Pillow.Image

_FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_PATH: Final = re.compile(r"[^\s'\"`<>|]+\.(?:png|jpe?g|bmp|gif|tiff?|webp)\b", re.IGNORECASE)
_MAX_MENTIONS: Final = 64
MAX_ASPECT: Final = 200  # as vision models have it


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture, as pixels: 8-bit RGB, row after row."""

    size: tuple[int, int]
    rgb: bytes


class Gallery:
    """Gather one block's pictures."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folders = tuple(Path(folder).resolve() for folder in (plan.output_folder, "/tmp"))  # noqa: S108
        self._shown: list[Shown] = []
        self._complaints: list[str] = []
        if plan.collects != "printed":
            self._listen()

    def clear(self) -> None:
        """Begin a block."""
        self._shown.clear()
        self._complaints.clear()

    def taken(self) -> tuple[Shown, ...]:
        """Give what was gathered."""
        return tuple(self._shown)

    def show(self, *things: Any) -> None:
        """Take what the code wants to be seen: an image, an array, a figure; words are printed."""
        for thing in things:
            image = _as_image(thing)
            if image is None:
                print(thing)  # noqa: T201 - into the block's own text
            elif self._plan.collects == "printed":
                print(f"<image of {image.width}x{image.height}>")  # noqa: T201
            else:
                self._take(image)

    def collect(self, text: str) -> str | None:
        """Take the pictures whose paths were printed; give what kept one from being shown."""
        if self._plan.collects != "shown":
            missing = []
            for path in _mentioned(text):
                if not any(path.is_relative_to(folder) for folder in self._folders):
                    continue  # the picture that the question is about, say: the model has it
                if path.is_file():
                    self._open(path)
                elif str(path) in text:  # a path in full was meant as one
                    missing.append(path)
            if missing and not self._shown:
                self._complaints.append(f"there is no file {missing[0]}; save the image first")
        return self._complaints[0] if self._complaints else None

    def _shown_px(self) -> int:
        return sum(shown.size[0] * shown.size[1] for shown in self._shown)

    def _listen(self) -> None:
        from PIL import Image as Pillow

        from speceyes.tools.inside import figures

        figures.listener = self._take
        Pillow.Image.show = lambda image, *_, **__: self._take(image)  # type: ignore[method-assign]

    def _open(self, path: Path) -> None:
        from PIL import Image as Pillow

        try:
            with Pillow.open(path, formats=_FORMATS) as image:
                self._take(image)
        except Exception as error:  # noqa: BLE001 - Pillow raises anything on unsound files
            self._complaints.append(f"{path.name} is no image that can be read: {error}"[:300])

    def _take(self, image: PillowImage) -> None:
        width_px, height_px = image.size
        if len(self._shown) >= self._plan.pictures:
            self._complaints.append(f"no more than {self._plan.pictures} images are shown at once")
        elif min(image.size) < 1 or max(image.size) > MAX_ASPECT * min(image.size):
            self._complaints.append(f"an image of {width_px}x{height_px} cannot be shown")
        elif width_px * height_px > self._plan.picture_px - self._shown_px():
            self._complaints.append(
                f"with an image of {width_px}x{height_px} it is above {self._plan.picture_px} "
                "pixels; resize it"
            )
        else:
            rgb = _to_rgb(image)
            self._shown.append(Shown(rgb.size, rgb.tobytes()))


def _mentioned(text: str) -> list[Path]:
    """Find the paths in what was printed, in order, each once."""
    lines = [line.strip() for line in text.splitlines()]
    whole = [line for line in lines if " " in line and _PATH.search(line) and Path(line).is_file()]
    found = [*whole, *(match[0] for match in _PATH.finditer(text))][:_MAX_MENTIONS]
    return list(dict.fromkeys(Path(name).resolve() for name in found))


def _as_image(thing: Any) -> PillowImage | None:
    import numpy as np
    from PIL import Image as Pillow

    if isinstance(thing, Pillow.Image):
        return thing
    if isinstance(thing, np.ndarray) and thing.dtype == np.uint8 and thing.ndim in {2, 3}:
        return Pillow.fromarray(thing)
    if "matplotlib.figure" not in sys.modules:
        return None
    from speceyes.tools.inside import figures

    return figures.drawn(thing)


def _to_rgb(image: PillowImage) -> PillowImage:
    from PIL import Image as Pillow

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
