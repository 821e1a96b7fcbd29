"""An item is one question of a suite with its right answer; a row that cannot be asked is spoiled.

It refuses to know files and formats, and how an item is answered and graded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from speceyes.errors import InputError
from speceyes.types import Box, Query


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its picture and its right answer.

    `answer` is one of the query's options as worded there, `yes` or `no`, or free text.
    `released_order[i]` is where option i stood in the release; () if nothing was moved. `is_hard`
    (None: the suite does not say) and `targets_px` (where in the picture the answer is to be seen)
    are for reports only: nothing on the way to an answer may read them.
    """

    item_id: str
    split: str
    query: Query
    answer: str
    is_hard: bool | None = None
    kind: str = ""
    targets_px: tuple[Box, ...] = ()
    released_order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A row that cannot be asked; `error` names its file and row. It counts as a failed item."""

    item_id: str
    split: str
    error: InputError


Entry: TypeAlias = Item | Spoiled


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteFacts:
    """What is known of a suite before its first item; the same facts mean the same items.

    `counts` are the entries of each split as they will come; `released` how many the release would
    give, within the same bound, where it is known; `files` the sha256 of every file read, by its
    path within the suite; `checksum` one digest over all that decides the items: files, splits,
    seed, order, bound.
    """

    name: str  # "vstar", "hrbench", "pope", "builtin", "jsonl"
    source: str  # the suite string, as given
    counts: Mapping[str, int]
    released: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int
    as_released: bool
    per_split: int | None
    checksum: str

    @property
    def total(self) -> int:
        """How many entries there are in all."""
        return sum(self.counts.values())

    @property
    def deviations(self) -> dict[str, tuple[int, int]]:
        """The splits whose size is not the release's, each with (found, released)."""
        return {
            split: (found, self.released[split])
            for split, found in self.counts.items()
            if split in self.released and found != self.released[split]
        }


class Suite(Protocol):
    """A source of items, in an order that is always the same; most go split by split."""

    @property
    def facts(self) -> SuiteFacts:
        """What is known before the first item."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Give the entries one by one; no more than a few pictures are in memory at a time."""
        ...
