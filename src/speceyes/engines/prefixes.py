"""The prefix tree keeps keys and values of what was read lately, to be found by its beginning.

It refuses to know models, requests and rows: marks of tokens in, keys and values out. Prompts that
begin alike share their beginning, to the token; what was not asked for longest goes first.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Marks: TypeAlias = npt.NDArray[np.int64]
"""What tells tokens apart, (T, 2): a text's token id, or the digest of the picture it is of."""

NO_MARKS: Final[Marks] = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The longest beginning that was found: `tokens` in all, part after part.

    Shapes: each part (L, 2, Hk, T, D), as in keyvalues.py.
    """

    tokens: int = 0
    parts: tuple[torch.Tensor, ...] = ()


class _Node:
    """A stretch of tokens after its parent's, and what follows it, by the first mark."""

    def __init__(self, marks: Marks, values: torch.Tensor, parent: _Node | None) -> None:
        self.marks = marks
        self.values = values  # (L, 2, Hk, T, D)
        self.parent = parent
        self.children: dict[bytes, _Node] = {}

    @property
    def size_bytes(self) -> int:
        return int(self.values.nbytes) + self.marks.nbytes


class PrefixTree:
    """Keep keys and values by prefix, up to `limit_bytes`; any thread may use it.

    Invariants: a node was used no earlier than what follows it, so the one used longest ago is
    always a leaf. Values are copies; the parts of a node that was split go on sharing theirs until
    one of them is let go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self.clear()

    @property
    def held_bytes(self) -> int:
        """What stands here now, in bytes."""
        return self._held_bytes

    @property
    def keeps(self) -> bool:
        """Whether there is room for anything at all."""
        return self._limit_bytes > 0

    def find(self, marks: Marks, *, most: int) -> Kept:
        """Find the longest beginning of `marks` that is kept, of at most so many tokens."""
        with self._lock:
            path = self._walk(marks[:most])
            self._touch(path[-1][0] if path else None)
            parts = tuple(node.values[..., :count, :] for node, count in path)
            return Kept(sum(count for _, count in path), parts)

    def keep(self, marks: Marks, read: Callable[[int, int], torch.Tensor]) -> None:
        """Keep what belongs to `marks`; `read` gives that of the tokens start..stop, to be copied.

        Only what is new is read. What is larger than all room is left out.
        """
        with self._lock:
            path = self._walk(marks)
            found = sum(count for _, count in path)
            end: _Node | None = path[-1][0] if path else None
            if end is not None and path[-1][1] < len(end.marks):
                end = self._split(end, path[-1][1])
            if found < len(marks):
                leaf = _Node(marks[found:].copy(), read(found, len(marks)).clone(), end)
                if leaf.size_bytes <= self._limit_bytes:
                    self._children(end)[_key(leaf.marks)] = leaf
                    self._used[leaf] = None
                    self._held_bytes += leaf.size_bytes
                    end = leaf
            self._touch(end)
            while self._held_bytes > self._limit_bytes:
                self._drop(next(iter(self._used)))

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._roots: dict[bytes, _Node] = {}
            self._used: OrderedDict[_Node, None] = OrderedDict()
            self._held_bytes = 0

    def _walk(self, marks: Marks) -> list[tuple[_Node, int]]:
        """Follow marks as far as they go: nodes, and how many tokens of each agree."""
        path: list[tuple[_Node, int]] = []
        node: _Node | None = None
        done = 0
        while done < len(marks):
            node = self._children(node).get(_key(marks[done:]))
            if node is None:
                break
            agreed = common(node.marks, marks[done:])
            path.append((node, agreed))
            done += agreed
            if agreed < len(node.marks):
                break
        return path

    def _split(self, node: _Node, count: int) -> _Node:
        """Part a node in two; give the first of them."""
        head = _Node(node.marks[:count].copy(), node.values[..., :count, :], node.parent)
        self._children(node.parent)[_key(head.marks)] = head
        node.marks = node.marks[count:].copy()
        node.values = node.values[..., count:, :]
        node.parent = head
        head.children[_key(node.marks)] = node
        self._used[head] = None
        return head

    def _touch(self, node: _Node | None) -> None:
        while node is not None:
            self._used.move_to_end(node)
            node = node.parent

    def _drop(self, leaf: _Node) -> None:
        del self._used[leaf]
        del self._children(leaf.parent)[_key(leaf.marks)]
        self._held_bytes -= leaf.size_bytes
        above = leaf.parent
        while above is not None and _is_shared(above.values, leaf.values):
            above.values = above.values.clone()  # or it would hold on to all of what is let go
            above = above.parent

    def _children(self, node: _Node | None) -> dict[bytes, _Node]:
        return self._roots if node is None else node.children


def common(one: Marks, other: Marks) -> int:
    """Count the marks at which two sequences begin alike."""
    shorter = min(len(one), len(other))
    differs = (one[:shorter] != other[:shorter]).any(axis=1)
    return int(differs.argmax()) if differs.any() else shorter


def text_marks(token_ids: npt.ArrayLike) -> Marks:
    """Mark tokens of text: (T,) in, (T, 2) out."""
    ids = np.asarray(token_ids, dtype=np.int64)
    return np.stack([ids, np.zeros_like(ids)], axis=1)


def picture_mark(digest: str) -> Marks:
    """Mark the tokens of a picture, all alike: (1, 2), 128 bits that follow from its digest."""
    bits = hashlib.blake2b(digest.encode(), digest_size=16).digest()
    return np.frombuffer(bits, dtype=np.int64).reshape(1, 2)


def _is_shared(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr())


def _key(marks: Marks) -> bytes:
    return bytes(marks[0])
