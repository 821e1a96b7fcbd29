"""Settings become the funnel's agent and its rules here.

It refuses to open anything.
"""

from __future__ import annotations

from speceyes.agent import Agent
from speceyes.config import Settings
from speceyes.gate import GateSpec
from speceyes.phases import Rules
from speceyes.screen import ScreenSpec
from speceyes.types import Budget, Engine, Tool, ToolProtocol


def agent_of(
    engine: Engine, protocol: ToolProtocol, settings: Settings, *, tools: tuple[Tool, ...]
) -> Agent:
    """Give a large model its protocol and its tools, within the budgets that were chosen."""
    budget = protocol.budget
    return Agent(
        engine=engine,
        protocol=protocol,
        tools={tool.name: tool for tool in tools},
        budget=Budget(
            max_turns=settings.max_turns or budget.max_turns,
            max_tokens_per_turn=settings.max_tokens_per_turn or budget.max_tokens_per_turn,
        ),
        max_pictures=settings.max_pictures,
    )


def rules_of(
    gate: GateSpec, screen: ScreenSpec, settings: Settings, *, closer_gate: GateSpec | None
) -> Rules:
    """Say how the phases decide."""
    return Rules(
        gate=gate,
        closer_gate=closer_gate,
        screen=screen,
        agent_screens=settings.screen_by == "agent",
        max_answer_tokens=settings.max_answer_tokens,
        evidence_k=settings.evidence_k,
        depth=settings.depth,
        screen_timeout_s=settings.screen_timeout_s,
        speculate_timeout_s=settings.speculate_timeout_s,
        fall_back_timeout_s=settings.fall_back_timeout_s,
        degrade=settings.degrade,
    )
