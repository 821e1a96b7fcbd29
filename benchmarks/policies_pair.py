"""How fast is each policy on the built-in pair? All take turns on the same items, many times over.

In every repetition each policy, and the agent alone on the same engines, answers the same fresh
items, each time another one first; engines forget what they keep before each turn. A policy's
figure is the agent's wall time over its own, repetition by repetition: the median of those ratios
is what counts, and their range is its spread; beside it the ratio of the sums. Two limits: of
queries, 1 / (1 - alpha * beta), and, at concurrency 1, of seconds: the agent's own of all queries
over its own of those that were left to it, which tend to be the long ones. What an accepted query
takes, and how much of it is over before any model is asked, stands beside them. Over vLLM each
model has a core of its own. With --heavier, models that say the same and work as larger ones do
(`heavier.py`). Prints one JSON document, last.

    python benchmarks/policies_pair.py --items 24 --repetitions 5 --concurrency 1 6
    python benchmarks/policies_pair.py --vllm --suite mixed --items 12 --rounds 3
        --concurrency 1 6 16 64 --policy agent serial race adaptive   (make vllm, before)
    python benchmarks/policies_pair.py --vllm --heavier 12 24 --concurrency 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.heavier import heavier_pair  # noqa: E402
from speceyes.bench.contenders import Forgetful  # noqa: E402
from speceyes.bench.grade import grade  # noqa: E402
from speceyes.bench.items import Item  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.builtin.pair import BUILTIN  # noqa: E402
from speceyes.builtin.suite import Stream, draw_item  # noqa: E402
from speceyes.config import Settings  # noqa: E402
from speceyes.engines.local import LocalEngine  # noqa: E402
from speceyes.events import PhaseStarted, usage_by_phase, wasted  # noqa: E402
from speceyes.funnel import Funnel, Outcome  # noqa: E402
from speceyes.policies.adaptive import Adaptive  # noqa: E402
from speceyes.policies.fixed import agent_only, overlap, race, serial  # noqa: E402
from speceyes.types import Engine  # noqa: E402

SUITES = {"easy": False, "hard": True, "mixed": None}  # is_hard
AGENT = "agent"
POLICIES = (
    AGENT,
    "serial",
    "overlap",
    "race",
    "serial-gate",
    "race-agent",
    "adaptive",
    "adaptive-agent",
)
WARM_UP_ITEMS = 4


@dataclass(frozen=True)
class Turn:
    """What one policy made of one repetition's items."""

    policy: str
    seconds: float
    mean_s: float
    right: int
    failed: int
    accepted: int
    agent_first: int
    wasted_tokens: int
    agent_tokens: int
    query_s: Mapping[str, float]
    left_to_agent: frozenset[str]
    prepared_s: tuple[float, ...]  # from a query's start to its first phase


def items_of(suite: str, *, seed: int, stream: Stream = "test") -> Iterator[Item]:
    """Draw items without end: easy ones, hard ones, or as they come."""
    index = 0
    while True:
        item = draw_item(index, seed=seed, stream=stream)
        index += 1
        if SUITES[suite] is None or item.is_hard == SUITES[suite]:
            yield item


def funnel_of(name: str, base: Funnel) -> Funnel:
    """Make a policy's funnel on the same engines.

    `serial-gate`: nobody screens, the gate alone decides. `race-agent`, `adaptive-agent`: the
    agent's own first turn screens.
    """
    parts, rules = base.parts, base.rules
    if name == "serial-gate":
        return Funnel(replace(parts, screener=None), rules, serial)
    if name.endswith("-agent"):
        policy = race if name.startswith("race") else Adaptive()
        return Funnel(replace(parts, screener=None), replace(rules, agent_screens=True), policy)
    fixed = {AGENT: agent_only, "serial": serial, "overlap": overlap, "race": race}
    return Funnel(parts, rules, fixed[name] if name in fixed else Adaptive())


