"""What would become of a query, and how much work each phase of it takes: its fate, drawn.

It refuses to know engines and clocks. Fates come from a run's records, each item's own joined so
that long work and hard questions stay together, or from figures given by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np

from speceyes.errors import ConfigError

LookEnd: TypeAlias = Literal["accepted", "doubted", "nowhere"]


@dataclass(frozen=True, slots=True)
class LookFate:
    """One closer look of the small model: seconds to say where, and to answer; what comes of it.

    "nowhere": it says none, and so is given up.
    """

    where_s: float
    answer_s: float
    ends: LookEnd

    @property
    def took_s(self) -> float:
        """All of it."""
        return self.where_s + self.answer_s


NO_LOOK: Final = LookFate(0.0, 0.0, "nowhere")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """One query: seconds of work, alone on its engine, in each phase; and how its phases end.

    `between_s` lies before them: pictures opened, first views made. `turns_s` are the agent's, and
    `tools_s` what its tools take after each turn but the last. `lone_turns_s`: its turns where
    there is nothing but the agent, if these are known to differ. `accepted`: of the small model's
    answer at first sight; `looks` are those that it then takes, the last of them perhaps accepted.
    `small_is_right` and `agent_is_right`: of each one's answer; None where nobody knows. `item_id`:
    whose it is, where it was read from a run.
    """

    item_id: str = ""
    between_s: float = 0.0
    screen_s: float
    speculate_s: float
    needs_tool: bool
    accepted: bool
    turns_s: tuple[float, ...]
    tools_s: tuple[float, ...] = ()
    lone_turns_s: tuple[float, ...] | None = None
    small_is_right: bool | None = None
    agent_is_right: bool | None = None
    turn_tokens: int = 100
    looks: tuple[LookFate, ...] = ()

    @property
    def looks_s(self) -> float:
        """All of the closer looks."""
        return sum(look.took_s for look in self.looks)

    @property
    def accepted_closer(self) -> bool:
        """Whether the last look is accepted."""
        return bool(self.looks) and self.looks[-1].ends == "accepted"

    def look(self, place: int) -> LookFate:
        """Give a look by its place, from 0; beyond those there are it says nowhere, at once."""
        return self.looks[place] if place < len(self.looks) else NO_LOOK

    @property
    def agent_s(self) -> float:
        """All of the agent's loop."""
        return sum(self.turns_s) + sum(self.tools_s)

    @property
    def alone(self) -> Fate:
        """The same query where there is nothing but the agent."""
        return self if self.lone_turns_s is None else replace(self, turns_s=self.lone_turns_s)


class Draw(Protocol):
    """Give fate upon fate, without end; the same generator gives the same."""

    def __call__(self, rng: np.random.Generator) -> Fate:
        """Draw one."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """Draw from the fates of a run's items, each as likely, with replacement.

    `depth`: how often the run's small model might look closer.
    """

    fates: Sequence[Fate]
    depth: int = 0

    def __post_init__(self) -> None:
        if not self.fates:
            raise ConfigError("run", "has no item that both the agent and SpecEyes ended")

    def __call__(self, rng: np.random.Generator) -> Fate:
        """Draw one."""
        return self.fates[int(rng.random() * len(self.fates))]


@dataclass(frozen=True, slots=True)
class InOrder:
    """Give these fates one after the other, and then again from the first."""

    fates: tuple[Fate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """Draw from figures: `beta` pass the screen, `alpha` of those the gate; times are means.

    `depths`: the probability of each number of tool calls. `spread`: the standard deviation of each
    time, as a share of its mean (gamma); 0 gives the means themselves.
    Raises: ConfigError naming the field.
    """

    beta: float
    alpha: float
    screen_s: float
    speculate_s: float
    turn_s: float
    tool_s: float = 0.0
    depths: Mapping[int, float]
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("beta", "alpha"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(name, f"{getattr(self, name)} is not in 0..1")
        for name in ("screen_s", "speculate_s", "turn_s", "tool_s", "spread"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(name, f"{getattr(self, name)} is not a number from 0 on")
        whole = sum(self.depths.values())
        if not self.depths or min(self.depths) < 0 or abs(whole - 1.0) > 1e-6:
            raise ConfigError("depth", f"the shares add up to {whole:g}, not 1; such as 0:.4,1:.6")

    def __call__(self, rng: np.random.Generator) -> Fate:
        """Draw one."""
        needs_tool = rng.random() >= self.beta
        accepted = not needs_tool and rng.random() < self.alpha
        depth, chance = 0, rng.random()
        for depth, share in self.depths.items():  # noqa: B007 - the last one stays, rounding or not
            chance -= share
            if chance < 0.0:
                break
        return Fate(
            screen_s=self._time(self.screen_s, rng),
            speculate_s=self._time(self.speculate_s, rng),
            needs_tool=needs_tool,
            accepted=accepted,
            turns_s=tuple(self._time(self.turn_s, rng) for _ in range(depth + 1)),
            tools_s=tuple(self._time(self.tool_s, rng) for _ in range(depth)),
        )

    @property
    def agent_s(self) -> float:
        """The mean of the agent's loop."""
        depth = sum(depth * share for depth, share in self.depths.items())
        return (depth + 1.0) * self.turn_s + depth * self.tool_s

    def _time(self, mean_s: float, rng: np.random.Generator) -> float:
        if not self.spread or not mean_s:
            return mean_s
        shape = 1.0 / self.spread**2
        return float(rng.gamma(shape, mean_s / shape))
