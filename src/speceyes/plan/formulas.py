"""The paper's formulas: what a query costs in the mean, the speedup, and the limit.

It refuses to know queues: these hold for one query after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from speceyes.plan.fates import Fate

_NOTHING: Final = 1e-12  # a share that is left by rounding alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the formulas take: shares, and seconds of the parts. `between_s` is paid either way.

    Where the small model may look closer, every query is speculated on; `looked` is the share of
    all that is accepted after a look, and `looks_s` the mean over all of what looks take. None and
    0 where it may not.
    """

    beta: float
    alpha: float
    screen_s: float
    speculate_s: float
    agent_s: float
    between_s: float = 0.0
    looked: float | None = None
    looks_s: float = 0.0

    @property
    def left(self) -> float:
        """The share that is left to the agent: 1 - beta * alpha, less what looks settle."""
        return max(0.0, 1.0 - self.beta * self.alpha - (self.looked or 0.0))

    @property
    def seconds(self) -> float:
        """E[L] = c_0 + c_J + beta * c_S + (1 - beta * alpha) * L_agent.

        With looks: c_0 + c_J + c_S + c_looks + (1 - beta * alpha - looked) * L_agent.
        """
        speculated = self.beta if self.looked is None else 1.0
        small_s = self.screen_s + speculated * self.speculate_s + self.looks_s
        return self.between_s + small_s + self.left * self.agent_s

    @property
    def speedup(self) -> float:
        """Over the agent alone, one query after the other."""
        return (self.between_s + self.agent_s) / self.seconds

    @property
    def limit(self) -> float | None:
        """1 / (1 - beta * alpha), with looks of what they leave; None if the agent has nothing."""
        return 1.0 / self.left if self.left > _NOTHING else None


def costs_of(fates: Sequence[Fate], *, depth: int = 0) -> Costs:
    """Take the formulas' figures from fates, whose small model may look closer so often.

    `agent_s` is the mean over those that fall back, so that the formula is exact for them.
    """
    count = len(fates)
    passed = [fate for fate in fates if not fate.needs_tool]
    accepted = [fate for fate in passed if fate.accepted]
    spoken = list(fates) if depth else passed
    left = [fate.agent_s for fate in fates if not (fate.accepted or fate.accepted_closer)]
    every = [fate.agent_s for fate in fates]
    return Costs(
        beta=len(passed) / count,
        alpha=len(accepted) / len(passed) if passed else 0.0,
        screen_s=sum(fate.screen_s for fate in fates) / count,
        speculate_s=sum(fate.speculate_s for fate in spoken) / max(1, len(spoken)),
        agent_s=sum(left) / len(left) if left else sum(every) / count,
        between_s=sum(fate.between_s for fate in fates) / count,
        looked=sum(fate.accepted_closer for fate in fates) / count if depth else None,
        looks_s=sum(fate.looks_s for fate in fates) / count,
    )
