"""V* as released: a folder per split, with a picture and a JSON of the same name per question.

In the release the right option always stands first, so a liking for A would count as skill: options
are shuffled here, by the seed and the item's id. It refuses to know how an item is answered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeGuard

from speceyes.bench.items import Entry, Item, SuiteFacts
from speceyes.bench.suites.choice import Choice, option_order
from speceyes.bench.suites.entrance import Entrance, Place
from speceyes.bench.suites.findings import digests_of, facts_of
from speceyes.bench.suites.sources import Source, find_folder
from speceyes.errors import PictureError, SuiteError
from speceyes.pictures import open_picture
from speceyes.types import Box, Picture, Query, Size

RELEASED: Final = {"direct_attributes": 115, "relative_position": 76}
_PICTURE_SUFFIXES: Final = (".jpg", ".jpeg", ".png")  # the release has .jpg throughout
_MAX_JSON_BYTES: Final = 2**20
_FAR_PX: Final = 1e9  # beyond any picture; infinities and NaN are not below it


class VStar:
    """V* from a folder or the hub, in the order of the names of its files.

    Raises: SuiteError naming the file; a question that is broken is an entry, spoiled.
    """

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source = source
        self._choice = choice.among("vstar", tuple(RELEASED))
        splits = self._choice.splits
        self._folder = find_folder(source, [f"{split}/*" for split in splits])
        self._pairs = {split: self._find_pairs(split) for split in splits}

    @cached_property
    def facts(self) -> SuiteFacts:
        """What is known before the first item; reads through all files once."""
        names = (
            f"{split}/{path.name}"
            for split, pairs in self._pairs.items()
            for paths in pairs.values()
            for path in paths
        )
        return facts_of(
            self._source,
            self._choice,
            counts={split: len(pairs) for split, pairs in self._pairs.items()},
            released=RELEASED,
            files=digests_of(self._folder, names),
        )

    def entries(self) -> Iterator[Entry]:
        """Give the entries, split by split; one picture is in memory at a time."""
        entrance = Entrance()
        for split, pairs in self._pairs.items():
            for stem, paths in pairs.items():
                name = stem.encode(errors="backslashreplace").decode()  # any bytes can name a file
                item_id = f"vstar-{split}-{name}"
                place = Place(split, f"{split}/{name}.json", item_id)
                yield entrance.admit(place, partial(self._item, item_id, paths, place))

    def _find_pairs(self, split: str) -> Mapping[str, tuple[Path, ...]]:
        folder = self._folder / split
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise SuiteError(
                split,
                f"is not to be found in {self._folder}; leave it out of the splits, or "
                f"download it ({error.strerror})",
            ) from error
        pairs: dict[str, tuple[Path, ...]] = {}
        for path in paths:
            if path.suffix.lower() in {".json", *_PICTURE_SUFFIXES}:
                pairs[path.stem] = (*pairs.get(path.stem, ()), path)
        wanted = sorted(pairs)[: self._choice.bounded(len(pairs))]
        return {stem: pairs[stem] for stem in wanted}

    def _item(self, item_id: str, paths: tuple[Path, ...], place: Place) -> Item:
        told = _read_json([path for path in paths if path.suffix.lower() == ".json"], place)
        question, options = told.get("question"), told.get("options")
        if not isinstance(question, str):
            raise place.error("has no question")
        if not _are_texts(options) or len(options) < 2:
            raise place.error("has no list of two options or more")
        picture = _open([path for path in paths if path.suffix.lower() != ".json"], place)
        order: tuple[int, ...] = ()
        if not self._choice.as_released:
            order = option_order(item_id, len(options), seed=self._choice.seed)
        shown = tuple(options[i] for i in order) or tuple(options)
        return Item(
            item_id,
            place.split,
            Query(question, (picture,), shown, query_id=item_id),
            options[0],
            targets_px=_boxes(told.get("bbox"), picture.size),
            released_order=order,
        )


def _read_json(paths: list[Path], place: Place) -> Mapping[str, Any]:
    if not paths:
        raise place.error("is missing; its picture is there")
    try:
        with paths[0].open("rb") as file:
            told = json.loads(file.read(_MAX_JSON_BYTES).decode())
    except OSError as error:
        raise place.error(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise place.error(f"is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise place.error(f"is no JSON ({error})") from error
    if not isinstance(told, dict):
        raise place.error("is no JSON object")
    return told


def _open(paths: list[Path], place: Place) -> Picture:
    if not paths:
        raise place.error("has no picture beside it; download it anew")
    if len(paths) > 1:
        raise place.error(
            f"has more than one picture beside it: {', '.join(p.name for p in paths)}"
        )
    try:
        return open_picture(paths[0])
    except PictureError as error:
        raise place.error(f"its picture {paths[0].name}: {error.message}") from error


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _boxes(value: object, size: Size) -> tuple[Box, ...]:
    """Read boxes as [x, y, width, height], cut to the picture; () unless all are sound."""
    if not isinstance(value, list):
        return ()
    boxes = [_box(entry, size) for entry in value]
    sound = tuple(box for box in boxes if box is not None)
    return sound if len(sound) == len(boxes) else ()


def _box(entry: Any, size: Size) -> Box | None:
    if not isinstance(entry, list) or len(entry) != 4:
        return None
    if any(type(edge) not in {int, float} or not abs(edge) < _FAR_PX for edge in entry):
        return None
    x, y, width, height = entry
    left, top = max(0, math.floor(x)), max(0, math.floor(y))
    right, bottom = min(size[0], math.ceil(x + width)), min(size[1], math.ceil(y + height))
    return Box(left, top, right, bottom) if left < right and top < bottom else None