async def take_turn(name: str, funnel: Funnel, items: Sequence[Item], *, concurrency: int) -> Turn:
    """Let one policy answer all items."""
    truths = {item.query.query_id: item for item in items}
    began_s, outcomes = time.perf_counter(), list[Outcome]()
    async for outcome in funnel.answer_many(
        [item.query for item in items], concurrency=concurrency
    ):
        outcomes.append(outcome)
    seconds = time.perf_counter() - began_s
    answers = [one.answer for one in outcomes if one.answer is not None]
    reasons = Counter(answer.reason for answer in answers)
    said = [usage_by_phase(one.trace).get("fall_back") for one in outcomes]
    return Turn(
        policy=name,
        seconds=seconds,
        mean_s=statistics.fmean(one.trace[-1].at_s for one in outcomes),
        right=sum(_is_right(answer.text, truths[answer.query_id]) for answer in answers),
        failed=len(outcomes) - len(answers),
        accepted=reasons["accepted"],
        agent_first=reasons["agent_first"],
        wasted_tokens=sum(wasted(one.trace).completion_tokens for one in outcomes),
        agent_tokens=sum(usage.completion_tokens for usage in said if usage is not None),
        query_s={answer.query_id: answer.elapsed_s for answer in answers},
        left_to_agent=frozenset(a.query_id for a in answers if a.reason != "accepted"),
        prepared_s=tuple(
            next(event.at_s for event in answer.trace if isinstance(event, PhaseStarted))
            for answer in answers
        ),
    )


def _is_right(text: str, item: Item) -> bool:
    return grade(text, item.answer, item.query.options).is_right


async def measure(
    base: Funnel, asked: argparse.Namespace, *, suite: str, concurrency: int
) -> dict[str, Any]:
    """Let all policies take their turns on one suite."""
    drawn = items_of(suite, seed=asked.seed)
    engines = (base.parts.small, base.parts.agent.engine)
    turns: list[list[Turn]] = []
    funnels = {name: funnel_of(name, base) for name in asked.policy}
    for name, funnel in funnels.items():
        async with funnel:
            warm = list(
                islice(items_of(suite, seed=asked.seed, stream="calibration"), WARM_UP_ITEMS)
            )
            await take_turn(name, funnel, warm, concurrency=concurrency)
    count = max(asked.items, asked.rounds * concurrency)  # fewer would not be so many at once
    for repetition in range(asked.repetitions):
        items = list(islice(drawn, count))
        shift = repetition % len(asked.policy)
        round_: list[Turn] = []
        for name in asked.policy[shift:] + asked.policy[:shift]:
            for engine in engines:
                if isinstance(engine, Forgetful):
                    engine.forget()
            async with funnels[name] as funnel:
                round_.append(await take_turn(name, funnel, items, concurrency=concurrency))
        turns.append(round_)
        _tell(f"{suite}, concurrency {concurrency}: repetition {repetition + 1} done")
    found = [_figure(name, turns, count) for name in asked.policy]
    for figure in found:
        print(f"{suite:6} {concurrency:3} {figure['policy']:11} {_line(figure)}", flush=True)
    told = {"suite": suite, "concurrency": concurrency, "items": count, "figures": found}
    return told | {"adaptive_over_best": _adaptive_over_best(found)}


