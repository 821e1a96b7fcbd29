"""The paper's formulas: what a query costs in the mean, the speedup, and the limit.

It refuses to know queues: these hold for one query after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speceyes.plan.fates import Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the formulas take: shares, and seconds of the parts. `between_s` is paid either way."""

    beta: float
    alpha: float
    screen_s: float
    speculate_s: float
    agent_s: float
    between_s: float = 0.0

    @property
    def seconds(self) -> float:
        """E[L] = c_0 + c_J + beta * c_S + (1 - beta * alpha) * L_agent."""
        rest = (1.0 - self.beta * self.alpha) * self.agent_s
        return self.between_s + self.screen_s + self.beta * self.speculate_s + rest

    @property
    def speedup(self) -> float:
        """Over the agent alone, one query after the other."""
        return (self.between_s + self.agent_s) / self.seconds

    @property
    def limit(self) -> float | None:
        """1 / (1 - beta * alpha); None if nothing is left for the agent."""
        rest = 1.0 - self.beta * self.alpha
        return 1.0 / rest if rest > 0.0 else None


def costs_of(fates: Sequence[Fate]) -> Costs:
    """Take the formulas' figures from fates.

    `agent_s` is the mean over those that fall back, so that the formula is exact for them.
    """
    count = len(fates)
    passed = [fate for fate in fates if not fate.needs_tool]
    accepted = [fate for fate in passed if fate.accepted]
    left = [fate.agent_s for fate in fates if not fate.accepted]
    every = [fate.agent_s for fate in fates]
    return Costs(
        beta=len(passed) / count,
        alpha=len(accepted) / len(passed) if passed else 0.0,
        screen_s=sum(fate.screen_s for fate in fates) / count,
        speculate_s=sum(fate.speculate_s for fate in passed) / max(1, len(passed)),
        agent_s=sum(left) / len(left) if left else sum(every) / count,
        between_s=sum(fate.between_s for fate in fates) / count,
    )
