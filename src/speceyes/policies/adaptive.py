"""The adaptive policy starts each query with as much at once as the engines have room for.

It refuses to know what engines are: it sees the events of its queries, counts what is under way,
and reads a load where one is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from speceyes.events import (
    Answered,
    Event,
    PhaseEnded,
    PhaseStarted,
    Screened,
    TurnFinished,
    phase_seconds,
    usage_by_phase,
)
from speceyes.load import Busy, Load, LoadProbe
from speceyes.phases import Passage
from speceyes.policies.contest import Start, run
from speceyes.policies.pace import Line, Mean
from speceyes.types import Engine

DEFAULT_WASTE_BUDGET: Final = 0.5
_FIRST_QUERIES: Final = 4  # that may race before anything is known
_FRESH_S: Final = 0.5  # a load told by a server is asked for anew after this
_STALE_S: Final = 5.0  # and counts for nothing after this
_LEAST_DELAY: Final = 0.05
_DOUBT: Final = 0.5  # of a query about which nothing is known
_PACE: Final = 50.0  # tokens a second, until some were counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known when a query starts.

    `p_accepted`: share of queries that end with the small model's answer, alpha * beta.
    `p_screened`: beta. `large_delay` and `small_delay`: by how many seconds in all other calls are
    late for each second of work more; None: not known yet. `wasted`: share of the agent's tokens,
    of late, that no answer came from. `queries`: under way, this one included.
    """

    p_accepted: float
    p_screened: float
    large_delay: float | None
    small_delay: float | None
    wasted: float
    queries: int


def choose(outlook: Outlook, *, waste_budget: float) -> Start:
    """Say what a query starts with.

    The agent starts at once if this saves more time than it costs others. With probability
    1 - p the agent is needed (p = alpha * beta), and the query is done sooner by the time t that
    screen and gate take. With probability p it is not, and its work of t seconds was for nothing;
    each such second makes other calls later by a `delay`, in all. So

        start the agent at once   if  (1 - p) * t  >  p * t * delay,   that is, delay < (1 - p) / p

    and t is of no account. The delay is 0 in an engine with room; it counts as a little more, for
    what the query's own calls take from each other, and for power. Where calls wait in a queue it
    is the queue's length per seat; where all that run share one processor, how much longer a call
    takes than alone. Nobody's own gain counts that others pay for: racing always looks well to the
    query that races, also where it makes the mean worse. An all-hard suite (p = 0) races at any
    load, since nothing is wasted; an all-easy one only where there is room.

    Speculation starts with the screen by the same reckoning: it saves min(c_J, c_S) with
    probability beta, and is for nothing with 1 - beta, so if delay < beta / (1 - beta).

    The budget is a bound, not a part of the reckoning: the agent does not start at once while
    more than this share of its tokens has been wasted. Before anything is known of the engines, a
    few queries race and the others do not.
    """
    is_cheap = _is_worth(1.0 - outlook.p_accepted, outlook.large_delay, outlook.queries)
    return Start(
        speculation=_is_worth(outlook.p_screened, outlook.small_delay, outlook.queries),
        agent=is_cheap and outlook.wasted <= waste_budget,
    )


def _is_worth(p_needed: float, delay: float | None, queries: int) -> bool:
    if delay is None:
        return queries <= _FIRST_QUERIES
    return p_needed > (1.0 - p_needed) * max(delay, _LEAST_DELAY)


@dataclass(slots=True)
class _Counter:
    """What is seen of one engine: how many of our calls it has, and how long they take."""

    engine: Engine
    probe: LoadProbe | None = None
    in_flight: int = 0
    line: Line = field(default_factory=Line)
    told: Load | None = None
    told_at_s: float = -math.inf
    asked_at_s: float = -math.inf

    def load(self) -> Load | None:
        if isinstance(self.engine, Busy):
            return self.engine.present_load
        return self.told if anyio.current_time() - self.told_at_s < _STALE_S else None

    def delay(self) -> float | None:
        """Queue and crowding make calls late; where the queue is told, the line has the rest."""
        crowding, load = self.line.delay(self.in_flight), self.load()
        if load is None:
            return crowding
        return max(load.queue_per_seat, crowding or 0.0)

    async def refresh(self) -> None:
        now_s = anyio.current_time()
        if self.probe is not None and now_s - self.asked_at_s >= _FRESH_S:
            self.asked_at_s = now_s  # one query asks, not all of them
            self.told = await self.probe.read()
            self.told_at_s = anyio.current_time()


