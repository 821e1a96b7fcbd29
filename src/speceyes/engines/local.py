"""The local engine runs a Qwen vision model in this process, many requests in one batch.

    generate -> prompt (in a worker thread) -> ticket -> batch, a token per step -> generation

It works under asyncio and trio alike, and for several event loops at once. Prompts are written
and pictures cut outside the thread that owns the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Final, Self

import numpy as np
from anyio import to_thread

from speceyes.engines.checkpoint import Checkpoint, load_checkpoint
from speceyes.engines.decode import Batch, Row
from speceyes.engines.patches import PatchCutter
from speceyes.engines.prompt import PromptWriter, check_request
from speceyes.engines.sight import VisionTower
from speceyes.engines.stack import TextStack
from speceyes.engines.transcript import TokenTexts, Transcript
from speceyes.engines.worker import LocalLimits, ModelThread, Tally, Ticket
from speceyes.errors import ConfigError, EngineError, EngineUnavailable
from speceyes.types import Evidence, GenerateRequest, Generation, Usage

_DEFAULT_LIMITS: Final = LocalLimits()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open engine works with; let go of when it closes."""

    texts: TokenTexts
    end_ids: frozenset[int]
    cutter: PatchCutter
    writer: PromptWriter
    tower: VisionTower
    thread: ModelThread
    context_tokens: int


class LocalEngine:
    """Generate with a checkpoint in this process. Implements `types.Engine`.

    Raises, from `generate`: EngineError by kind; InputError and PictureError for what the caller
    gave; ContextTooLong if prompt and one token do not fit. An answer that reaches the end of the
    context finishes with "length".
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        threads: int | None = None,
        limits: LocalLimits = _DEFAULT_LIMITS,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError("threads", f"{threads} is below 1")
        self._name = name
        tower = VisionTower(checkpoint.model, limit_bytes=limits.picture_bytes)
        batch = Batch(TextStack(checkpoint.model), tower, cache_bytes=limits.cache_bytes)
        asked = limits.max_context_tokens or checkpoint.max_positions
        context_tokens = min(asked, checkpoint.max_positions, batch.limit_tokens)
        cutter = PatchCutter(
            checkpoint.image_processor, merge=checkpoint.merge, limit_bytes=limits.picture_bytes
        )
        writer = PromptWriter(
            checkpoint.tokenizer,
            cutter,
            engine=name,
            image_token_id=checkpoint.image_token_id,
            max_tokens=context_tokens,
        )
        thread = ModelThread(batch, engine=name, threads=threads, limits=limits)
        self._tally = thread.tally
        self._parts: _Parts | None = _Parts(
            texts=TokenTexts(checkpoint.tokenizer),
            end_ids=checkpoint.end_ids,
            cutter=cutter,
            writer=writer,
            tower=tower,
            thread=thread,
            context_tokens=context_tokens,
        )

    @classmethod
    def load(
        cls,
        source: str | PathLike[str],
        *,
        name: str,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        limits: LocalLimits = _DEFAULT_LIMITS,
    ) -> Self:
        """Load a checkpoint from a folder or the hub; see `load_checkpoint` for the defaults.

        `threads` bounds torch's CPU threads for this engine's model; torch keeps a part of that
        setting per process, so give all engines the same. Takes seconds: from async code, call it
        in a worker thread.
        """
        checkpoint = load_checkpoint(source, engine=name, device=device, dtype=dtype)
        return cls(checkpoint, name=name, threads=threads, limits=limits)

    @property
    def name(self) -> str:
        """The name given to it, which also stands in usage and errors."""
        return self._name

    @property
    def tally(self) -> Tally:
        """What it has done since it was made."""
        return replace(self._tally)

    async def generate(self, request: GenerateRequest) -> Generation:
        """Go on with the conversation. If cancelled, the row leaves the batch at the next step."""
        parts = self._open()
        check_request(request)
        prompt = await to_thread.run_sync(parts.writer.write, request, abandon_on_cancel=True)
        max_tokens = min(request.max_tokens, parts.context_tokens - len(prompt))
        transcript = Transcript(
            parts.texts, end_ids=parts.end_ids, stop=request.stop, max_tokens=max_tokens
        )
        row = Row(prompt, transcript, top_k=request.top_logprobs)
        ticket = Ticket(row, reserved_tokens=len(prompt) + max_tokens)
        parts.thread.submit(ticket)
        try:
            await ticket.done.wait()
        finally:
            ticket.is_abandoned = True
        if ticket.error is not None:
            raise ticket.error
        return self._generation(row, parts.texts)

    def forget(self) -> None:
        """Let go of kept pictures, so that the next request sees its pictures afresh."""
        parts = self._open()
        parts.cutter.forget()
        parts.tower.forget()

    async def aclose(self) -> None:
        """End the model's thread after its present step; requests under way get an error."""
        parts, self._parts = self._parts, None
        thread = parts.thread.close() if parts is not None else None
        if thread is not None:
            await to_thread.run_sync(thread.join, abandon_on_cancel=True)

    def _open(self) -> _Parts:
        if self._parts is None:
            raise EngineUnavailable(self._name, "is closed; load it again")
        return self._parts

    def _generation(self, row: Row, texts: TokenTexts) -> Generation:
        transcript = row.transcript
        if transcript.finish is None:
            raise EngineError(self._name, "a row came back unfinished")
        return Generation(
            text=transcript.text,
            finish=transcript.finish,
            stop_string=transcript.stop_string,
            token_count=len(transcript.token_ids),
            evidence=_evidence(row, texts) if row.top_k else None,
            usage=Usage(
                prompt_tokens=len(row.prompt),
                cached_tokens=0,
                completion_tokens=transcript.drawn_tokens,
                images=len(row.prompt.pictures),
            ),
            engine=self._name,
        )


def _evidence(row: Row, texts: TokenTexts) -> Evidence:
    # Texts are looked up for every row: a table of tokens makes that about a microsecond a token.
    if not row.logp_topk:
        nothing = np.empty((0, row.top_k), dtype=np.float32)
        return Evidence(nothing, nothing[:, 0])
    logp_topk = np.stack(row.logp_topk)  # (T, K) float32, descending
    candidates = tuple(tuple(texts[n] for n in ids.tolist()) for ids in row.topk_ids)
    return Evidence(logp_topk, logp_topk[:, 0], candidates)
