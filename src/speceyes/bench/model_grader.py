"""What the rules leave undecided, a text model is asked here, if there is one.

It refuses to know how the model is reached. It decides nothing that the rules have decided, and a
model that fails or says neither 1 nor 0 leaves the grade undecided, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from speceyes.bench.grade import Grade
from speceyes.bench.questioning import QUESTIONING_VERSION, conversation, read_grade
from speceyes.errors import ConfigError, EngineError
from speceyes.types import Engine, GenerateRequest

MAX_VERDICT_TOKENS: Final = 16  # a digit, a label for it, an end
_SHOWN_CHARS: Final = 40

Settled: TypeAlias = tuple[str, Grade]  # the case's key, and its grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One reply as the rules left it; `key` is the caller's name for it."""

    key: str
    question: str
    options: tuple[str, ...]
    truth: str
    reply: str
    before: Grade


class ModelGrader:
    """Ask an engine about replies that the rules could not read; who opened it closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """What its grades are signed with."""
        return f"model:{self._engine.name}"

    async def decide(self, case: Case) -> Grade:
        """Decide an undecided grade; any other is given back as it is."""
        if not case.before.is_undecided:
            return case.before
        try:
            said = await self._engine.generate(_request(case))
        except EngineError as error:
            return _undecided(case.before, f"the model could not be asked: {error}")
        is_right = read_grade(said.text)
        if is_right is None:
            shown = said.text.strip()[:_SHOWN_CHARS]
            return _undecided(case.before, f"{self.name} said {shown!r}, neither 1 nor 0")
        means = "the right answer" if is_right else "another answer, or none"
        why = f"{case.before.explanation}; it means {means} (question {QUESTIONING_VERSION})"
        answer = case.truth if is_right else None
        return Grade("right" if is_right else "wrong", answer, why, by=self.name)

    @asynccontextmanager
    async def settle(
        self, cases: Iterable[Case], *, concurrency: int
    ) -> AsyncIterator[MemoryObjectReceiveStream[Settled]]:
        """Decide many cases, at most `concurrency` at once; iterate over what it gives.

        Each is given as soon as it is decided, in any order. A case is taken from the source only
        when there is room for it. Leaving early cancels what is under way. An error of the source
        is raised on leaving, after the grades of what was under way.
        Raises: ConfigError if concurrency is below 1.
        """
        if concurrency < 1:
            raise ConfigError("concurrency", f"{concurrency} is below 1; nothing would be graded")
        send, receive = anyio.create_memory_object_stream[Settled]()
        errors: list[Exception] = []

        async def work() -> None:
            try:
                await self._work(cases, concurrency, send)
            except Exception as error:  # noqa: BLE001 - raised below, out of the task group
                errors.append(error)

        with receive:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                try:
                    yield receive
                except Exception as error:  # noqa: BLE001 - raised below, not in a group
                    errors.insert(0, error)
                tasks.cancel_scope.cancel()
        if errors:
            raise errors[0]

    async def _work(
        self, cases: Iterable[Case], concurrency: int, send: MemoryObjectSendStream[Settled]
    ) -> None:
        room = anyio.Semaphore(concurrency)

        async def ask(case: Case) -> None:
            grade = await self.decide(case)
            await send.send((case.key, grade))
            room.release()

        error: Exception | None = None
        async with send, anyio.create_task_group() as tasks:
            await room.acquire()
            try:
                for case in cases:
                    tasks.start_soon(ask, case)
                    await room.acquire()
            except Exception as broken:  # noqa: BLE001 - what was started ends first
                error = broken
        if error is not None:
            raise error


def _request(case: Case) -> GenerateRequest:
    asked = conversation(case.question, case.options, truth=case.truth, reply=case.reply)
    return GenerateRequest(asked, MAX_VERDICT_TOKENS)


def _undecided(before: Grade, why: str) -> Grade:
    return replace(before, explanation=f"{before.explanation}; {why}")