def _adaptive_over_best(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare each adaptive with whichever fixed policy took the least time in all.

    Whether the agent's own first turn screens is a setting and no policy: fixed ones that differ in
    it are not what an adaptive can choose among.
    """
    of = {figure["policy"]: figure for figure in found if figure["policy"] != AGENT}
    adaptives = {name: of.pop(name) for name in tuple(of) if name.startswith("adaptive")}
    over = {}
    for name, adaptive in adaptives.items():
        alike = [figure for fixed, figure in of.items() if _screens(fixed) == _screens(name)]
        if alike:
            best = max(alike, key=lambda figure: float(figure["of_sums"]))
            over[name] = _over(adaptive, best)
    return over


def _screens(policy: str) -> str:
    return policy.partition("-")[2]  # "", "agent" or "gate"


def _over(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    ratios = [mine / its for mine, its in zip(one["ratios"], other["ratios"], strict=True)]
    return {
        "over": other["policy"],
        "of_sums": one["of_sums"] / other["of_sums"],
        "median": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def _figure(name: str, turns: Sequence[Sequence[Turn]], items: int) -> dict[str, Any]:
    mine = [next(t for t in round_ if t.policy == name) for round_ in turns]
    alone = [next(t for t in round_ if t.policy == AGENT) for round_ in turns]
    ratios = [a.seconds / m.seconds for a, m in zip(alone, mine, strict=True)]
    left_s = sum(
        a.query_s[query_id]
        for a, m in zip(alone, mine, strict=True)
        for query_id in m.left_to_agent & a.query_s.keys()
    )
    alone_s = sum(sum(a.query_s.values()) for a in alone)
    accepted_s = [
        seconds for t in mine for name, seconds in t.query_s.items() if name not in t.left_to_agent
    ]
    prepared_s = [seconds for t in mine for seconds in t.prepared_s]
    count, agent_tokens = items * len(mine), sum(t.agent_tokens for t in mine)
    accepted = sum(t.accepted for t in mine) / count
    return {
        "policy": name,
        "ratios": ratios,
        "median": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "of_sums": sum(t.seconds for t in alone) / sum(t.seconds for t in mine),
        "by_mean_latency": statistics.median(
            a.mean_s / m.mean_s for a, m in zip(alone, mine, strict=True)
        ),
        "limit": None if accepted == 1.0 else 1.0 / (1.0 - accepted),
        "limit_of_seconds": alone_s / left_s if left_s else None,
        "mean_s": statistics.fmean(t.mean_s for t in mine),
        "accepted_s": statistics.median(accepted_s) if accepted_s else None,
        "prepared_s": statistics.median(prepared_s) if prepared_s else None,
        "right": sum(t.right for t in mine) / count,
        "failed": sum(t.failed for t in mine),
        "accepted": accepted,
        "agent_first": sum(t.agent_first for t in mine) / count,
        "wasted": sum(t.wasted_tokens for t in mine) / max(1, agent_tokens),
    }


def _line(figure: dict[str, Any]) -> str:
    low, high = figure["range"]
    return (
        f"{figure['median']:5.2f}x ({low:.2f}-{high:.2f}), sums {figure['of_sums']:.2f}x  "
        f"mean {figure['mean_s']:.3f} s  "
        f"right {figure['right']:.3f}  accepted {figure['accepted']:.2f}  "
        f"first {figure['agent_first']:.2f}  wasted {figure['wasted']:.2f}"
    )


@asynccontextmanager
async def assembled(small: Engine, large: Engine, settings: Settings) -> AsyncIterator[Funnel]:
    """Open the pair's funnel; its policy is of no account here."""
    from speceyes import SpecEyes

    screen = BUILTIN.shared_screen if settings.screen_prompt == "shared" else BUILTIN.screen
    eyes = SpecEyes(
        small=small,
        large=large,
        protocol=BUILTIN.protocols["deepeyes"],
        gate=BUILTIN.gate,
        screen=screen,
        settings=settings,
    )
    try:
        async with eyes:
            yield eyes.funnel
    finally:
        for engine in (small, large):
            await engine.aclose()


async def run(asked: argparse.Namespace, small: Engine, large: Engine) -> list[Any]:
    """Measure each suite at each concurrency, on one pair of engines."""
    settings = Settings(screen_prompt=asked.screen_prompt)
    async with assembled(small, large, settings) as base:
        return [
            await measure(base, asked, suite=suite, concurrency=concurrency)
            for suite in asked.suite
            for concurrency in asked.concurrency
        ]


def here(asked: argparse.Namespace, models: Path) -> list[Any]:
    """Measure in this process."""
    small, large = (
        LocalEngine.load(models / role, name=role, threads=1) for role in ("small", "large")
    )
    return anyio.run(run, asked, small, large)


def over_vllm(asked: argparse.Namespace, models: Path) -> list[Any]:
    """Measure on two real vLLM servers, which forget before each turn."""
    from benchmarks.vllm import Forgetting
    from tests.e2e.vllm_server import serve_pair

    with (
        tempfile.TemporaryDirectory() as folder,
        serve_pair(Path(folder), _tell, models=models) as pair,
    ):
        work = partial(run, asked, Forgetting(pair.small), Forgetting(pair.large))
        return anyio.run(work)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--items", type=int, default=24, help="of each repetition, and at least the concurrency"
    )
    parser.add_argument("--rounds", type=int, default=1, help="items, over those at once, at least")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--suite", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--screen-prompt", choices=["paper", "shared"], default="paper")
    parser.add_argument("--seed", type=int, default=20260712)
    parser.add_argument("--vllm", action="store_true")
    parser.add_argument(
        "--heavier",
        type=int,
        nargs=2,
        default=[1, 1],
        metavar=("SMALL", "LARGE"),
        help="feed-forward layers, so many times as wide",
    )
    asked = parser.parse_args()
    if asked.policy[0] != AGENT:
        asked.policy = [AGENT, *(name for name in asked.policy if name != AGENT)]
    circumstances = read_circumstances()  # of the code that runs, whatever is committed beside it
    small, large = asked.heavier
    with heavier_pair(small=small, large=large) as models:
        runs = over_vllm(asked, models) if asked.vllm else here(asked, models)
    told = {
        "benchmark": "policies_pair",
        "engines": "vllm" if asked.vllm else "local",
        "items": asked.items,
        "rounds": asked.rounds,
        "repetitions": asked.repetitions,
        "seed": asked.seed,
        "screen_prompt": asked.screen_prompt,
        "heavier": {"small": small, "large": large},
        "runs": runs,
        **circumstances,
    }
    print(json.dumps(told))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
