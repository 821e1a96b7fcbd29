"""The step loop: prompts in, greedy tokens out, all rows of a batch one token further per step.

It refuses to know threads and event loops. A row joins by `admit`, which reads its prompt and
draws its first token; each `step` draws one more for every row; whoever runs the loop removes
rows, finished or not, between steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from speceyes.engines.prefixes import NO_MARKS, Marks, PrefixTree, common, text_marks
from speceyes.engines.prompt import Prompt
from speceyes.engines.sight import VisionTower
from speceyes.engines.stack import Deep, Span, TextStack
from speceyes.engines.transcript import Transcript


class Laid(Sized, Protocol):
    """A prompt as every batch sees it: so many tokens, and pictures among them."""

    @property
    def pictures(self) -> Sized:
        """What is shown, one entry per picture."""
        ...


LaidT = TypeVar("LaidT", bound=Laid)


class Row(Generic[LaidT]):
    """One request's place in a batch.

    `logp_topk` and `topk_ids` get a (K,) array per answer token; both stay empty for K = 0.
    `is_sound` turns False when a logit is no number; such a row must not go on. `reused_tokens` of
    the prompt were not read, as they had been before. `era` counts what was forgotten until then.
    """

    def __init__(self, prompt: LaidT, transcript: Transcript, *, top_k: int) -> None:
        self.prompt = prompt
        self.transcript = transcript
        self.top_k = top_k
        self.logp_topk: list[npt.NDArray[np.float32]] = []
        self.topk_ids: list[npt.NDArray[np.int64]] = []
        self.is_sound = True
        self.reused_tokens = 0
        self.era = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be drawn."""
        return not self.is_sound or self.transcript.finish is not None

    @property
    def cached_tokens(self) -> int:
        """How many tokens stand in the row's slot: all but the last one drawn."""
        return len(self.prompt) + self.transcript.drawn_tokens - 1


@dataclass(frozen=True, slots=True)
class _Start:
    """What of a prompt need not be read: its first `past` tokens, kept or in another's slot."""

    past: int = 0
    parts: tuple[torch.Tensor, ...] = ()
    lender: int | None = None


