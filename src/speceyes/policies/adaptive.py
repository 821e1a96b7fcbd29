"""The adaptive policy starts each query with as much at once as the engines have room for.

It refuses to know what engines are: it sees the events of its queries, counts what is under way,
and reads a load where one is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from speceyes.events import (
    Answered,
    Event,
    FellBack,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Screened,
    TurnFinished,
    phase_seconds,
    usage_by_phase,
)
from speceyes.load import Busy, Load, LoadProbe, behind
from speceyes.phases import Passage
from speceyes.policies.contest import SERIAL, Start, run
from speceyes.policies.fixed import straight_to_agent
from speceyes.policies.pace import Line, Mean
from speceyes.types import Engine

DEFAULT_WASTE_BUDGET: Final = 0.5
_FIRST_QUERIES: Final = 4  # that may race before anything is known
_FRESH_S: Final = 0.5  # a load told by a server is asked for anew after this
_STALE_S: Final = 5.0  # and counts for nothing after this
_LEAST_DELAY: Final = 0.05
_WORTH_IT: Final = 0.02  # accepted, of all queries: below, speculation is left out
_TRIED_EVERY: Final = 16  # queries, while it is
_DOUBT: Final = 0.5  # of a query about which nothing is known
_DOUBT_WEIGHT: Final = 0.5  # queries: it yields to the first ones seen
_PACE: Final = 50.0  # tokens a second, until some were counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known when a query starts.

    `p_accepted`: share of queries that end with the small model's answer, alpha * beta.
    `p_screened`: beta. `haste`: how soon it is settled that the agent is needed, as a part of the
    time until it is settled that it is not. `large_delay` and `small_delay`: by how many seconds in
    all other calls are late for each second of work more; None: not known yet. `wasted`: share of
    the agent's tokens, of late, that no answer came from. `queries`: under way, with this one.
    `untried`: queries in a row that were not speculated on.
    """

    p_accepted: float
    p_screened: float
    haste: float
    large_delay: float | None
    small_delay: float | None
    wasted: float
    queries: int
    untried: int = 0


def choose(outlook: Outlook, *, waste_budget: float) -> Start | None:
    """Say what a query starts with; None: with the agent, and nobody else is asked.

    The agent starts at once if this saves more time than it costs others. With probability
    1 - p the agent is needed (p = alpha * beta), and the query is done sooner by the time t_no
    that passes until that is settled. With probability p it is not needed, and its work until then,
    t_yes, was for nothing; each second of it makes other calls later by a `delay`, in all. So

        start the agent at once   if  (1 - p) * t_no  >  p * t_yes * delay

    of which only the ratio t_no / t_yes, `haste`, is of account. The delay is 0 in an engine with
    room. Where calls wait in a queue it is the queue's length per seat; where all that run share a
    processor, how much longer a call takes than alone, the query's own calls among them. Nobody's
    own gain counts that others pay for: racing looks well to the query that races also where it
    makes the mean worse. A screen that reads the agent's own prompt does its prefill for it, so the
    time until the screen ends is none that an agent begun at once would save: both would read the
    prompt, beside each other. Where hardly anything is accepted a query races at any load, since
    nothing is wasted; where all is, only with room to spare.

    Speculation starts with the screen by the same reckoning: it saves min(c_J, c_S) with
    probability beta, and is for nothing with 1 - beta, so if beta > (1 - beta) * delay.

    The budget is a bound, not a part of the reckoning: the agent does not start at once while
    more than this share of its tokens has been wasted. Before anything is known of the engines,
    all speculate at once, for that is short, and a few race.

    Nobody is asked but the agent where p is below `_WORTH_IT`. Speculation saves p * L_agent, and
    takes a prefill of the large model at least; that this is above .02 of L_agent is the rule, and
    where it is not, no more than .02 is lost. So that a change is seen, every sixteenth is tried
    all the same, serially, which costs its screen and nothing else.
    """
    if outlook.p_accepted < _WORTH_IT:
        return SERIAL if outlook.untried >= _TRIED_EVERY - 1 else None
    small_delay, large_delay = outlook.small_delay or 0.0, outlook.large_delay
    saved = (1.0 - outlook.p_accepted) * outlook.haste
    if large_delay is None:
        may_race = saved > 0.0 and outlook.queries <= _FIRST_QUERIES
    else:
        may_race = saved > outlook.p_accepted * max(large_delay, _LEAST_DELAY)
    p_screened = outlook.p_screened
    return Start(
        speculation=p_screened > (1.0 - p_screened) * max(small_delay, _LEAST_DELAY),
        agent=may_race and outlook.wasted <= waste_budget,
    )


