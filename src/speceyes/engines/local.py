"""The local engine runs a vision model in this process, many requests in one batch.

    generate -> prompt (in a worker thread) -> ticket -> batch, a token per step -> generation

Qwen's models go through layers of our own (stack.py), any other that transformers knows through
its own loop (stock.py). It works under asyncio and trio alike, and for several event loops at once.
Prompts are written and pictures cut outside the thread that owns the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final, Protocol, Self

import numpy as np
from anyio import get_cancelled_exc_class, to_thread
from transformers import AutoConfig

from speceyes.engines.checkpoint import Checkpoint, fault_of, load_checkpoint, loading
from speceyes.engines.decode import Batch, Laid, Row
from speceyes.engines.patches import PatchCutter
from speceyes.engines.prefixes import PrefixTree
from speceyes.engines.prompt import PromptWriter, check_request
from speceyes.engines.rendering import Renderer
from speceyes.engines.sight import VisionTower
from speceyes.engines.stack import TextStack
from speceyes.engines.stock import StockBatch
from speceyes.engines.stock_checkpoint import StockCheckpoint, load_stock_checkpoint
from speceyes.engines.stock_prompt import StockPromptWriter
from speceyes.engines.transcript import TokenTexts, Transcript
from speceyes.engines.worker import LocalLimits, ModelThread, Steps, Tally, Ticket
from speceyes.errors import ConfigError, EngineError, EngineUnavailable
from speceyes.load import Load
from speceyes.meter import note_lost
from speceyes.types import Evidence, GenerateRequest, Generation, Usage

_DEFAULT_LIMITS: Final = LocalLimits()


class _Writer(Protocol):
    """Whatever writes prompts; called from many threads at once."""

    def write(self, request: GenerateRequest) -> Laid: ...


@dataclass(frozen=True, slots=True)
class _Machinery:
    """The parts that depend on how a model is run."""

    batch: Steps
    writer: _Writer
    context_tokens: int
    forget: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an open engine works with; let go of when it closes."""

    texts: TokenTexts
    end_ids: frozenset[int]
    machinery: _Machinery
    thread: ModelThread