class Batch:
    """Draw tokens greedily for up to any number of rows; row i owns slot i of the cache.

    A prompt is read from where it first differs from all that `prefixes` keeps and from all rows
    beside it.
    """

    def __init__(
        self, stack: TextStack, tower: VisionTower, prefixes: PrefixTree, *, cache_bytes: int
    ) -> None:
        self._stack = stack
        self._prefixes = prefixes
        self._tower = tower
        self._cache_bytes = cache_bytes
        self._cache = stack.new_cache(limit_bytes=cache_bytes)
        self.limit_tokens = cache_bytes // stack.cache_bytes_per_token
        self.rows: list[Row[Prompt]] = []
        self._era = 0

    @property
    def pictures_seen(self) -> int:
        """How many pictures the vision tower has looked at."""
        return self._tower.pictures_seen

    def takes(self, row: Row[Prompt], others: Sequence[Row[Prompt]]) -> bool:  # noqa: ARG002
        """Say if a row can be read together with others that are about to be: any can."""
        return True

    def admit(self, rows: Sequence[Row[Prompt]]) -> None:
        """Read prompts, and draw the first token of each; they may be done then.

        Invariants: if it raises, the batch is as before.
        """
        first, era = len(self.rows), self._era
        longest = max(row.cached_tokens + 1 for row in (*self.rows, *rows))
        self._cache.reserve(first + len(rows), longest)
        starts = self._starts(rows)
        unread = [(row.prompt, start.past) for row, start in zip(rows, starts, strict=True)]
        ends = np.cumsum([0, *(len(prompt) - past for prompt, past in unread)]).tolist()
        spans = [
            Span(first + i, ends[i], ends[i + 1], past=start.past, lender=start.lender)
            for i, start in enumerate(starts)
        ]
        for span, start in zip(spans, starts, strict=True):
            self._cache.fill(span.slot, start.parts)
        ids = torch.from_numpy(np.concatenate([p.token_ids[past:] for p, past in unread]))
        positions = np.concatenate([p.positions[:, past:] for p, past in unread], axis=1)
        embeddings = self._stack.embed(ids.to(self._stack.device))
        deep = self._show_pictures(embeddings, unread, ends)
        logits = self._stack.prefill(
            embeddings,
            torch.from_numpy(positions),
            spans=spans,
            cache=self._cache,
            deep=deep,
        )
        for row, start in zip(rows, starts, strict=True):
            row.reused_tokens, row.era = start.past, era
        draw(logits, rows)
        self.rows += rows

    def step(self) -> None:
        """Draw one more token for every row; all of them must want one."""
        lengths = [row.cached_tokens for row in self.rows]
        self._cache.reserve(len(lengths), max(lengths) + 1)
        logits = self._stack.decode(
            [row.transcript.token_ids[-1] for row in self.rows],
            [next_position(row) for row in self.rows],
            lengths=lengths,
            cache=self._cache,
        )
        draw(logits, self.rows)

    def remove(self, leaving: Sequence[Row[Prompt]]) -> None:
        """Take rows out, to be found by their beginnings; the last rows move into their slots."""
        for row in leaving:
            slot = self.rows.index(row)
            if row.is_sound and row.era == self._era and self._prefixes.keeps:
                self._prefixes.keep(_marks(row), partial(self._cache.read, slot))
            last = self.rows.pop()
            if not row.is_sound:
                self._cache.scrub(slot)
            if last is not row:
                self._cache.move(len(self.rows), slot, last.cached_tokens)
                self.rows[slot] = last

    def clear(self) -> None:
        """Take all rows out, and leave nothing of them behind."""
        self.rows.clear()
        self._cache = self._stack.new_cache(limit_bytes=self._cache_bytes)

    def forget(self) -> None:
        """Let go of all that is kept of pictures and prompts; any thread may ask for it.

        Rows that are under way end as they began, but nothing of them is kept or lent any more.
        """
        self._era += 1
        self._tower.forget()
        self._prefixes.clear()

    def _starts(self, rows: Sequence[Row[Prompt]]) -> list[_Start]:
        """Say for each row how its prompt begins; rows beside it, and before it, may lend."""
        starts: list[_Start] = []
        if not self._prefixes.keeps:
            return [_Start()] * len(rows)
        beside = [_marks(row) if row.era == self._era else NO_MARKS for row in self.rows]
        for row in rows:
            marks = row.prompt.marks
            most = len(marks) - 1  # the last token is read in any case, to draw the next one
            kept = self._prefixes.find(marks, most=most)
            start = _Start(kept.tokens, kept.parts)
            for slot, others in enumerate(beside):
                shared = min(common(marks, others), most)
                if shared > start.past:
                    start = _Start(shared, lender=slot)
            starts.append(start)
            beside.append(marks)
        return starts

    def _show_pictures(
        self,
        embeddings: torch.Tensor,
        unread: Sequence[tuple[Prompt, int]],
        starts: Sequence[int],
    ) -> Deep | None:
        shown = [
            (patches, places - past + start, skipped)
            for (prompt, past), start in zip(unread, starts, strict=False)
            for patches, places, skipped in prompt.pictures_after(past)
        ]
        if not shown:
            return None
        seen = self._tower.see(patches for patches, _, _ in shown)
        features = [seen[patches.digest].after(skipped) for patches, _, skipped in shown]
        places = torch.from_numpy(np.concatenate([at for _, at, _ in shown]))
        places = places.to(embeddings.device)
        tokens = torch.cat([f.tokens for f in features]).to(embeddings.dtype)
        embeddings.index_copy_(0, places, tokens)
        by_layer = zip(*(f.deep for f in features), strict=True)
        deep = tuple(torch.cat(layer).to(embeddings.dtype) for layer in by_layer)
        return Deep(places, deep) if deep else None


def _marks(row: Row[Prompt]) -> Marks:
    """Mark the tokens that stand in a row's slot."""
    drawn = text_marks(row.transcript.token_ids)
    return np.concatenate([row.prompt.marks, drawn])[: row.cached_tokens]


def next_position(row: Row[Prompt]) -> int:
    """Give the rotary position of the last token drawn, which is read next."""
    return row.prompt.next_position + len(row.transcript.token_ids) - 1


def draw(logits: torch.Tensor, rows: Sequence[Row[LaidT]]) -> None:
    """Give each row its most probable token, with the log-probabilities it asked for.

    Shapes: logits (B, V) float32. Units: nats, raw. Only (B, K) values leave the device; K beyond
    the vocabulary is clipped.
    """
    best, ids = (t.tolist() for t in logits.max(dim=-1))
    most = min(max(row.top_k for row in rows), logits.shape[1])
    logp_topk, topk_ids = _most_probable(logits, most)
    for number, row in enumerate(rows):
        row.is_sound = math.isfinite(best[number])
        if row.is_sound and row.transcript.add(ids[number]) and row.top_k > 0:
            row.logp_topk.append(logp_topk[number, : row.top_k])
            row.topk_ids.append(topk_ids[number, : row.top_k])


def _most_probable(
    logits: torch.Tensor, count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Give the K highest log-probabilities and their ids: (B, K) each, descending."""
    if count == 0:  # a log-softmax over the vocabulary costs more than the rest of a small step
        return np.empty((len(logits), 0), np.float32), np.empty((len(logits), 0), np.int64)
    top = torch.log_softmax(logits, dim=-1).topk(count)
    return top.values.cpu().numpy(), top.indices.cpu().numpy()