@dataclass(slots=True)
class _Company:
    """Count calls that are under way, and what each kind of call takes in their company."""

    calls: int = 0
    lines: dict[Phase, Line] = field(default_factory=dict)
    _call_s: float = 0.0  # seconds of all calls, added up
    _until_s: float = 0.0

    def change(self, count: int) -> None:
        """A call begins or ends."""
        self.mark()
        self.calls += count

    def mark(self) -> float:
        """Give the seconds that all calls have had until now."""
        now_s = anyio.current_time()
        self._call_s += self.calls * (now_s - self._until_s)
        self._until_s = now_s
        return self._call_s

    def learn(self, kind: Phase, marked_s: float, lasted_s: float) -> None:
        """Take in a call, one of these, that lasted so long since a mark."""
        others = (self.mark() - marked_s) / lasted_s - 1.0
        self.lines.setdefault(kind, Line()).add(max(0.0, others), lasted_s)

    def delay(self) -> float | None:
        """Say how much longer calls are than alone, by what kind shows it most.

        A query counts its own screen as company.
        """
        found = [line.delay(self.calls + 1) for line in self.lines.values()]
        return max((delay for delay in found if delay is not None), default=None)


@dataclass(slots=True)
class _Counter:
    """What is seen of one engine: its own calls, and its load where that is told."""

    engine: Engine
    probe: LoadProbe | None = None
    company: _Company = field(default_factory=_Company)
    told: Load | None = None
    told_at_s: float = -math.inf
    asked_at_s: float = -math.inf

    def load(self) -> Load | None:
        if isinstance(self.engine, Busy):
            return self.engine.present_load
        return self.told if anyio.current_time() - self.told_at_s < _STALE_S else None

    async def refresh(self) -> None:
        now_s = anyio.current_time()
        if self.probe is not None and now_s - self.asked_at_s >= _FRESH_S:
            self.asked_at_s = now_s  # one query asks, not all of them
            self.told = await self.probe.read()
            self.told_at_s = anyio.current_time()


class Adaptive:
    """Move between race, overlap and serial, query by query, as `choose` says; one a funnel.

    It keeps means that forget within some dozens of queries: of what is accepted and screened, of
    the agent's tokens and those wasted, and of how long calls take against how many are under way,
    in their own engine and in all. Where an engine tells its queue (`load.Busy`, or `probe` for the
    large one), that counts as well, and calls that met a queue are left out of the lines. Answers
    are those of race: serial's, or the agent's where it is first; but where speculation has not
    been worth it, the agent's alone, for the reason `not_worth_it`.
    """

    def __init__(
        self, *, waste_budget: float = DEFAULT_WASTE_BUDGET, probe: LoadProbe | None = None
    ) -> None:
        self.waste_budget = waste_budget
        self.probe = probe
        self._queries = 0
        self._everywhere = _Company()
        self._counters: dict[int, _Counter] = {}
        self._untried = 0
        self._accepted = Mean(_DOUBT, guess_weight=_DOUBT_WEIGHT)
        self._screened = Mean(_DOUBT, guess_weight=_DOUBT_WEIGHT)
        self._agent_tokens = Mean(0.0)
        self._wasted_tokens = Mean(0.0)
        self._pace = Mean(_PACE)
        self._needed_s = Mean(0.0, guess_weight=0.0)
        self._spared_s = Mean(0.0, guess_weight=0.0)

    async def __call__(self, passage: Passage) -> Answered:
        """Take a query to its end. Raises: the error of the phase that was decisive."""
        large = self._counter(passage.parts.agent.engine, self.probe)
        small = self._counter(passage.parts.small)
        with self._counted():
            start = choose(self.outlook(passage), waste_budget=self.waste_budget)
            self._untried = 0 if start else self._untried + 1
            listener = _Listener(
                passage, self._screened, large=large, small=small, everywhere=self._everywhere
            )
            ended: Answered | Exception
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(large.refresh)
                try:
                    ended = await _take(listener.passage(), start)
                except Exception as error:  # noqa: BLE001 - raised below, outside the group
                    ended = error
                tasks.cancel_scope.cancel()
        self._learn(passage, listener.events, ended)
        if isinstance(ended, Exception):
            raise ended
        return ended

    def outlook(self, passage: Passage) -> Outlook:
        """Say what is known now."""
        parts = passage.parts
        is_known = bool(self._needed_s.guess_weight and self._spared_s.value)
        guess = 0.0 if passage.screen_reads_for_agent else 1.0
        return Outlook(
            p_accepted=self._accepted.value,
            p_screened=1.0 if parts.screener is None else self._screened.value,
            haste=self._needed_s.value / self._spared_s.value if is_known else guess,
            large_delay=self._delay(self._counter(parts.agent.engine, self.probe)),
            small_delay=self._delay(self._counter(parts.small)),
            wasted=self._wasted_tokens.value / max(self._agent_tokens.value, 1.0),
            queries=self._queries,
            untried=self._untried,
        )

    def _delay(self, counter: _Counter) -> float | None:
        """Queue and crowding make calls late: of this engine's, or of all on one processor."""
        load = counter.load()
        queue = 0.0 if load is None else load.queue_per_seat
        crowding = (counter.company.delay(), self._everywhere.delay())
        known = [delay for delay in crowding if delay is not None]
        return max(queue, *known) if known else queue or None  # no queue: no word of crowding

    def _counter(self, engine: Engine, probe: LoadProbe | None = None) -> _Counter:
        worker = behind(engine)
        return self._counters.setdefault(id(worker), _Counter(worker, probe))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    def _learn(self, passage: Passage, events: list[Event], ended: Answered | Exception) -> None:
        if isinstance(ended, Exception) or ended.reason == "not_worth_it":
            return
        is_accepted = ended.reason == "accepted"
        settled_s = next((e.at_s for e in events if isinstance(e, FellBack)), ended.at_s)
        if ended.reason != "agent_first":
            # An agent begun as early as it may has this long until it is known what it is for.
            begun_s = _screened_at_s(events) if passage.screen_reads_for_agent else 0.0
            (self._spared_s if is_accepted else self._needed_s).add(settled_s - begun_s)
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


