"""Some items of a comparison are shown whole: picture, boxes, crops and each phase's words.

It refuses to know the page they are shown on, and where a suite's pictures come from. An item whose
picture is not to be had is shown without it, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from speceyes.bench.items import Entry, Spoiled, Suite
from speceyes.bench.page.thumbnails import make_small
from speceyes.bench.records import Look as CloserLook
from speceyes.bench.records import Method, Record, Turn
from speceyes.bench.summary import Entrant
from speceyes.errors import InputError, PictureError
from speceyes.types import Box, Size

SHOWN: Final = 24
_MOST_WRONG_SHARE: Final = 3  # at most one in so many shown is there for being wrong
_TAGGED: Final = re.compile(r"<(\w+)>\s*(.*?)\s*</\1>", re.DOTALL)
# Whose answer a card is about, if several answered: the first of these.
_FOREMOST: Final[tuple[Method, ...]] = ("speceyes", "specreason", "baseline", "small")

_Small = dict[Box, str]  # crops as data URIs


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


@dataclass(frozen=True, slots=True)
class Closer:
    """A closer look of the small model, and what it then saw, as a data URI."""

    look: CloserLook
    crop: str | None


@dataclass(frozen=True, slots=True)
class Telling:
    """What one entrant made of the item, by its label."""

    label: str
    record: Record
    looks: tuple[Look, ...]
    closer: tuple[Closer, ...]

    @property
    def boxes_px(self) -> tuple[Box, ...]:
        """Where it zoomed or looked closer."""
        return _boxes(self.record)


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture of an item, small. `size` is its own; boxes are in its pixels."""

    uri: str
    size: Size
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One item of the gallery: `ours` is whom it is about, `others` answered it as well.

    `absent` says why there is no picture, if there is none.
    """

    ours: Telling
    others: tuple[Telling, ...]
    scenes: tuple[Scene, ...]
    absent: str | None

    @property
    def route(self) -> str:
        """How the answer came about, or that none came."""
        return self.ours.record.route or "failed"

    @property
    def boxed(self) -> Telling | None:
        """Whose boxes are drawn: ours, or those of whoever zoomed if ours needed none."""
        tellings = (self.ours, *self.others)
        return next((telling for telling in tellings if telling.boxes_px), None)


def foremost(entrants: Sequence[Entrant]) -> Entrant | None:
    """Say whose answers the gallery is about."""
    ranked = sorted(entrants, key=lambda entrant: _FOREMOST.index(entrant.method))
    return ranked[0] if ranked else None


def choose(entrants: Sequence[Entrant], count: int = SHOWN) -> list[str]:
    """Choose items that show what there is: mistakes first, then all routes and splits in turn.

    A mistake is one of whom the gallery is about, or of the agent alone beside it.
    """
    ours = foremost(entrants)
    if ours is None:
        return []
    rivals = [rival for rival in _rivals(entrants, ours) if rival.method == "baseline"]
    slipped = {r.item_id for e in (ours, *rivals) for r in e.records if not r.is_right}
    wrong = [r.item_id for r in ours.records if r.item_id in slipped]
    groups: dict[tuple[str | None, str, bool | None], list[str]] = {}
    for record in ours.records:
        groups.setdefault((record.route, record.split, record.is_hard), []).append(record.item_id)
    ordered = [group for _, group in sorted(groups.items(), key=lambda entry: str(entry[0]))]
    in_turn = [item for row in zip_longest(*ordered) for item in row if item is not None]
    return list(dict.fromkeys([*wrong[: count // _MOST_WRONG_SHARE], *in_turn]))[:count]


def cards(
    entrants: Sequence[Entrant], suite: Suite | None, *, absent: str = "", count: int = SHOWN
) -> list[Card]:
    """Make the cards of the chosen items, with the pictures that the suite still has.

    `absent` says why there is no suite, if there is none.
    """
    wanted = choose(entrants, count)
    ours = foremost(entrants)
    if ours is None:
        return []
    ranked = [ours, *_rivals(entrants, ours)]
    by = {entrant.label: {r.item_id: r for r in entrant.records} for entrant in ranked}
    told = {item: _records_of(item, by) for item in wanted}
    made: dict[str, Card] = {}
    if suite is not None:
        try:
            for entry in suite.entries():  # one picture at a time, and no further than needed
                if entry.item_id in told:
                    made[entry.item_id] = _card(told[entry.item_id], entry)
                if len(made) == len(told):
                    break
        except InputError as error:
            absent = str(error)
    missing = absent or "the suite no longer has it"
    return [made.get(item) or _bare(told[item], missing) for item in wanted]


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


def _rivals(entrants: Sequence[Entrant], ours: Entrant) -> list[Entrant]:
    # The first of every other method; more of the same would only fill the cards.
    first = {entrant.method: entrant for entrant in reversed(entrants)}
    return [e for e in entrants if first[e.method] is e and e is not ours]


def _records_of(item: str, by: Mapping[str, Mapping[str, Record]]) -> dict[str, Record]:
    return {label: records[item] for label, records in by.items() if item in records}


def _card(told: Mapping[str, Record], item: Entry) -> Card:
    record = next(iter(told.values()))
    if isinstance(item, Spoiled):
        return _bare(told, str(item.error))
    if (item.query.question, item.answer) != (record.question, record.truth):
        return _bare(told, "the suite asks something else under this name now")
    boxes = list(dict.fromkeys(box for record in told.values() for box in _boxes(record)))
    scenes: list[Scene] = []
    crops: _Small = {}
    for index, picture in enumerate(item.query.pictures):
        cut = [box for box in boxes if box.picture_index == index]
        try:
            small = make_small(picture, cut)
        except PictureError as error:
            return _bare(told, str(error))
        scenes.append(Scene(small.whole, picture.size, index))
        crops |= dict(zip(cut, small.crops, strict=True))
    return _put_together(told, crops, scenes=tuple(scenes), absent=None)


def _bare(told: Mapping[str, Record], absent: str) -> Card:
    return _put_together(told, {}, scenes=(), absent=absent)


def _put_together(
    told: Mapping[str, Record], crops: _Small, *, scenes: tuple[Scene, ...], absent: str | None
) -> Card:
    ours, *others = (
        Telling(label, record, _looks(record, crops), _closer(record, crops))
        for label, record in told.items()
    )
    return Card(ours=ours, others=tuple(others), scenes=scenes, absent=absent)


def _boxes(record: Record) -> tuple[Box, ...]:
    looked = record.speculation.looks if record.speculation else ()
    closer = [look.box_px for look in looked if look.box_px is not None]
    return (*closer, *(box for turn in record.turns for box in turn.boxes_px))


def _closer(record: Record, crops: _Small) -> tuple[Closer, ...]:
    looked = record.speculation.looks if record.speculation else ()
    return tuple(
        Closer(look, None if look.box_px is None else crops.get(look.box_px)) for look in looked
    )


def _looks(record: Record, crops: _Small) -> tuple[Look, ...]:
    return tuple(
        Look(turn, passages(turn.text), tuple(crops[box] for box in turn.boxes_px if box in crops))
        for turn in record.turns
    )
