"""The methods that are compared, each a funnel of its own on the same two engines.

It refuses to know concrete engines, and what is asked of the methods.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from speceyes.bench.records import Method
from speceyes.funnel import Funnel, Outcome
from speceyes.phases import Parts, Rules
from speceyes.policies.fixed import Policy, agent_only, serial, small_only
from speceyes.specreason import LEAST_SCORE, MAX_STEPS, SpecReason
from speceyes.types import Engine, Query


class Eyes(Protocol):
    """Answer queries: `speceyes.SpecEyes`, or a funnel, once it is open."""

    def answer_many(
        self, queries: Iterable[Query] | AsyncIterable[Query], *, concurrency: int
    ) -> AsyncGenerator[Outcome, None]:
        """Give each query's outcome as soon as it is there."""
        ...


@runtime_checkable
class Forgetful(Protocol):
    """An engine that keeps pictures it has seen, and can be made to let go of them."""

    def forget(self) -> None:
        """Keep nothing of what was seen."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contenders:
    """Who answers, by method, and the engines that they share."""

    eyes: Mapping[Method, Eyes]
    engines: Sequence[Engine] = ()

    def forget(self) -> None:
        """Make the engines forget, so that who comes later sees each picture anew as well."""
        for engine in self.engines:
            if isinstance(engine, Forgetful):
                engine.forget()


@asynccontextmanager
async def contenders_on(
    parts: Parts,
    rules: Rules,
    methods: Sequence[Method],
    *,
    policy: Policy = serial,
    least_score: int = LEAST_SCORE,
) -> AsyncGenerator[Contenders, None]:
    """Let every method have its funnel on the same engines; `policy` is that of SpecEyes."""
    agent = parts.agent
    reasoner = replace(
        agent,
        speaker=SpecReason(small=parts.small, large=agent.engine, least_score=least_score),
        budget=replace(agent.budget, max_turns=MAX_STEPS),
    )
    made: dict[Method, Funnel] = {
        "baseline": Funnel(parts, rules, agent_only),
        "speceyes": Funnel(parts, rules, policy),
        "specreason": Funnel(replace(parts, agent=reasoner), rules, agent_only),
        "small": Funnel(parts, rules, small_only),
    }
    async with AsyncExitStack() as stack:
        eyes = {method: await stack.enter_async_context(made[method]) for method in methods}
        yield Contenders(eyes=eyes, engines=(parts.small, agent.engine))