def _screened_at_s(events: Iterable[Event]) -> float:
    return next((e.at_s for e in events if isinstance(e, PhaseEnded) and e.phase == "screen"), 0.0)


async def _take(passage: Passage, start: Start | None) -> Answered:
    if start is None:
        return await straight_to_agent(passage, "not_worth_it")
    return await run(passage, start)


@dataclass(slots=True)
class _Listener:
    """Hear one query's events, and count its calls; those that met a queue teach nothing else."""

    told: Passage
    screened: Mean
    large: _Counter
    small: _Counter
    everywhere: _Company
    events: list[Event] = field(default_factory=list)
    _marks: dict[Phase, tuple[float, float, float]] = field(default_factory=dict)

    def passage(self) -> Passage:
        return replace(self.told, narrator=replace(self.told.narrator, tell=self._hear))

    def _hear(self, event: Event) -> None:
        self.told.narrator.tell(event)
        self.events.append(event)
        match event:
            case PhaseStarted(phase=phase) if phase != "gate":
                self._change(phase, 1)
                self._begin(phase)
            case PhaseEnded(phase=phase, outcome=outcome) if phase != "gate":
                if outcome == "finished" and phase != "fall_back":
                    self._end(phase)
                self._change(phase, -1)
            case TurnFinished():
                self._end("fall_back")
                self._begin("fall_back")  # the tool's time is short beside a turn's
            case Screened(needs_tool=needs_tool):
                self.screened.add(float(not needs_tool))
            case _:
                return

    def _counter(self, phase: Phase) -> _Counter:
        parts = self.told.parts
        is_small = phase == "speculate" or (phase == "screen" and parts.screener is parts.small)
        return self.small if is_small else self.large

    def _change(self, phase: Phase, count: int) -> None:
        self._counter(phase).company.change(count)
        self.everywhere.change(count)

    def _begin(self, phase: Phase) -> None:
        counter = self._counter(phase)
        load = counter.load()
        if load is None or not load.waiting:
            now_s = anyio.current_time()
            self._marks[phase] = (now_s, counter.company.mark(), self.everywhere.mark())

    def _end(self, phase: Phase) -> None:
        began_s, own_s, all_s = self._marks.pop(phase, (math.inf, 0.0, 0.0))
        lasted_s = anyio.current_time() - began_s
        if lasted_s > 0.0:
            self._counter(phase).company.learn(phase, own_s, lasted_s)
            self.everywhere.learn(phase, all_s, lasted_s)
