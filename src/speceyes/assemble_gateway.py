"""A gateway's plan becomes live routes here: each engine opened once, behind one breaker.

It refuses to know how requests are served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from speceyes.assemble import SpecEyes, arrange
from speceyes.assemble_engines import open_engine, read_key
from speceyes.config import DEFAULT_ENGINE, DEFAULT_POLICY, Settings, check_watched, parse_policy
from speceyes.engine_names import EngineSource, HttpEngineAt, PairRole, parse_engine
from speceyes.engines.http import HttpEngine
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import ConfigError
from speceyes.funnel import Funnel
from speceyes.gate_match import prompt_ids
from speceyes.gateway.app import Gateway, GatewayApp
from speceyes.gateway.calibrated import calibrated_of
from speceyes.gateway.figures import Model
from speceyes.gateway.guard.breaker import Breaker, GuardedEngine, guarded
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.memory import keep_freed_memory
from speceyes.gateway.observer import Watcher
from speceyes.gateway.observing import BreakerState, Observer
from speceyes.gateway.relay import Relay, Upstream
from speceyes.gateway.routes import Route, Routes, Served
from speceyes.gateway.serving import configure_logging
from speceyes.gateway.settings import BreakerSettings
from speceyes.gateway.settings_file import Plan, RoutePlan
from speceyes.policies.fixed import small_only
from speceyes.settings_file import Choices
from speceyes.shadow.work import Shadow
from speceyes.types import Engine

_NO_CHOICES: Final = Choices()
_NEARLY: Final = 0.9  # of a phase's time without a reply: then an engine counts as hung


@asynccontextmanager
async def open_gateway(plan: Plan, folder: Path | None = None) -> AsyncIterator[Gateway]:
    """Open all that a plan names; workers that share a folder show their figures as one.

    Raises: ConfigError naming the field.
    """
    async with AsyncExitStack() as stack:
        stable = _Stable(stack, plan.settings.breaker)
        workers = plan.settings.workers
        routes = [await _open_route(one, stable, workers=workers) for one in plan.routes]
        fetcher = Fetcher(plan.settings.images)
        stack.push_async_callback(fetcher.aclose)
        watcher = Watcher(plan.settings, [_model(route) for route in routes], folder=folder)
        stable.observers.append(watcher)
        for shadow in (route.shadow for route in routes):
            if shadow is not None:
                with _naming(shadow.name):
                    watcher.watch(await stack.enter_async_context(shadow))
        yield Gateway(
            settings=plan.settings, routes=Routes(routes), observer=watcher, fetcher=fetcher
        )


@dataclass(slots=True, eq=False)
class _Stall:
    """An engine that is open, and the routes that it serves."""

    engine: Engine
    breaker: Breaker
    uses: list[tuple[str, PairRole]]


@dataclass(slots=True, eq=False)
class _Stable:
    """Keep every engine that is open, so that routes which name the same share it."""

    stack: AsyncExitStack
    settings: BreakerSettings
    observers: list[Observer] = field(default_factory=list)  # of the breakers
    stalls: dict[tuple[EngineSource, HttpSettings], _Stall] = field(default_factory=dict)

    async def take(self, plan: RoutePlan, role: PairRole, source: EngineSource) -> _Stall:
        """Open a route's engine, unless it is open. Raises: ConfigError."""
        key = (source, plan.choices.http)
        stall = self.stalls.get(key)
        if stall is None:
            opening = open_engine(str(source), role=role, http=plan.choices.http)
            engine = await self.stack.enter_async_context(opening)
            uses: list[tuple[str, PairRole]] = []
            breaker = Breaker(
                str(source),
                self.settings,
                hung_after_s=_hung_after_s(plan.choices.settings),
                tell=partial(self._tell, uses),
            )
            stall = self.stalls[key] = _Stall(engine, breaker, uses)
        stall.uses.append((plan.settings.name, role))
        return stall

    def _tell(self, uses: Sequence[tuple[str, PairRole]], state: BreakerState) -> None:
        for observer in self.observers:
            for name, role in uses:
                observer.breaker(name, role, state)


async def _open_route(plan: RoutePlan, stable: _Stable, *, workers: int) -> Route:
    with _naming(plan.settings.name):
        if plan.settings.mode == "bypass":
            return await _open_bypass(plan, stable)
        route, choices = await _open_funnel(plan, stable), plan.choices
        route = replace(route, certificate=choices.certificate)
        return shadowed(route, workers=workers, choices=choices)


