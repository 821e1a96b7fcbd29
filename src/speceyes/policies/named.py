"""Policies have names here, by which settings ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from speceyes.load import Probed, behind
from speceyes.policies.adaptive import Adaptive
from speceyes.policies.fixed import Policy, agent_only, overlap, race, serial, small_only
from speceyes.types import Engine

FIXED: Final[Mapping[str, Policy]] = {
    "serial": serial,
    "overlap": overlap,
    "race": race,
    "agent_only": agent_only,
    "small_only": small_only,
}


def make_policy(name: str, large: Engine, *, waste_budget: float) -> Policy:
    """Make a policy for one funnel, whose large engine may tell its load to `adaptive`.

    Raises: KeyError for a name that is none; settings know the names.
    """
    if name != "adaptive":
        return FIXED[name]
    worker = behind(large)
    probe = worker.probe() if isinstance(worker, Probed) else None
    return Adaptive(waste_budget=waste_budget, probe=probe)
