"""The stock batch draws tokens with transformers' own `generate`, for models stack.py cannot run.

It refuses to know threads and event loops, and what kind of model it has. `generate` reads padded
prompts and keeps the cache; it is halted after each step, so rows are looked at, and leave, between
steps as in decode.py. What it cannot do is take in a row later: rows are read together, and the
next ones wait until these are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from speceyes.engines.decode import Row, draw
from speceyes.engines.stepwise import Halt, Stepwise
from speceyes.engines.stock_prompt import StockPrompt, can_stack, stack


class StockBatch:
    """Draw tokens greedily for rows that came together; row i keeps seat i to the end."""

    def __init__(self, model: Any, *, pad_id: int, cache_bytes: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._seats: list[Row[StockPrompt] | None] = []
        self._job: Stepwise | None = None
        self.limit_tokens = cache_bytes // bytes_per_token(model)
        self.rows: list[Row[StockPrompt]] = []
        self.pictures_seen = 0

    def takes(self, row: Row[StockPrompt], others: Sequence[Row[StockPrompt]]) -> bool:
        """Say if a row can be read together with others that are about to be."""
        return not self.rows and all(can_stack(row.prompt, other.prompt) for other in others)

    def admit(self, rows: Sequence[Row[StockPrompt]]) -> None:
        """Read prompts, and draw the first token of each; they may be done then.

        Invariants: if it raises, the batch is as before.
        """
        inputs = stack([row.prompt for row in rows], pad_id=self._pad_id)
        self._seats = list(rows)
        self._job = Stepwise(partial(self._generate, inputs), name="speceyes-stock")
        try:
            self._job.advance()
        except BaseException:
            self.clear()
            raise
        self.pictures_seen += sum(len(row.prompt.pictures) for row in rows)
        self.rows = list(rows)

    def step(self) -> None:
        """Draw one more token for every row; all of them must want one."""
        if self._job is None or not self._job.advance():
            raise RuntimeError("transformers ended a generation on its own account")

    def remove(self, leaving: Sequence[Row[StockPrompt]]) -> None:
        """Take rows out; their seats stay empty until all are."""
        for row in leaving:
            self.rows.remove(row)
            self._seats[self._seats.index(row)] = None
        if not self.rows:
            self.clear()

    def clear(self) -> None:
        """Take all rows out, and leave nothing of them behind."""
        job, self._job = self._job, None
        if job is not None:
            job.end()
        self._seats, self.rows = [], []

    def _generate(self, inputs: dict[str, Any], halt: Halt) -> None:
        device, dtype = self._model.device, self._model.dtype
        most = max(row.transcript.max_tokens for row in self._seats if row is not None)
        with torch.inference_mode():
            self._model.generate(
                **{name: _placed(value, device, dtype) for name, value in inputs.items()},
                max_new_tokens=most,
                do_sample=False,
                logits_processor=[partial(self._choose, halt)],
            )

    def _choose(self, halt: Halt, _ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        # `generate` calls this with the raw logits of all seats, (R, V) float32, and goes on with
        # the highest of what it gets back: of a tie, the one that was drawn.
        drawing = [(seat, row) for seat, row in enumerate(self._seats) if row is not None]
        draw(logits[[seat for seat, _ in drawing]], [row for _, row in drawing])
        chosen = torch.full_like(logits, -torch.inf)
        chosen[:, 0] = 0.0
        for seat, row in drawing:
            if not row.is_done:
                chosen[seat, row.transcript.token_ids[-1]] = 1.0
        halt()
        return chosen


def bytes_per_token(model: Any) -> int:
    """Estimate what one token takes in the cache: keys and values of all layers.

    Models of unusual make count as if every head kept its own, which is the most.
    """
    text = model.config.get_text_config()
    heads = int(text.num_attention_heads)
    width = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    return 2 * int(text.num_hidden_layers) * int(kept) * int(width) * int(model.dtype.itemsize)


def _placed(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    return [_placed(one, device, dtype) for one in value] if isinstance(value, list) else value