@contextmanager
def _naming(route: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"routes.{route}.{error.field}", error.message) from error


async def _open_bypass(plan: RoutePlan, stable: _Stable) -> Route:
    source = _source(plan, "large")
    if not isinstance(source, HttpEngineAt):
        raise ConfigError("mode", "bypass needs a large engine that is a server: http://...")
    large = await stable.take(plan, "large", source)
    served = _served(large, "large")
    return Route(
        settings=plan.settings,
        funnel=None,
        relay=_relay(large.engine, source, stable),
        small=served,
        large=served,
    )


async def _open_funnel(plan: RoutePlan, stable: _Stable) -> Route:
    stalls: dict[PairRole, _Stall] = {}

    async def open_guarded(role: PairRole, source: EngineSource) -> Engine:
        stalls[role] = stall = await stable.take(plan, role, source)
        return GuardedEngine(stall.engine, stall.breaker)

    if plan.settings.shadow.mode != "off":
        check_watched(parse_policy(plan.choices.policy or DEFAULT_POLICY))
    eyes: SpecEyes = arrange(plan.choices)
    eyes.opener = open_guarded
    await stable.stack.enter_async_context(eyes)
    small = stalls["small"]
    large = stalls.get("large", small)  # one engine may be both
    funnel = eyes.funnel
    if funnel.policy is not small_only:
        policy = guarded(
            funnel.policy,
            small=small.breaker,
            large=large.breaker,
            large_down=plan.settings.large_down,
        )
        funnel = Funnel(funnel.parts, funnel.rules, policy)
    source = _source(plan, "large")
    return Route(
        settings=plan.settings,
        funnel=funnel,
        relay=_relay(large.engine, source, stable),
        small=_served(small, "small"),
        large=_served(large, "large"),
        screened_by="small" if plan.choices.settings.screen_by == "small" else "large",
    )


def shadowed(route: Route, *, workers: int, choices: Choices = _NO_CHOICES) -> Route:
    """Give a route its shadow, if its settings ask for one. Raises: ConfigError."""
    settings, funnel = route.settings.shadow, route.funnel
    if settings.mode == "off" or funnel is None:
        return route

    def is_free() -> bool:
        return route.small.breaker.state == route.large.breaker.state == "closed"

    shadow = Shadow(settings, name=route.name, certificate=route.certificate)
    system, user = choices.system_prompt, choices.user_prompt
    prompts = prompt_ids(funnel.rules.screen, system=system, user=user)
    watching = shadow.over(funnel, prompts=prompts, workers=workers, is_free=is_free)
    return replace(route, funnel=watching, shadow=shadow)


def _relay(engine: Engine, source: EngineSource, stable: _Stable) -> Relay | None:
    if not isinstance(source, HttpEngineAt) or not isinstance(engine, HttpEngine):
        return None
    relay = Relay(
        Upstream(
            name=str(source),
            base_url=source.base_url,
            key=read_key("large", source),
            find_model=engine.find_model,
        )
    )
    stable.stack.push_async_callback(relay.aclose)
    return relay


def _served(stall: _Stall, role: PairRole) -> Served:
    engine = stall.engine

    def model() -> str:
        return (engine.model or role) if isinstance(engine, HttpEngine) else engine.name

    return Served(breaker=stall.breaker, model=model)


def _source(plan: RoutePlan, role: PairRole) -> EngineSource:
    chosen = plan.choices.small if role == "small" else plan.choices.large
    return parse_engine(chosen or DEFAULT_ENGINE, role=role)


def _model(route: Route) -> Model:
    if route.funnel is None:
        return Model(name=route.name)
    gate = route.funnel.rules.gate
    return Model(
        name=route.name,
        threshold=gate.threshold,
        scale="raw" if gate.scale == "raw" else "share",
        calibrated=None if route.certificate is None else calibrated_of(route.certificate),
    )


def _hung_after_s(settings: Settings) -> float:
    return _NEARLY * min(settings.screen_timeout_s, settings.speculate_timeout_s)


def make_app(plan: Plan, folder: Path | None) -> GatewayApp:
    """Make the application of one worker, which opens all when it is started."""
    configure_logging()
    keep_freed_memory()
    return GatewayApp(partial(open_gateway, plan, folder))
