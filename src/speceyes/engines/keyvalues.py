"""The key-value cache: one slot per row, each filled from its first place on.

It refuses to know what the rows are. Axes as in stack.py; R slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_PLACES_STEP = 256  # slots grow by this many places at a time


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Say what one token of one row takes: layers, heads of keys, values in a head."""

    layers: int
    heads: int
    head_dim: int

    def bytes_per_token(self, value_bytes: int) -> int:
        """Count both keys and values."""
        return 2 * self.layers * self.heads * self.head_dim * value_bytes


class KeyValues:
    """Hold keys and values of all layers, slot by slot.

    The places of one head lie side by side: a step reads them all, and nothing else of that head,
    so that small heads take a CPU half the time that token after token would.
    `limit_tokens` bounds slots times places, as long as no more than that is asked for.
    Invariants: what was never written is zero, so that what a bias masks is finite.
    """

    def __init__(
        self, shape: CacheShape, *, dtype: torch.dtype, device: torch.device, limit_tokens: int
    ) -> None:
        self._shape = shape
        self._options = {"dtype": dtype, "device": device}
        self._limit_tokens = limit_tokens
        self._store = self._empty(0, 0)  # (L, 2, R, Hk, S, D)
        self._flat: tuple[torch.Tensor, ...] = ()  # 2 L views, (R * Hk * S, D) each
        self._heads = torch.arange(shape.heads, device=device)

    @property
    def size(self) -> tuple[int, int]:
        """How many slots there are, and how many places in each."""
        return (self._store.shape[2], self._store.shape[4])

    def reserve(self, slots: int, places: int) -> None:
        """Make room for so many rows of so many tokens, keeping what is in them."""
        has_slots, has_places = self.size
        if slots <= has_slots and places <= has_places:
            return
        new_slots = max(has_slots, slots)
        new_places = max(has_places, -(-places // _PLACES_STEP) * _PLACES_STEP)
        if new_slots * new_places > self._limit_tokens:
            new_slots, new_places = slots, places
        old = self._store[:, :, :new_slots, :, :new_places]
        self._store = self._empty(new_slots, new_places)
        self._store[:, :, : old.shape[2], :, : old.shape[4]] = old
        self._flat = self._store.flatten(2, 4).flatten(0, 1).unbind(0)

    def places(self, slot: int, start: int, stop: int) -> torch.Tensor:
        """Index the places start..stop of a slot, for `write`: (T, Hk)."""
        wanted = torch.arange(start, stop, device=self._store.device)
        return self._index(torch.full_like(wanted, slot), wanted)

    def next_places(self, lengths: torch.Tensor) -> torch.Tensor:
        """Index the first free place of the slots 0..B-1, which hold `lengths` tokens: (B, Hk)."""
        return self._index(torch.arange(len(lengths), device=lengths.device), lengths)

    def write(
        self, layer: int, index: torch.Tensor, *, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Put one layer's keys and values, (N, Hk, D) each, at these places, (N, Hk)."""
        flat = index.flatten()
        self._flat[2 * layer].index_copy_(0, flat, keys.flatten(0, 1))
        self._flat[2 * layer + 1].index_copy_(0, flat, values.flatten(0, 1))

    def views(self, slots: int, places: int) -> tuple[torch.Tensor, ...]:
        """Give keys and values in turn, layer by layer: (B, Hk, S, D) each."""
        return tuple(self._store[:, :, :slots, :, :places].flatten(0, 1).unbind(0))

    def view(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Give keys and values of one layer and slot, (Hk, S, D) each."""
        shown = self._store[layer, :, slot, :, :places]
        return shown[0], shown[1]

    def read(self, slot: int, start: int, stop: int) -> torch.Tensor:
        """Show what stands in the places start..stop of a slot: (L, 2, Hk, T, D)."""
        return self._store[:, :, slot, :, start:stop]

    def fill(self, slot: int, parts: Sequence[torch.Tensor]) -> None:
        """Put what `read` once gave into the first places of a slot, part after part."""
        done = 0
        for part in parts:
            self._store[:, :, slot, :, done : done + part.shape[3]] = part
            done += part.shape[3]

    def lend(self, layer: int, source: int, *, target: int, count: int) -> None:
        """Copy the first `count` tokens of one layer from one slot to another."""
        self._store[layer, :, target, :, :count] = self._store[layer, :, source, :, :count]

    def move(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` tokens of one slot to another."""
        self._store[:, :, target, :, :count] = self._store[:, :, source, :, :count]

    def scrub(self, slot: int) -> None:
        """Zero a slot: a value that is no number would spoil, even masked, whoever has it next."""
        self._store[:, :, slot] = 0

    def _index(self, slots: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        heads = slots[:, None] * self._shape.heads + self._heads  # (N, Hk)
        return heads * self._store.shape[4] + places[:, None]

    def _empty(self, slots: int, places: int) -> torch.Tensor:
        layers, heads, head_dim = self._shape.layers, self._shape.heads, self._shape.head_dim
        return torch.zeros((layers, 2, slots, heads, places, head_dim), **self._options)
