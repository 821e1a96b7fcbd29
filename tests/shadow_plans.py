"""Plans for the engines under a shadow: small model and agent agree, or differ on some queries."""

from dataclasses import replace

from speceyes.engines.replay import Take, scripted
from tests.stand_ins import Plan, turns


def says(text, separability=8.0):
    """Have the small model say this, and the agent say yes."""
    small = Take(scripted(text, separability=separability, k=16), 2.0)
    return Plan(small=small, turns=turns("answer yes"))


AGREES = says("yes")
WORLD = {"easy": says("yes", 8.0), "slice": says("no", 6.0)}


def at_once(plan):
    turns = tuple(replace(turn, latency_s=0.0) for turn in plan.turns)
    screen, small = (replace(take, latency_s=0.0) for take in (plan.screen, plan.small))
    return replace(plan, screen=screen, small=small, turns=turns)


AT_ONCE = {name: at_once(plan) for name, plan in WORLD.items()}
