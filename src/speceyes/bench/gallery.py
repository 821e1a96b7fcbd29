"""Some items of a run are shown whole: picture, boxes, crops and each phase's words.

It refuses to know the page they are shown on. Pictures become data URIs, so that a page with them
needs no other file.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from speceyes.bench.items import Item
from speceyes.bench.records import Method, Record, Turn
from speceyes.bench.summary import by_method
from speceyes.pictures import decode
from speceyes.types import Box, Size

if TYPE_CHECKING:
    from PIL import Image as Pillow

    PillowImage = Pillow.Image

SHOWN: Final = 24
_SCENE_PX: Final = 448
_CROP_PX: Final = 176
_QUALITY: Final = 80
_MOST_WRONG_SHARE: Final = 3  # at most one in so many shown is there for being wrong
_TAGGED: Final = re.compile(r"<(\w+)>\s*(.*?)\s*</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a model's words; `tag` is what they were wrapped in, if anything."""

    tag: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """A turn as it is shown: its words, and the crops the agent then saw."""

    turn: Turn
    passages: tuple[Passage, ...]
    crops: tuple[str, ...]  # data URIs


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One item of the gallery. `size` is the picture's own; boxes are in its pixels."""

    ours: Record
    base: Record
    small: Record | None
    scene: str  # a data URI
    size: Size
    looks: tuple[Look, ...]
    base_looks: tuple[Look, ...]

    @property
    def route(self) -> str:
        """How the answer came about, or that none came."""
        return self.ours.route or "failed"


def choose(records: Sequence[Record], count: int = SHOWN) -> list[str]:
    """Choose items that show what there is: mistakes first, then all routes and splits in turn."""
    by = by_method(records)
    pairs = [(ours, base) for i, ours in by["speceyes"].items() if (base := by["baseline"].get(i))]
    wrong = [o.item_id for o, b in pairs if not (o.is_right and b.is_right)]
    groups: dict[tuple[str | None, str, bool | None], list[str]] = {}
    for ours, _ in pairs:
        groups.setdefault((ours.route, ours.split, ours.is_hard), []).append(ours.item_id)
    ordered = [group for _, group in sorted(groups.items(), key=lambda entry: str(entry[0]))]
    in_turn = [item for row in zip_longest(*ordered) for item in row if item is not None]
    return list(dict.fromkeys([*wrong[: count // _MOST_WRONG_SHARE], *in_turn]))[:count]


def cards(items: Iterable[Item], records: Sequence[Record], count: int = SHOWN) -> list[Card]:
    """Make the cards of the chosen items."""
    by = by_method(records)
    of_id = {item.item_id: item for item in items}
    return [_card(of_id[item], by) for item in choose(records, count) if item in of_id]


def passages(text: str) -> tuple[Passage, ...]:
    r"""Split a model's words at their tags.

    >>> [(p.tag, p.text) for p in passages("<think>I look.</think>\n<answer>star</answer>")]
    [('think', 'I look.'), ('answer', 'star')]
    """
    found: list[Passage] = []
    end = 0
    for match in _TAGGED.finditer(text):
        found += [Passage(None, text[end : match.start()]), Passage(match[1], match[2])]
        end = match.end()
    found.append(Passage(None, text[end:]))
    return tuple(Passage(p.tag, p.text.strip()) for p in found if p.text.strip())


def _card(item: Item, by: Mapping[Method, Mapping[str, Record]]) -> Card:
    ours, base = by["speceyes"][item.item_id], by["baseline"][item.item_id]
    originals = {index: decode(picture) for index, picture in enumerate(item.query.pictures)}
    return Card(
        ours=ours,
        base=base,
        small=by["small"].get(item.item_id),
        scene=_data_uri(originals[0], _SCENE_PX),
        size=item.query.pictures[0].size,
        looks=_looks(ours, originals),
        base_looks=_looks(base, originals),
    )


def _looks(record: Record, originals: Mapping[int, PillowImage]) -> tuple[Look, ...]:
    return tuple(
        Look(turn, passages(turn.text), tuple(_crop(box, originals) for box in turn.boxes_px))
        for turn in record.turns
    )


def _crop(box: Box, originals: Mapping[int, PillowImage]) -> str:
    edges = (box.left_px, box.top_px, box.right_px, box.bottom_px)
    return _data_uri(originals[box.picture_index].crop(edges), _CROP_PX)


def _data_uri(image: PillowImage, px: int) -> str:
    small = image.copy()
    small.thumbnail((px, px))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
