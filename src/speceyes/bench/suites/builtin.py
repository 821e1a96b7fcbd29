"""The built-in suite in the manner of the public ones: the same items as always, bounded by split.

It refuses to know how scenes are drawn and asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Final

from speceyes.bench.items import Entry, SuiteFacts
from speceyes.bench.suites.choice import Choice
from speceyes.bench.suites.findings import facts_of
from speceyes.bench.suites.sources import Source
from speceyes.builtin.questions import SPLITS
from speceyes.builtin.suite import draw_item
from speceyes.errors import ConfigError

DEFAULT_PER_SPLIT: Final = 40
GENERATOR_VERSION: Final = 1  # one more whenever an index and a seed give another item than before


class Builtin:
    """Items of the built-in suite's test stream, in the order in which they are drawn.

    `builtin:N` is the first N in all; otherwise each split has as many. Its splits take turns, so
    its entries do not come split by split.
    """

    def __init__(self, source: Source, choice: Choice) -> None:
        self._source = source
        self._choice = choice.among("builtin", SPLITS)
        if source.place:
            if choice.per_split is not None:
                raise ConfigError("per_split", f"{source.text} has its number; leave this out")
            self._drawn = int(source.place)
            return
        per_split = choice.per_split or DEFAULT_PER_SPLIT
        self._choice = replace(self._choice, per_split=per_split)
        self._drawn = per_split * len(SPLITS)

    @cached_property
    def facts(self) -> SuiteFacts:
        """What is known before the first item; nothing is read."""
        return facts_of(
            self._source,
            self._choice,
            counts={
                split: len(range(SPLITS.index(split), self._drawn, len(SPLITS)))
                for split in self._choice.splits
            },
            version=GENERATOR_VERSION,
        )

    def entries(self) -> Iterator[Entry]:
        """Draw the entries one by one."""
        for index in range(self._drawn):
            if SPLITS[index % len(SPLITS)] in self._choice.splits:
                yield draw_item(index, seed=self._choice.seed)