class Adaptive:
    """Move between race, overlap and serial, query by query, as `choose` says; one a funnel.

    It keeps means that forget within some dozens of queries: of what is accepted and screened, of
    the agent's tokens and those wasted, and of how long calls take against how many are under way.
    Where an engine tells its queue (`load.Busy`, or `probe` for the large one), that goes before
    what is inferred, and calls that met a queue are left out of the inference. Answers are those
    of race: serial's, or the agent's where it is first.
    """

    def __init__(
        self, *, waste_budget: float = DEFAULT_WASTE_BUDGET, probe: LoadProbe | None = None
    ) -> None:
        self.waste_budget = waste_budget
        self.probe = probe
        self._queries = 0
        self._counters: dict[int, _Counter] = {}
        self._accepted = Mean(_DOUBT)
        self._screened = Mean(_DOUBT)
        self._agent_tokens = Mean(0.0)
        self._wasted_tokens = Mean(0.0)
        self._pace = Mean(_PACE)

    async def __call__(self, passage: Passage) -> Answered:
        """Take a query to its end. Raises: the error of the phase that was decisive."""
        large = self._counter(passage.parts.agent.engine, self.probe)
        small = self._counter(passage.parts.small)
        with self._counted():
            start = choose(self.outlook(passage), waste_budget=self.waste_budget)
            listener = _Listener(passage, self._screened, large=large, small=small)
            ended: Answered | Exception
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(large.refresh)
                try:
                    ended = await run(listener.passage(), start)
                except Exception as error:  # noqa: BLE001 - raised below, outside the group
                    ended = error
                tasks.cancel_scope.cancel()
        self._learn(listener.events, ended)
        if isinstance(ended, Exception):
            raise ended
        return ended

    def outlook(self, passage: Passage) -> Outlook:
        """Say what is known now."""
        parts = passage.parts
        return Outlook(
            p_accepted=self._accepted.value,
            p_screened=1.0 if parts.screener is None else self._screened.value,
            large_delay=self._counter(parts.agent.engine, self.probe).delay(),
            small_delay=self._counter(parts.small).delay(),
            wasted=self._wasted_tokens.value / max(self._agent_tokens.value, 1.0),
            queries=self._queries,
        )

    def _counter(self, engine: Engine, probe: LoadProbe | None = None) -> _Counter:
        return self._counters.setdefault(id(engine), _Counter(engine, probe))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    def _learn(self, events: list[Event], ended: Answered | Exception) -> None:
        if isinstance(ended, Exception):
            return
        is_accepted = ended.reason == "accepted"
        self._accepted.add(float(is_accepted))
        tokens = self._tokens_of_agent(events, is_whole=not is_accepted)
        self._agent_tokens.add(tokens)
        self._wasted_tokens.add(tokens if is_accepted else 0.0)

    def _tokens_of_agent(self, events: list[Event], *, is_whole: bool) -> float:
        # Not every server tells what a cancelled call had said: then its seconds tell.
        usage = usage_by_phase(events).get("fall_back")
        spent_s = phase_seconds(events).get("fall_back", 0.0)
        if usage is None:
            return 0.0
        said = float(usage.completion_tokens)
        if is_whole and spent_s > 0.0:
            self._pace.add(said / spent_s)
        return said if said or usage.cached_tokens is not None else spent_s * self._pace.value


@dataclass(slots=True)
class _Listener:
    """Hear one query's events, and count its calls by engine."""

    told: Passage
    screened: Mean
    large: _Counter
    small: _Counter
    events: list[Event] = field(default_factory=list)
    _began: dict[str, tuple[float, int]] = field(default_factory=dict)

    def passage(self) -> Passage:
        return replace(self.told, narrator=replace(self.told.narrator, tell=self._hear))

    def _hear(self, event: Event) -> None:
        self.told.narrator.tell(event)
        self.events.append(event)
        match event:
            case PhaseStarted(phase="screen" | "speculate" | "fall_back" as phase):
                self._begin(phase, event.at_s)
                self._counter(phase).in_flight += 1
            case PhaseEnded(phase="screen" | "speculate" | "fall_back" as phase):
                self._counter(phase).in_flight -= 1
                if phase == "speculate" and event.outcome == "finished":
                    self._end(phase, event.at_s)
            case Screened(needs_tool=needs_tool):
                self.screened.add(float(not needs_tool))
            case TurnFinished():
                self._end("fall_back", event.at_s)
                self._begin("fall_back", event.at_s)  # the tool's time is short beside a turn's
            case _:
                return

    def _counter(self, phase: str) -> _Counter:
        is_small = phase == "speculate" or (
            phase == "screen" and self.told.parts.screener is self.told.parts.small
        )
        return self.small if is_small else self.large

    def _begin(self, phase: str, at_s: float) -> None:
        counter = self._counter(phase)
        load = counter.load()
        if load is None or not load.waiting:
            self._began[phase] = (at_s, counter.in_flight)

    def _end(self, phase: str, at_s: float) -> None:
        """Note a call's seconds against the mean of its company when it began and now ends."""
        began, counter = self._began.pop(phase, None), self._counter(phase)
        if began is not None:
            began_s, company = began
            counter.line.add((company + max(0, counter.in_flight - 1)) / 2, at_s - began_s)
