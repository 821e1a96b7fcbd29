"""The worker is the one thread that owns a model: tickets in, woken waiters out.

It refuses to know prompts and texts. At each step it takes in what waits, draws a token for every
row and lets go of rows that are done or no longer wanted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import torch
from anyio.lowlevel import EventLoopToken, current_token

from speceyes.engines.decode import Row
from speceyes.errors import ConfigError, EngineError, EngineUnavailable
from speceyes.load import Load


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """Bound what a local engine takes up. Raises: ConfigError naming the field.

    `max_batch`: rows at once. `max_context_tokens`: prompt and answer together; None is what the
    model was made for. `prefill_tokens`: prompts are read together up to this many (one alone may
    be longer). `cache_bytes`: keys and values; a request waits until its share is free.
    `picture_bytes`: recent pictures, as patches, and again as features. `prefix_bytes`: keys and
    values of recent prompts and answers, so that what begins as they do is not read again; 0 keeps
    none.
    """

    max_batch: int = 16
    max_context_tokens: int | None = None
    prefill_tokens: int = 8192
    cache_bytes: int = 4 * 1024**3
    picture_bytes: int = 256 * 1024**2
    prefix_bytes: int = 512 * 1024**2

    def __post_init__(self) -> None:
        for name in ("max_batch", "prefill_tokens", "cache_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"local.{name}", f"{getattr(self, name)} is below 1")
        for name in ("picture_bytes", "prefix_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"local.{name}", f"{getattr(self, name)} is below 0")
        if self.max_context_tokens is not None and self.max_context_tokens < 2:
            raise ConfigError("local.max_context_tokens", f"{self.max_context_tokens} is below 2")


@dataclass(slots=True)
class Tally:
    """Count what an engine has done since it was made.

    `reused_tokens` of the prompts' had been read before. `widest_step` is the most rows that shared
    a step; `abandoned` rows left before they were done.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    steps: int = 0
    drawn_tokens: int = 0
    widest_step: int = 0
    abandoned: int = 0
    pictures_seen: int = 0


class Steps(Protocol):
    """What draws tokens: decode.py's batch, or stock.py's."""

    limit_tokens: int

    @property
    def pictures_seen(self) -> int:
        """How many pictures were looked at."""
        ...

    def takes(self, row: Row[Any], others: Sequence[Row[Any]]) -> bool:
        """Say if a row can be read together with others that are about to be."""
        ...

    def admit(self, rows: Sequence[Row[Any]]) -> None:
        """Read prompts, and draw the first token of each. If it raises, all is as before."""
        ...

    def step(self) -> None:
        """Draw one more token for every row."""
        ...

    def remove(self, leaving: Sequence[Row[Any]]) -> None:
        """Take rows out, done or not."""
        ...

    def clear(self) -> None:
        """Take all rows out, and leave nothing of them behind."""
        ...


class Ticket:
    """One request on its way through the model's thread, and how to wake who waits for it."""

    def __init__(self, row: Row[Any], reserved_tokens: int) -> None:
        self.row = row
        self.reserved_tokens = reserved_tokens
        self.is_abandoned = False
        self.is_taken = False  # out of the queue, so that its prompt is read in any case
        self.error: EngineError | None = None
        self.done = anyio.Event()
        self._loop: EventLoopToken = current_token()

    def wake(self) -> None:
        """Tell the waiting task, from the model's thread, without waiting for its event loop."""
        loop: Any = self._loop.native_token
        soon = getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe
        with suppress(RuntimeError):  # that event loop has ended, and whoever waited with it
            soon(self.done.set)


