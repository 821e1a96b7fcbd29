"""Engines are asked here, through the one seam they all share, for what the doctor wants to know.

It refuses to judge: every request becomes a sample, an answer or a named error, with its time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, runtime_checkable

import anyio

from speceyes.agent import ask
from speceyes.doctor.findings import Figure, Measures, Sample, Wants
from speceyes.errors import EngineTimeout, SpecEyesError
from speceyes.types import Engine, GenerateRequest, Image, Message, Part, Picture, Text

DEFAULT_TIMEOUT_S: Final = 120.0  # a server's first picture can take half a minute
_TOKENS: Final = 12
_LADDER: Final = (20, 5, 2)  # how many top log-probabilities common servers stop at
_ASKED: Final = "Describe the picture in one sentence."
_BEGUN: Final = "A"  # one letter, so one token whatever the vocabulary


class Served(Protocol):
    """A model that a server says it serves."""

    @property
    def model_id(self) -> str:
        """Its name there."""
        ...

    @property
    def max_model_len(self) -> int | None:
        """How long prompt and answer may be together, if the server says so."""
        ...


@runtime_checkable
class Serving(Protocol):
    """An engine behind which a server stands that can say what it serves."""

    async def served_models(self) -> Sequence[Served]:
        """Ask it. Raises: EngineError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """Send one engine its requests. There must be two pictures, unlike, and of one size."""

    engine: Engine
    wants: Wants
    pictures: tuple[Picture, ...]
    timeout_s: float = DEFAULT_TIMEOUT_S
    clock: Callable[[], float] = field(default=anyio.current_time)

    async def measure(self) -> Measures:
        """Ask everything, one request after the other; an engine out of reach is asked once."""
        plain = await self.sample(_request(()))
        seen = Measures(name=self.engine.name, plain=plain)
        if plain.error is not None:
            return seen
        seen = replace(seen, facts=await self._facts())
        seen = await self._see(seen)
        stopped = await self._stop(seen) if self.wants.uses_stop else None
        return replace(
            seen,
            stopped=stopped,
            pictures=tuple([entry async for entry in self._count_pictures()]),
            continued=await self._continue(),
        )

    async def sample(self, request: GenerateRequest) -> Sample:
        """Send one request; whatever it raises on purpose is what came of it."""
        began_s = self.clock()
        generation, error = None, None
        try:
            with anyio.fail_after(self.timeout_s):
                generation = await ask(self.engine, request)
        except TimeoutError:
            error = EngineTimeout(self.engine.name, f"no reply within {self.timeout_s:g} s")
        except SpecEyesError as raised:
            return Sample(seconds=self.clock() - began_s, error=raised)
        return Sample(seconds=self.clock() - began_s, generation=generation, error=error)

    async def _facts(self) -> Mapping[str, Figure]:
        if not isinstance(self.engine, Serving):
            return {}
        try:
            with anyio.fail_after(self.timeout_s):
                served = await self.engine.served_models()
        except (SpecEyesError, TimeoutError):
            return {}
        models = ", ".join(one.model_id for one in served)
        limits = [one.max_model_len for one in served if one.max_model_len is not None]
        return {"served": models, "context_tokens": min(limits, default=None)}

    async def _see(self, seen: Measures) -> Measures:
        """Show a picture, for as many top log-probabilities as are wanted, or as are given."""
        tried: list[tuple[int, Sample]] = []
        for count in _steps_down(self.wants.logprobs, _LADDER):
            request = replace(_request((self.pictures[0],)), top_logprobs=count)
            tried.append((count, await self.sample(request)))
            if has_evidence(tried[-1][1]):
                break
        count, picture = tried[-1]
        if picture.generation is None:
            return replace(seen, picture=await self.sample(_request((self.pictures[0],))))
        other = replace(_request((self.pictures[1],)), top_logprobs=count)
        return replace(
            seen,
            picture=picture,
            logprobs=tuple(tried),
            other_picture=await self.sample(other),
        )

    async def _stop(self, seen: Measures) -> tuple[str, Sample] | None:
        said = seen.picture.generation if seen.picture is not None else None
        stop = (
            next((c for c in said.text[1:] if c.isascii() and c.isalnum()), None) if said else None
        )
        if stop is None:
            return None
        return stop, await self.sample(replace(_request((self.pictures[0],)), stop=(stop,)))

    async def _count_pictures(self) -> AsyncIterator[tuple[int, Sample]]:
        halves = (self.wants.pictures // 2, self.wants.pictures // 4)
        for count in _steps_down(self.wants.pictures, (*halves, self.wants.least_pictures)):
            if count > 1:
                sample = await self.sample(_request((self.pictures[0],) * count))
                yield count, sample
                if sample.generation is not None:
                    return

    async def _continue(self) -> Sample:
        request = _request((self.pictures[0],))
        begun = (*request.messages, Message("assistant", (Text(_BEGUN),)))
        return await self.sample(replace(request, messages=begun, continue_final_message=True))


def has_evidence(sample: Sample) -> bool:
    """Say if top log-probabilities came, of one token at least."""
    said = sample.generation
    return said is not None and said.evidence is not None and said.evidence.logp_topk.size > 0


def _request(pictures: tuple[Picture, ...]) -> GenerateRequest:
    parts: tuple[Part, ...] = (*(Image(picture) for picture in pictures), Text(_ASKED))
    return GenerateRequest((Message("user", parts),), max_tokens=_TOKENS)


def _steps_down(first: int, others: tuple[int, ...]) -> Iterator[int]:
    yield first
    yield from sorted({count for count in others if 0 < count < first}, reverse=True)
