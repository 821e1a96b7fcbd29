"""A route says who answers under one model name: a funnel, and where what it cannot answer goes.

It refuses to know settings files, and how engines are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from speceyes.calibration.certificate import Certificate
from speceyes.errors import RouteUnknown
from speceyes.funnel import Funnel
from speceyes.gateway.guard.breaker import Breaker
from speceyes.gateway.observing import EngineRole
from speceyes.gateway.relay import Relay
from speceyes.gateway.settings import RouteSettings
from speceyes.shadow.work import Shadow

_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An engine on a route: its breaker, and what its model is called, as far as is known."""

    breaker: Breaker
    model: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers under one name. `funnel` None: all is passed on. `relay` None: nothing can be.

    `shadow` hears of each answer of the funnel, and works beside it; None: nothing does.
    `certificate` is the gate's, if it came with one.
    """

    settings: RouteSettings
    funnel: Funnel | None
    relay: Relay | None
    small: Served
    large: Served
    screened_by: EngineRole = "large"
    shadow: Shadow | None = None
    certificate: Certificate | None = None

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.settings.name

    def funnel_for(self, max_tokens: int | None) -> Funnel | None:
        """Give the funnel, with a client's bound on the answer's length."""
        if self.funnel is None or max_tokens is None:
            return self.funnel
        rules = self.funnel.rules
        bounded = replace(rules, max_answer_tokens=min(max_tokens, rules.max_answer_tokens))
        return Funnel(self.funnel.parts, bounded, self.funnel.policy)


class Routes:
    """All routes, by name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_name: Mapping[str, Route] = {route.name: route for route in routes}

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_name.values())

    def find(self, name: str) -> Route:
        """Find a route. Raises: RouteUnknown, with those there are."""
        route = self._by_name.get(name)
        if route is None:
            known = ", ".join([*self._by_name][:_SHOWN])
            raise RouteUnknown("model", f"{name[:60]!r} is unknown here; there is: {known}")
        return route
