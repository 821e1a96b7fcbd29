"""One visit: both engines are measured, then one screen, one speculation and one turn are timed.

It refuses to open engines; it is handed the funnel's own parts and rules, so that what it finds is
what queries will meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Final

import anyio

from speceyes import prompts
from speceyes.agent import request_for
from speceyes.builtin.suite import draw_item
from speceyes.doctor.clocks import (
    find_context,
    find_prefix_cache,
    find_screen,
    find_speculation,
    find_turn,
)
from speceyes.doctor.findings import Finding, Measures, Sample, Wants, read_engine
from speceyes.doctor.probes import DEFAULT_TIMEOUT_S, Prober
from speceyes.phases import Parts, Rules
from speceyes.pictures import DecodedPictures
from speceyes.screen import SCREEN_WORDS
from speceyes.types import Box, GenerateRequest, Malformed, Picture, Query, ToolProtocol, View

_SIDE_PX: Final = 224  # of the pictures sent: small enough for any context, and 8 patches wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that one visit found."""

    small: str
    large: str
    protocol: str
    gate_k: int
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """Say if the funnel can do its work: nothing failed."""
        return not any(finding.status == "failure" for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Look at the two engines of a funnel."""

    parts: Parts
    rules: Rules
    timeout_s: float = DEFAULT_TIMEOUT_S
    clock: Callable[[], float] = anyio.current_time

    async def run(self) -> Report:
        """Measure, time and read. What engines raise on purpose becomes a finding."""
        one, other = await self.parts.offload(draw_questions)
        found: list[Finding] = []
        for wants in (wants_of_small(self.rules), wants_of_large(self.parts, self.rules)):
            prober = self._prober(wants, one.pictures + other.pictures)
            seen = await prober.measure()
            found += read_engine(seen, wants)
            if seen.plain.error is None:
                found += await self._time(prober, seen, one)
        agent = self.parts.agent
        return Report(
            small=self.parts.small.name,
            large=agent.engine.name,
            protocol=agent.protocol.name,
            gate_k=self.rules.gate.k,
            findings=tuple(found),
        )

    def _prober(self, wants: Wants, pictures: tuple[Picture, ...]) -> Prober:
        engine = self.parts.small if wants.role == "small" else self.parts.agent.engine
        return Prober(
            engine=engine,
            wants=wants,
            pictures=pictures,
            timeout_s=self.timeout_s,
            clock=self.clock,
        )

    async def _time(self, prober: Prober, seen: Measures, query: Query) -> list[Finding]:
        agent, role = self.parts.agent, prober.wants.role
        views = (_view(query, agent.protocol),)
        found = []
        if self.parts.screener is prober.engine:
            found.append(
                find_screen(await self._screen(prober, query, views), self.rules.screen, role)
            )
        if role == "small":
            sample = await self._speculate(prober, query, views)
            return [*found, find_speculation(sample, self.rules.gate)]
        request = self._opening(query, views)
        turn, reply = await prober.sample(request), None
        if turn.generation is not None:
            reply = agent.protocol.parse(turn.generation.text, views)
            again = await prober.sample(replace(request, max_tokens=1))
            found.append(find_prefix_cache(again))
        found.append(find_turn(turn, reply, agent.protocol.name))
        return [*found, find_context(seen, turn, agent.budget)]

    async def _screen(self, prober: Prober, query: Query, views: tuple[View, ...]) -> Sample:
        asked, count = prompts.screen(query, views), self.rules.screen.top_logprobs
        request = request_for(asked, 1, top_logprobs=count)
        return await prober.sample(replace(request, choices=SCREEN_WORDS))

    async def _speculate(self, prober: Prober, query: Query, views: tuple[View, ...]) -> Sample:
        asked, limit = prompts.speculate(query, views), self.rules.max_answer_tokens
        return await prober.sample(request_for(asked, limit, top_logprobs=self.rules.gate.k))

    def _opening(self, query: Query, views: tuple[View, ...]) -> GenerateRequest:
        agent = self.parts.agent
        request = request_for(
            agent.protocol.opening(query, views), agent.budget.max_tokens_per_turn
        )
        return replace(request, stop=agent.protocol.stop, tools=agent.protocol.tools)


def wants_of_small(rules: Rules) -> Wants:
    """Say what the small engine must do: give the gate's K, and see one picture."""
    return Wants(
        role="small",
        logprobs=rules.gate.k,
        least_logprobs=rules.gate.k,
        pictures=1,
        least_pictures=1,
    )


def wants_of_large(parts: Parts, rules: Rules) -> Wants:
    """Say what the large engine must do: screen, and see a crop a turn beside the original."""
    agent = parts.agent
    most = min(agent.max_pictures, agent.budget.max_turns)
    return Wants(
        role="large",
        logprobs=rules.screen.top_logprobs,
        least_logprobs=0,  # without any, it may still say yes or no
        pictures=most,
        least_pictures=min(2, most),
        uses_stop=bool(agent.protocol.stop),
        continues=_continues(agent.protocol),
    )


@cache
def draw_questions() -> tuple[Query, Query]:
    """Draw two questions of the built-in suite, about unlike pictures, and make those small."""
    one, other = (_small(draw_item(index, seed=0).query) for index in range(2))
    return one, other


def as_json(report: Report) -> dict[str, Any]:
    """Lay a report out as one JSON document."""
    return {
        "can_run": report.can_run,
        "small": report.small,
        "large": report.large,
        "protocol": report.protocol,
        "gate_k": report.gate_k,
        "findings": [asdict(finding) for finding in report.findings],
    }


def _small(query: Query) -> Query:
    (scene,) = query.pictures
    picture = DecodedPictures((scene,)).cut(Box(0, 0, *scene.size), (_SIDE_PX, _SIDE_PX))
    return replace(query, pictures=(picture,))


def _view(query: Query, protocol: ToolProtocol) -> View:
    (picture,) = query.pictures
    box = Box(0, 0, *picture.size)
    return View(DecodedPictures(query.pictures).cut(box, protocol.view_size(box.size)), box)


def _continues(protocol: ToolProtocol) -> bool:
    """Say if the protocol goes on with the assistant's own message after a turn."""
    picture = Picture(b"probe", "image/png", _SIDE_PX, _SIDE_PX)
    query = Query("?", (picture,), query_id="probe")
    opening = protocol.opening(query, (View(picture, Box(0, 0, *picture.size)),))
    told = Malformed("no_answer_no_call", "say more")
    following = protocol.proceed(query, opening, reply="", outcome=told)
    return following[-1].role == "assistant"