class ModelThread:
    """Own the model: take tickets, step the batch, wake who waits."""

    def __init__(
        self, batch: Steps, *, engine: str, threads: int | None, limits: LocalLimits
    ) -> None:
        self.tally = Tally()
        self._batch = batch
        self._engine = engine
        self._threads = threads
        self._limits = limits
        self._limit_tokens = batch.limit_tokens
        self._waiting: deque[Ticket] = deque()
        self._running: dict[Row[Any], Ticket] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._defect: BaseException | None = None

    @property
    def load(self) -> Load:
        """How many rows are in the batch, and how many requests wait to be."""
        return Load(running=len(self._running), waiting=len(self._waiting))

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket. Raises: EngineUnavailable once closed."""
        with self._changed:
            if self._is_closed:
                raise self._closed()
            if self._thread is None:
                name = f"speceyes-{self._engine}"
                self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._thread.start()
            self._waiting.append(ticket)
            self._changed.notify()

    def close(self) -> threading.Thread | None:
        """Take no more, end after the present step; give the thread to wait for, if any."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            return self._thread

    def _serve(self) -> None:
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            with torch.inference_mode():
                while self._wait_for_work():
                    self._release_abandoned()
                    self._admit_waiting()
                    self._step()
        except BaseException as error:  # a defect of ours; what the model raises is caught below
            self._defect = error
            raise
        finally:  # nobody may be left waiting
            self.close()
            for ticket in (*self._running.values(), *self._waiting):
                self._finish(ticket, self._closed())

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._is_closed or self._waiting or self._running):
                self._changed.wait()
            return not self._is_closed

    def _release_abandoned(self) -> None:
        leaving = [ticket for ticket in self._running.values() if ticket.is_abandoned]
        self._batch.remove([ticket.row for ticket in leaving])
        for ticket in leaving:
            del self._running[ticket.row]
        self.tally.abandoned += len(leaving)

    def _admit_waiting(self) -> None:
        while group := self._next_group():
            self._admit(group)

    def _next_group(self) -> list[Ticket]:
        group: list[Ticket] = []
        prompt_tokens = 0
        with self._changed:
            while self._waiting and len(self._running) + len(group) < self._limits.max_batch:
                ticket = self._waiting[0]
                prompt_tokens += len(ticket.row.prompt)
                is_too_much = prompt_tokens > self._limits.prefill_tokens
                if ticket.is_abandoned:
                    prompt_tokens -= len(self._waiting.popleft().row.prompt)
                elif (group and is_too_much) or not self._can_join(ticket, group):
                    break
                else:
                    ticket.is_taken = True
                    group.append(self._waiting.popleft())
        return group

    def _can_join(self, ticket: Ticket, group: Sequence[Ticket]) -> bool:
        tickets = (*self._running.values(), *group, ticket)
        longest = max(ticket.reserved_tokens for ticket in tickets)
        has_room = len(tickets) == 1 or len(tickets) * longest <= self._limit_tokens
        return has_room and self._batch.takes(ticket.row, [other.row for other in group])

    def _admit(self, group: Sequence[Ticket]) -> None:
        try:
            self._batch.admit([ticket.row for ticket in group])
        except Exception as error:  # noqa: BLE001 - whatever the model raises becomes an answer
            if len(group) > 1:  # one of them may be at fault: each alone, then
                self._admit_singly(group)
            else:
                self._finish(group[0], self._failure(error))
            return
        self._running |= {ticket.row: ticket for ticket in group}
        self.tally.pictures_seen = self._batch.pictures_seen
        self.tally.prompts += len(group)
        self.tally.prompt_tokens += sum(len(ticket.row.prompt) for ticket in group)
        self.tally.reused_tokens += sum(ticket.row.reused_tokens for ticket in group)
        self.tally.drawn_tokens += len(group)
        self._finish_done()

    def _admit_singly(self, group: Sequence[Ticket]) -> None:
        for number, ticket in enumerate(group):
            if not self._batch.takes(ticket.row, []):  # the one before runs, and runs alone
                with self._changed:
                    self._waiting.extendleft(reversed(group[number:]))
                return
            self._admit([ticket])

    def _step(self) -> None:
        if not self._running:
            return
        width = len(self._running)
        try:
            self._batch.step()
        except Exception as error:  # noqa: BLE001 - whatever the model raises becomes an answer
            tickets = list(self._running.values())
            self._batch.clear()
            self._running.clear()
            for ticket in tickets:
                self._finish(ticket, self._failure(error))
            return
        self.tally.steps += 1
        self.tally.drawn_tokens += width
        self.tally.widest_step = max(width, self.tally.widest_step)
        self._finish_done()

    def _finish_done(self) -> None:
        done = [ticket for row, ticket in self._running.items() if row.is_done]
        self._batch.remove([ticket.row for ticket in done])
        for ticket in done:
            del self._running[ticket.row]
            fault = None
            if not ticket.row.is_sound:
                fault = EngineError(self._engine, "the model's logits are not finite")
            self._finish(ticket, fault)

    def _finish(self, ticket: Ticket, error: EngineError | None) -> None:
        ticket.error = error
        ticket.wake()

    def _failure(self, error: Exception) -> EngineError:
        if isinstance(error, torch.OutOfMemoryError):
            failure: EngineError = EngineUnavailable(self._engine, f"out of memory: {error}")
        else:
            failure = EngineError(self._engine, f"the model failed: {error!r}")
        failure.__cause__ = error
        return failure

    def _closed(self) -> EngineUnavailable:
        reason = "is closed" if self._defect is None else f"broke down ({self._defect!r})"
        return EngineUnavailable(self._engine, f"{reason}; load it again")
