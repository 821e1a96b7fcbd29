"""Settings become a live funnel here; no other file names concrete engines, protocols and tools.

It refuses to know how any of them works. Who opens an engine closes it: engines given as strings
are closed on leaving, engines given as objects are their owner's, and may serve others too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, assert_never

import anyio

from speceyes.agent import Agent
from speceyes.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_ENGINE,
    DEFAULT_POLICY,
    DEFAULT_PROTOCOL,
    DEFAULTS,
    BuiltinEngine,
    EngineSource,
    LocalEngineAt,
    PairRole,
    PolicyName,
    Settings,
    parse_engine,
    parse_policy,
    parse_protocol,
)
from speceyes.errors import ConfigError, EngineUnavailable
from speceyes.events import Answer, Event
from speceyes.funnel import Funnel, Outcome, Policy, agent_only, serial
from speceyes.gate import PAPER, GateSpec
from speceyes.phases import Parts, Rules, in_thread
from speceyes.screen import ScreenSpec
from speceyes.types import Budget, Engine, Query, ToolProtocol

if TYPE_CHECKING:
    from speceyes.builtin.pair import Tuning

_T = TypeVar("_T")

POLICIES: Final[Mapping[PolicyName, Policy]] = {"serial": serial, "agent_only": agent_only}
_CLOSING_S: Final = 10.0  # an engine gets this long to close, also when cancelled
_EXTRA: Final = frozenset({"jinja2", "safetensors", "tokenizers", "torch", "transformers"})


@dataclass(kw_only=True, eq=False)
class SpecEyes:
    """Answer visual questions: the library's front. Use it within `async with`.

    `gate` and `screen` None: the built-in pair's own. Other engines need a gate of their own, as a
    threshold is valid only for what it was calibrated with, and get a neutral screen.
    Raises: ConfigError for a name that is unknown, when made; for a gate that is missing, a
    directory that does not exist or an extra that is not installed, when entered.
    """

    small: Engine | str = DEFAULT_ENGINE
    large: Engine | str = DEFAULT_ENGINE
    protocol: ToolProtocol | str = DEFAULT_PROTOCOL
    gate: GateSpec | None = None
    screen: ScreenSpec | None = None
    policy: str = DEFAULT_POLICY
    settings: Settings = DEFAULTS
    _funnel: Funnel | None = field(default=None, init=False, repr=False)
    _opened: AsyncExitStack | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._sources()
        parse_policy(self.policy)
        if isinstance(self.protocol, str):
            parse_protocol(self.protocol)

    async def __aenter__(self) -> SpecEyes:
        if self._opened is not None:
            raise EngineUnavailable("SpecEyes", "is open already; make another one")
        async with AsyncExitStack() as stack:
            funnel = await self._assemble(stack)
            self._funnel = await stack.enter_async_context(funnel)
            self._opened = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        opened, self._opened, self._funnel = self._opened, None, None
        if opened is not None:
            await opened.aclose()

    @property
    def funnel(self) -> Funnel:
        """The funnel at work, whose parts other funnels may share. Raises: EngineUnavailable."""
        if self._funnel is None:
            raise EngineUnavailable("SpecEyes", "is not open; use it within `async with`")
        return self._funnel

    async def answer(self, query: Query) -> Answer:
        """Answer one query. Raises: SpecEyesError, the one that the query failed with."""
        return await self.funnel.answer(query)

    def answer_many(
        self,
        queries: Iterable[Query] | AsyncIterable[Query],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> AsyncGenerator[Outcome, None]:
        """Give each query's outcome as soon as it is there; an error is an outcome too.

        Queries are taken from the source lazily; at most `concurrency` are under way at once.
        """
        return self.funnel.answer_many(queries, concurrency=concurrency)

    def stream(self, query: Query) -> AsyncGenerator[Event, None]:
        """Give one query's events as they happen, the last of which is Answered or Failed.

        Closing the generator before that (`contextlib.aclosing`) cancels the work.
        """
        return self.funnel.stream(query)

    def _sources(self) -> dict[PairRole, Engine | EngineSource]:
        small, large = self.small, self.large
        return {
            "small": parse_engine(small, role="small") if isinstance(small, str) else small,
            "large": parse_engine(large, role="large") if isinstance(large, str) else large,
        }

    async def _assemble(self, stack: AsyncExitStack) -> Funnel:
        from speceyes import prompts
        from speceyes.pictures import DecodedPictures

        sources, settings = self._sources(), self.settings
        tuning = None
        for role, source in sources.items():
            if isinstance(source, BuiltinEngine):
                tuning = await in_thread(partial(_with_extra, role, _read_tuning))
        is_pair = all(source == BuiltinEngine(role) for role, source in sources.items())
        # What can be refused is refused before any engine is opened.
        gate, screen = self._specs(tuning if is_pair else None)
        is_tuned = isinstance(sources["large"], BuiltinEngine)
        protocol = self._protocol(tuning if is_tuned else None)
        small = large = await _open_engine("small", sources["small"], stack)
        if sources["large"] != sources["small"]:
            large = await _open_engine("large", sources["large"], stack)
        parts = Parts(
            small=small,
            screener={"large": large, "small": small, "none": None}[settings.screen_by],
            agent=_agent(large, protocol, settings),
            prompts=prompts,
            open_pixels=DecodedPictures,
        )
        return Funnel(parts, _rules(gate, screen, settings), POLICIES[parse_policy(self.policy)])

    def _specs(self, tuning: Tuning | None) -> tuple[GateSpec, ScreenSpec]:
        gate, screen = self.gate, self.screen
        if tuning is not None:
            gate, screen = gate or tuning.gate, screen or tuning.screen
        if gate is None and self.policy == "agent_only":
            gate = PAPER  # never read
        if gate is None:
            raise ConfigError(
                "gate",
                "none is known for these engines, and a threshold is valid only for what it was "
                "calibrated with; give a GateSpec (speceyes.PAPER is the published one)",
            )
        return gate, screen or ScreenSpec()

    def _protocol(self, tuning: Tuning | None) -> ToolProtocol:
        if not isinstance(self.protocol, str):
            return self.protocol
        if tuning is not None:
            return tuning.protocol
        from speceyes.protocols.deepeyes import DeepEyes

        return DeepEyes()


async def _open_engine(
    role: PairRole, source: Engine | EngineSource, stack: AsyncExitStack
) -> Engine:
    match source:
        case BuiltinEngine() | LocalEngineAt():
            engine = await in_thread(partial(_with_extra, role, partial(_load, role, source)))
            stack.push_async_callback(_close, engine)
            return engine
        case _:
            return source


def _load(field: PairRole, source: EngineSource) -> Engine:
    match source:
        case BuiltinEngine(role=role):
            from speceyes.builtin.pair import load

            return load(role)
        case LocalEngineAt(directory=directory):
            if not directory.is_dir():
                raise ConfigError(field, f"there is no directory {directory}")
            from speceyes.engines.local import LocalEngine

            return LocalEngine.load(directory, name=f"local:{directory}")
        case _:
            assert_never(source)


def _read_tuning() -> Tuning:
    from speceyes.builtin.pair import BUILTIN

    return BUILTIN


def _with_extra(field: PairRole, work: Callable[[], _T]) -> _T:
    # Importing the engines of this process imports torch: seconds, and perhaps not installed.
    try:
        return work()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigError(
            field, f"needs {error.name}: pip install 'speceyes[local]', with torch before it"
        ) from error


async def _close(engine: Engine) -> None:
    with anyio.move_on_after(_CLOSING_S, shield=True):
        await engine.aclose()


def _agent(engine: Engine, protocol: ToolProtocol, settings: Settings) -> Agent:
    from speceyes.tools.zoom import ZoomTool

    zoom, budget = ZoomTool(), protocol.budget
    return Agent(
        engine=engine,
        protocol=protocol,
        tools={zoom.name: zoom},
        budget=Budget(
            max_turns=settings.max_turns or budget.max_turns,
            max_tokens_per_turn=settings.max_tokens_per_turn or budget.max_tokens_per_turn,
        ),
        max_pictures=settings.max_pictures,
    )


def _rules(gate: GateSpec, screen: ScreenSpec, settings: Settings) -> Rules:
    return Rules(
        gate=gate,
        screen=screen,
        max_answer_tokens=settings.max_answer_tokens,
        screen_timeout_s=settings.screen_timeout_s,
        speculate_timeout_s=settings.speculate_timeout_s,
        fall_back_timeout_s=settings.fall_back_timeout_s,
        degrade=settings.degrade,
    )
