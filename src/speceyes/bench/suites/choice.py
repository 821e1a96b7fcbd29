"""Which part of a suite is wanted, and in which order its options are shown.

It refuses to know suites, files and formats. No random numbers: an order is read from a digest, so
it is the same with every version of every library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from speceyes.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is wanted of a suite; `splits` () means all, `per_split` None means whole splits.

    `seed` decides the order of options where a release fixes the right one's place, unless
    `as_released` leaves it alone; for the built-in suite it decides the questions.
    Raises: ConfigError naming the field.
    """

    splits: tuple[str, ...] = ()
    seed: int = 0
    as_released: bool = False
    per_split: int | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed", f"{self.seed} is below 0")
        if self.per_split is not None and self.per_split < 1:
            raise ConfigError("per_split", f"{self.per_split} is below 1; leave it out for all")

    def among(self, suite: str, known: tuple[str, ...]) -> Choice:
        """Name the splits, in the suite's order. Raises: ConfigError if one is not known there."""
        for split in self.splits:
            if split not in known:
                raise ConfigError("splits", f"{split!r} is unknown; {suite} has {', '.join(known)}")
        wanted = self.splits or known
        return replace(self, splits=tuple(split for split in known if split in wanted))

    def bounded(self, count: int) -> int:
        """Say how many of a split's entries are wanted."""
        return count if self.per_split is None else min(count, self.per_split)


def option_order(item_id: str, count: int, *, seed: int) -> tuple[int, ...]:
    """Say which of an item's options is shown where: entry i is the place in the release.

    Invariants: depends on the arguments alone; every order is as likely as any other.

    >>> sorted(option_order("vstar-direct_attributes-sa_4690", 4, seed=0))
    [0, 1, 2, 3]
    """

    def lot(place: int) -> bytes:
        return hashlib.blake2b(f"{seed}\n{item_id}\n{place}".encode(), digest_size=16).digest()

    return tuple(sorted(range(count), key=lot))