class LocalEngine:
    """Generate with a checkpoint in this process. Implements `types.Engine`.

    Raises, from `generate`: EngineError by kind; InputError and PictureError for what the caller
    gave; ContextTooLong if prompt and one token do not fit. An answer that reaches the end of the
    context finishes with "length".
    """

    def __init__(
        self,
        checkpoint: Checkpoint | StockCheckpoint,
        *,
        name: str,
        threads: int | None = None,
        limits: LocalLimits = _DEFAULT_LIMITS,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError("threads", f"{threads} is below 1")
        self._name = name
        if isinstance(checkpoint, Checkpoint):
            machinery = _own_machinery(checkpoint, name, limits)
        else:
            machinery = _stock_machinery(checkpoint, name, limits)
        thread = ModelThread(machinery.batch, engine=name, threads=threads, limits=limits)
        self._tally = thread.tally
        self._parts: _Parts | None = _Parts(
            texts=TokenTexts(checkpoint.tokenizer),
            end_ids=checkpoint.end_ids,
            machinery=machinery,
            thread=thread,
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

        How it is run depends on what its configuration says that it is, not on its name.
        `threads` bounds torch's CPU threads for this engine's model; torch keeps a part of that
        setting per process, so give all engines the same. Takes seconds: from async code, call it
        in a worker thread.
        """
        with loading(source, engine=name):
            is_own = fault_of(AutoConfig.from_pretrained(source)) is None
        load = load_checkpoint if is_own else load_stock_checkpoint
        checkpoint = load(source, engine=name, device=device, dtype=dtype)
        return cls(checkpoint, name=name, threads=threads, limits=limits)

    @property
    def name(self) -> str:
        """The name given to it, which also stands in usage and errors."""
        return self._name

    @property
    def tally(self) -> Tally:
        """What it has done since it was made."""
        return replace(self._tally)

    @property
    def present_load(self) -> Load:
        """How many requests are in the batch now, and how many wait."""
        return self._open().thread.load

    async def generate(self, request: GenerateRequest) -> Generation:
        """Go on with the conversation. If cancelled, the row leaves the batch at the next step."""
        parts = self._open()
        check_request(request)
        write, context_tokens = parts.machinery.writer.write, parts.machinery.context_tokens
        try:
            prompt = await to_thread.run_sync(write, request, abandon_on_cancel=True)
        except get_cancelled_exc_class():
            note_lost(Usage.zero)  # the model had not begun
            raise
        max_tokens = min(request.max_tokens, context_tokens - len(prompt))
        transcript = Transcript(
            parts.texts, end_ids=parts.end_ids, stop=request.stop, max_tokens=max_tokens
        )
        row = Row(prompt, transcript, top_k=request.top_logprobs)
        ticket = Ticket(row, reserved_tokens=len(prompt) + max_tokens)
        parts.thread.submit(ticket)
        try:
            await ticket.done.wait()
        except get_cancelled_exc_class():
            note_lost(_usage(row) if ticket.is_taken else Usage.zero)
            raise
        finally:
            ticket.is_abandoned = True
        if ticket.error is not None:
            raise ticket.error
        return self._generation(row, parts.texts)

    def forget(self) -> None:
        """Let go of kept pictures and prompts, so that the next request is read afresh."""
        self._open().machinery.forget()

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

    def _generation(self, row: Row[Any], texts: TokenTexts) -> Generation:
        transcript = row.transcript
        if transcript.finish is None:
            raise EngineError(self._name, "a row came back unfinished")
        return Generation(
            text=transcript.text,
            finish=transcript.finish,
            stop_string=transcript.stop_string,
            token_count=len(transcript.token_ids),
            evidence=_evidence(row, texts) if row.top_k else None,
            usage=_usage(row),
            engine=self._name,
        )


def _own_machinery(checkpoint: Checkpoint, engine: str, limits: LocalLimits) -> _Machinery:
    tower = VisionTower(checkpoint.model, limit_bytes=limits.picture_bytes)
    prefixes = PrefixTree(limits.prefix_bytes)
    stack = TextStack(checkpoint.model)
    batch = Batch(stack, tower, prefixes, cache_bytes=limits.cache_bytes)
    context_tokens = _context_tokens(checkpoint, batch, limits)
    cutter = PatchCutter(
        checkpoint.image_processor, merge=checkpoint.merge, limit_bytes=limits.picture_bytes
    )
    writer = PromptWriter(
        checkpoint.tokenizer,
        cutter,
        engine=engine,
        image_token_id=checkpoint.image_token_id,
        max_tokens=context_tokens,
    )

    def forget() -> None:
        cutter.forget()
        batch.forget()

    return _Machinery(batch, writer, context_tokens, forget)


def _stock_machinery(checkpoint: StockCheckpoint, engine: str, limits: LocalLimits) -> _Machinery:
    batch = StockBatch(checkpoint.model, pad_id=checkpoint.pad_id, cache_bytes=limits.cache_bytes)
    context_tokens = _context_tokens(checkpoint, batch, limits)
    processor = checkpoint.processor
    renderer = Renderer(processor, special=checkpoint.special, apart=" ", engine=engine)
    writer = StockPromptWriter(processor, renderer, engine=engine, max_tokens=context_tokens)
    return _Machinery(batch, writer, context_tokens, forget=lambda: None)  # it keeps nothing


def _context_tokens(
    checkpoint: Checkpoint | StockCheckpoint, batch: Steps, limits: LocalLimits
) -> int:
    asked = limits.max_context_tokens or checkpoint.max_positions
    return min(asked, checkpoint.max_positions, batch.limit_tokens)


def _usage(row: Row[Any]) -> Usage:
    return Usage(
        prompt_tokens=len(row.prompt),
        cached_tokens=row.reused_tokens,
        completion_tokens=row.transcript.drawn_tokens,
        images=len(row.prompt.pictures),
    )


def _evidence(row: Row[Any], texts: TokenTexts) -> Evidence:
    # Texts are looked up for every row: a table of tokens makes that about a microsecond a token.
    if not row.logp_topk:
        nothing = np.empty((0, row.top_k), dtype=np.float32)
        return Evidence(nothing, nothing[:, 0])
    logp_topk = np.stack(row.logp_topk)  # (T, K) float32, descending
    candidates = tuple(tuple(texts[n] for n in ids.tolist()) for ids in row.topk_ids)
    return Evidence(logp_topk, logp_topk[:, 0], candidates)
