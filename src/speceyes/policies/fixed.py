"""These policies start their phases in one and the same order for every query.

They refuse to know what happens within a phase, and what else is under way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from speceyes.events import Answered, Reason
from speceyes.phases import Passage
from speceyes.policies.contest import OVERLAP, RACE, SERIAL, run, speculate

Policy: TypeAlias = Callable[[Passage], Awaitable[Answered]]


async def serial(passage: Passage) -> Answered:
    """Screen, speculate and gate, fall back: the paper's order, and every other policy's oracle.

    c_J + beta * c_S + (1 - beta * alpha) * L_agent seconds in the mean.
    """
    return await run(passage, SERIAL)


async def overlap(passage: Passage) -> Answered:
    """Screen and speculate together: max(c_J, c_S) where serial takes c_J + c_S.

    What the screen turns away has cost the small engine up to c_J seconds for nothing.
    """
    return await run(passage, OVERLAP)


async def race(passage: Passage) -> Answered:
    """Screen, speculate and let the agent begin together; whoever settles it ends the others.

    max(c_J, c_S) seconds for what is accepted, L_agent for all else: a query that falls back has
    waited for nobody. What is accepted has cost the large engine an agent's work until then. An
    agent that answers before there is a verdict has the last word, as it would have alone.

    With the shared screening prompt the agent begins when the screen has ended, which has read the
    prompt for it, so what falls back takes c_J + L_agent less the prefill that is in both; and it
    does not begin for what is accepted by then.
    """
    return await run(passage, RACE)


async def small_only(passage: Passage) -> Answered:
    """Let the small model answer, whatever the gate says of it: the other baseline."""
    return passage.give(await speculate(passage))


async def agent_only(passage: Passage) -> Answered:
    """Let the agent answer at once: the baseline."""
    return await straight_to_agent(passage, "agent_only")


async def straight_to_agent(passage: Passage, reason: Reason) -> Answered:
    """Let the agent answer and nobody else, for a reason that was known before."""
    passage.leave_to_agent(reason)
    return passage.end_with_agent(reason, await passage.ask_agent())
