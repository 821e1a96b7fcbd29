"""Settings become a live funnel here; no other file names concrete protocols, policies and tools.

It refuses to know how any of them works. Who opens an engine closes it: engines given as strings
are closed on leaving, engines given as objects are their owner's, and may serve others too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from speceyes.assemble_engines import close_engine, load_engine
from speceyes.assemble_parts import agent_of, rules_of
from speceyes.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_ENGINE,
    DEFAULT_POLICY,
    DEFAULT_PROTOCOL,
    DEFAULTS,
    GATED,
    Settings,
    check_screen_by,
    check_watched,
    parse_policy,
    parse_protocol,
)
from speceyes.engine_names import (
    BuiltinEngine,
    EngineSource,
    HttpEngineAt,
    LocalEngineAt,
    PairRole,
    is_pair,
    parse_engine,
    small_engine,
)
from speceyes.engines.wire.settings import DEFAULT_HTTP, HttpSettings
from speceyes.errors import ConfigError, EngineUnavailable
from speceyes.events import Answer, Event
from speceyes.extras import with_extra
from speceyes.funnel import Funnel, Outcome
from speceyes.gate import PAPER, GateSpec
from speceyes.gate_match import check_choices, check_depth, prompt_ids
from speceyes.notebook import WritesCode
from speceyes.phases import Parts, in_thread
from speceyes.policies.named import make_policy
from speceyes.protocols import make_protocol
from speceyes.protocols.closer import Closer
from speceyes.screen import ScreenSpec
from speceyes.settings_file import Choices
from speceyes.shadow.work import Shadow
from speceyes.tools.limits import DEFAULT_LIMITS, SandboxLimits
from speceyes.types import Engine, Query, Tool, ToolProtocol

if TYPE_CHECKING:
    from speceyes.builtin.pair import Tuning

_T = TypeVar("_T")
Opener: TypeAlias = Callable[[PairRole, EngineSource], Awaitable[Engine]]


@dataclass(kw_only=True, eq=False)
class SpecEyes:
    """Answer visual questions: the library's front. Use it within `async with`.

    `gate` and `screen` None: the built-in pair's own. Other engines need a gate of their own, as a
    threshold is valid only for what it was calibrated with, and get a neutral screen. The prompts
    are a release's own wording, for a protocol given by its name. `closer_gate` is for what the
    small model answers after a closer look; None: the same gate. With `settings.depth` the small
    one of the built-in pair is the one that may look closer. `http` is for engines on servers,
    `sandbox` for protocols whose models write code. `opener` opens engines given as strings in
    their place; what it opens stays its own. `shadow` works beside queries and watches the gate.
    Raises: ConfigError for a name that is unknown, when made; for a gate that is missing, a
    directory that does not exist, a key that is not set, an extra that is not installed or a
    sandbox that cannot be had, when entered.
    """

    small: Engine | str = DEFAULT_ENGINE
    large: Engine | str = DEFAULT_ENGINE
    protocol: ToolProtocol | str = DEFAULT_PROTOCOL
    gate: GateSpec | None = None
    screen: ScreenSpec | None = None
    policy: str = DEFAULT_POLICY
    closer_gate: GateSpec | None = None
    settings: Settings = DEFAULTS
    http: HttpSettings = DEFAULT_HTTP
    sandbox: SandboxLimits = DEFAULT_LIMITS
    system_prompt: str | None = None
    user_prompt: str | None = None
    opener: Opener | None = None
    shadow: Shadow | None = None
    _funnel: Funnel | None = field(default=None, init=False, repr=False)
    _opened: AsyncExitStack | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._sources()
        policy = parse_policy(self.policy)
        check_screen_by(self.settings.screen_by, policy)
        if self.shadow is not None:
            check_watched(policy)
        if isinstance(self.protocol, str):
            parse_protocol(self.protocol)

    async def __aenter__(self) -> SpecEyes:
        if self._opened is not None:
            raise EngineUnavailable("SpecEyes", "is open already; make another one")
        async with AsyncExitStack() as stack:
            funnel = await self._assemble(stack)
            if self.shadow is not None:
                system, user = self.system_prompt, self.user_prompt
                prompts = prompt_ids(funnel.rules.screen, system=system, user=user)
                funnel = self.shadow.overheard(funnel, prompts=prompts)
                await stack.enter_async_context(self.shadow)
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
            "small": self._small_source(small) if isinstance(small, str) else small,
            "large": parse_engine(large, role="large") if isinstance(large, str) else large,
        }

    def _small_source(self, small: str) -> EngineSource:
        depth = self.settings.depth
        source = parse_engine(small_engine(small, depth=depth), role="small")
        if depth > 0 and source == BuiltinEngine("small"):
            told = "builtin:small answers at first sight only; with a depth, say builtin:closer"
            raise ConfigError("small", told)
        return source

    async def _assemble(self, stack: AsyncExitStack) -> Funnel:
        from speceyes import prompts
        from speceyes.pictures import DecodedPictures

        sources, settings = self._sources(), self.settings
        tuning = None
        for role, source in sources.items():
            if isinstance(source, BuiltinEngine):
                tuning = await in_thread(partial(with_extra, role, _read_tuning))
        pair = tuning if is_pair(sources["small"], sources["large"]) else None
        looks = sources["small"] == BuiltinEngine("closer")
        # What can be refused is refused before any engine is opened.
        gate, closer_gate, screen = self._specs(pair, looks=looks)
        tuned = {
            role: tuning if isinstance(source, BuiltinEngine) else None
            for role, source in sources.items()
        }
        protocol = self._protocol(tuned["large"])
        tools = await self._tools(protocol, stack)
        small = large = await self._open("small", sources["small"], stack)
        if sources["large"] != sources["small"]:
            large = await self._open("large", sources["large"], stack)
        parts = Parts(
            small=small,
            screener={"large": large, "small": small}.get(settings.screen_by),
            agent=agent_of(large, protocol, settings, tools=tools),
            closer=self._closer(tuned["small"]),
            prompts=prompts,
            open_pixels=DecodedPictures,
        )
        policy = make_policy(self.policy, large, waste_budget=settings.waste_budget)
        rules = rules_of(gate, screen, settings, closer_gate=closer_gate)
        return Funnel(parts, rules, policy)

    async def _open(
        self, role: PairRole, source: Engine | EngineSource, stack: AsyncExitStack
    ) -> Engine:
        match source:
            case BuiltinEngine() | LocalEngineAt() | HttpEngineAt():
                if self.opener is not None:
                    return await self.opener(role, source)
                engine = await load_engine(role, source, self.http)
                stack.push_async_callback(close_engine, engine)
                return engine
            case _:
                return source

    async def _tools(self, protocol: ToolProtocol, stack: AsyncExitStack) -> tuple[Tool, ...]:
        from speceyes.tools.zoom import ZoomTool

        if not isinstance(protocol, WritesCode):
            return (ZoomTool(),)
        from speceyes.tools.python import PythonTool

        unsafe = self.settings.unsafe_python
        size = protocol.view_size
        python = PythonTool(protocol.notebook, self.sandbox, unsafe=unsafe, view_size=size)
        return (ZoomTool(), await stack.enter_async_context(python))

    def _specs(
        self, tuning: Tuning | None, *, looks: bool
    ) -> tuple[GateSpec, GateSpec | None, ScreenSpec]:
        gate, closer_gate = self.gate, self.closer_gate
        if gate is not None and gate.depth:
            check_depth(gate, self.settings.depth)
        if tuning is not None and looks:
            # A gate of one's own is for both kinds of answer, unless there is a second one.
            closer_gate = closer_gate or gate or tuning.closer_gate
            gate = gate or tuning.first_gate
        elif tuning is not None:
            gate = gate or tuning.gate
        if gate is None and self.policy not in GATED:
            gate = PAPER  # decides nothing
        if gate is None:
            raise ConfigError(
                "gate",
                "none is known for these engines, and a threshold is valid only for what it was "
                "calibrated with; give a GateSpec, or --gate (paper is the published one)",
            )
        return gate, closer_gate, self._screen(tuning)

    def _screen(self, tuning: Tuning | None) -> ScreenSpec:
        prompt = self.settings.screen_prompt
        if self.screen is None:
            # A threshold is valid only for the words it was found with.
            if tuning is None:
                return ScreenSpec(prompt=prompt or "paper")
            return tuning.shared_screen if prompt == "shared" else tuning.screen
        if prompt is not None and prompt != self.screen.prompt:
            raise ConfigError(
                "screen_prompt",
                f"is {prompt}, but the screen given was made for the prompt "
                f"{self.screen.prompt!r}; leave one of the two out",
            )
        return self.screen

    def _closer(self, tuning: Tuning | None) -> Closer | None:
        if self.settings.depth == 0:
            return None
        if tuning is not None:
            return tuning.closer
        return Closer() if self.settings.small_boxes == "thousandths" else Closer(extent=None)

    def _protocol(self, tuning: Tuning | None) -> ToolProtocol:
        if not isinstance(self.protocol, str):
            if self.system_prompt is not None or self.user_prompt is not None:
                named = "user_prompt" if self.system_prompt is None else "system_prompt"
                raise ConfigError(
                    named, "is for a protocol given by its name; set the object's own"
                )
            return self.protocol
        system, user = self.system_prompt, self.user_prompt
        least, most = self.settings.min_view_px, self.settings.max_view_px
        if tuning is None:
            return make_protocol(
                self.protocol,
                system_prompt=system,
                user_prompt=user,
                min_view_px=least,
                max_view_px=most,
            )
        if least is not None or most is not None:
            raise ConfigError("settings", "the built-in large model sees views of one size only")
        known = tuning.protocols.get(self.protocol)
        if known is None:
            raise ConfigError(
                "protocol",
                f"the built-in large model speaks {' and '.join(tuning.protocols)}, "
                f"not {self.protocol}",
            )
        if system is None and user is None:
            return known
        return replace(known, system_prompt=system, user_prompt=user)


def arrange(choices: Choices) -> SpecEyes:
    """Make what a caller chose; what was left open gets the defaults. Raises: ConfigError."""
    check_choices(choices)
    return SpecEyes(
        small=choices.small or DEFAULT_ENGINE,
        large=choices.large or DEFAULT_ENGINE,
        protocol=choices.protocol or DEFAULT_PROTOCOL,
        policy=choices.policy or DEFAULT_POLICY,
        gate=choices.gate,
        closer_gate=choices.closer_gate,
        screen=choices.screen,
        settings=choices.settings,
        http=choices.http,
        sandbox=choices.sandbox,
        system_prompt=choices.system_prompt,
        user_prompt=choices.user_prompt,
    )


def _read_tuning() -> Tuning:
    from speceyes.builtin.pair import BUILTIN

    return BUILTIN
