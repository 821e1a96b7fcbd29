"""Does a plan come true on a real vLLM? What is foretold is set beside what is then measured.

The built-in pair is served by two vLLM processes. In each pass they are calibrated: the agent alone
and SpecEyes answer some items one after the other, and the same items `--fit` at once, with few and
with many. And they are measured: policies take turns on the same items, in another order and at
other concurrencies, in blocks that begin and end with idle engines. Every other pass measures
first, so that a machine that gets slower or faster with the minutes does so for both. The plan is
made of all calibration runs, as `speceyes plan RUN --fit FEW --fit MANY` makes it, never of what
was measured, and asked for the same blocks. Errors are foretold over measured, less one, beside
the sampling error (one standard error, over blocks). With --others, on other items of the same
mixture: which of them fall back is chance, and the sampling error, that of the items drawn
included, some 15 % with 60 of them. Prints one JSON document, last; runs and a plot go to --out.

    make vllm && .venv/bin/python benchmarks/plan_vllm.py --out runs/plan-vllm
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.policies_pair import AGENT, Turn, assembled, funnel_of, take_turn  # noqa: E402
from benchmarks.vllm import METHODS, WARM_UP_ITEMS, Forgetting, Progress  # noqa: E402
from speceyes.bench.contenders import contenders_on  # noqa: E402
from speceyes.bench.folder import open_folder  # noqa: E402
from speceyes.bench.items import Item, Suite  # noqa: E402
from speceyes.bench.machine import read_commit, read_machine, read_versions  # noqa: E402
from speceyes.bench.manifest import Manifest  # noqa: E402
from speceyes.bench.run import Plan, run_suite  # noqa: E402
from speceyes.bench.suites.opening import open_suite  # noqa: E402
from speceyes.builtin.suite import draw_item, draw_items  # noqa: E402
from speceyes.config import PolicyName, Settings  # noqa: E402
from speceyes.funnel import Funnel  # noqa: E402
from speceyes.plan.drive import Closed, Scenario  # noqa: E402
from speceyes.plan.fates import Draw, Recorded  # noqa: E402
from speceyes.plan.fitting import Fit, Seen, fit_servers, in_blocks  # noqa: E402
from speceyes.plan.inputs import draws_of, seen_under_load  # noqa: E402
from speceyes.plan.station import Servers  # noqa: E402
from tests.e2e.vllm_server import Pair, serve_pair  # noqa: E402

POLICIES: Mapping[str, PolicyName] = {AGENT: "agent_only"} | {
    name: name for name in ("serial", "overlap", "race", "adaptive")
}
SEATS = 256  # of a vLLM server: its own default, which is never reached here
SIMULATED = 4000  # queries for each figure
GOAL = 0.10

# By concurrency and policy: a block's number of queries, and what came of it.
Turns: TypeAlias = dict[int, dict[str, list[tuple[int, Turn]]]]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One policy at one concurrency: what was foretold, what was measured, and how far apart."""

    policy: str
    concurrency: int
    queries: int
    block: int
    mean_s: float
    foretold_mean_s: float
    mean_error: float
    per_s: float
    foretold_per_s: float
    per_s_error: float
    sampling_error: float  # of the mean, as a share: what no model could do better
    failed: int


def reordered(items: Sequence[Item], *, seed: int) -> Iterator[list[Item]]:
    """Give the same items in ever other orders."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    while True:
        yield rng.sample(items, len(items))


def items_like(like: Sequence[Item], *, seed: int) -> Iterator[list[Item]]:
    """Draw blocks of other items, each with as many of every split and difficulty."""
    index = 0
    wanted = Counter(map(_cell, like))
    while True:
        room, block = wanted.copy(), list[Item]()
        while len(block) < len(like):
            item = draw_item(index, seed=seed)
            index += 1
            if room[_cell(item)]:
                room[_cell(item)] -= 1
                block.append(item)
        yield block


def _cell(item: Item) -> tuple[str, bool | None]:
    return item.split, item.is_hard


async def calibrate(base: Funnel, suite: Suite, folder: Path, *, concurrency: int) -> None:
    """Let the agent alone and SpecEyes take turns, and leave a run's folder."""
    parts, rules = base.parts, base.rules
    manifest = Manifest(
        suite=suite.facts,
        methods=METHODS,
        concurrency=concurrency,
        small=parts.small.name,
        large=parts.agent.engine.name,
        protocol=parts.agent.protocol.name,
        gate=rules.gate,
        screen=rules.screen,
        settings=Settings(),
        least_score=0,
        prompts={},
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=read_commit(),
        versions=read_versions(),
        machine=read_machine(),
    )
    warm_up = list(draw_items(WARM_UP_ITEMS, seed=suite.facts.seed, stream="calibration"))
    plan = Plan(
        suite=suite, methods=METHODS, spec=rules.gate, concurrency=concurrency, warm_up=warm_up
    )
    with open_folder(folder, manifest, anew=True) as keeper:
        async with contenders_on(parts, rules, METHODS) as contenders:
            await run_suite(contenders, plan, keeper, watcher=Progress(concurrency))


async def measure(
    base: Funnel,
    asked: argparse.Namespace,
    *,
    blocks: Iterator[list[Item]],
    turns: Turns,
    concurrency: int,
    wanted: int,
) -> None:
    """Let policies take turns on blocks of items, and add what they took to `turns`."""
    engines = (base.parts.small, base.parts.agent.engine)
    # Of the mixture; an item that came twice would be read from the cache.
    at_once = max(1, math.ceil(asked.rounds * concurrency / asked.items)) if asked.others else 1
    for _ in range(math.ceil(wanted / at_once)):
        items = [item for _ in range(at_once) for item in next(blocks)]
        made, first = turns[concurrency], asked.policy[0]
        shift = len(made[first]) % len(asked.policy)
        for name in asked.policy[shift:] + asked.policy[:shift]:
            for engine in engines:
                if isinstance(engine, Forgetting):
                    engine.forget()
            async with funnel_of(name, base) as funnel:
                turn = await take_turn(name, funnel, items, concurrency=concurrency)
            made[name].append((len(items), turn))
        _tell(f"concurrency {concurrency}: {len(made[first])} blocks of {len(items)} items done")


def compare(
    turns: Mapping[str, Sequence[tuple[int, Turn]]],
    scenario: Scenario,
    *,
    concurrency: int,
    others: bool,
) -> list[Compared]:
    """Set what was foretold beside what was measured, on the plan's own items or on others."""
    found = []
    for name, made in turns.items():
        block, blocks = made[0][0], len(made)
        mean_s = statistics.fmean(turn.mean_s for _, turn in made)
        per_s = sum(count for count, _ in made) / sum(turn.seconds for _, turn in made)
        seen = Seen(policy=POLICIES[name], callers=concurrency, block=block, mean_s=mean_s)
        foretold_s, foretold_per_s = in_blocks(scenario, seen, queries=SIMULATED)
        found.append(
            Compared(
                policy=name,
                concurrency=concurrency,
                queries=block * blocks,
                block=block,
                mean_s=mean_s,
                foretold_mean_s=foretold_s,
                mean_error=foretold_s / mean_s - 1.0,
                per_s=per_s,
                foretold_per_s=foretold_per_s,
                per_s_error=foretold_per_s / per_s - 1.0,
                sampling_error=_sampling(scenario.draw if others else None, made),
                failed=sum(turn.failed for _, turn in made),
            )
        )
        print(_line(found[-1]), flush=True)
    return found


def _sampling(draw: Draw | None, made: Sequence[tuple[int, Turn]]) -> float:
    # Of blocks measured, as they differ; of other items calibrated on, as their lone times do.
    means = [turn.mean_s for _, turn in made]
    measured = statistics.stdev(means) / math.sqrt(len(means)) / statistics.fmean(means)
    if not isinstance(draw, Recorded):
        return measured
    lone = [
        fate.screen_s + fate.speculate_s + (0.0 if fate.accepted else fate.agent_s)
        if made[0][1].policy != AGENT
        else fate.agent_s
        for fate in draw.fates
    ]
    drawn = statistics.stdev(lone) / math.sqrt(len(lone)) / statistics.fmean(lone)
    return math.hypot(measured, drawn)


def _line(one: Compared) -> str:
    return (
        f"{one.concurrency:3} {one.policy:9} {one.queries:4} queries  mean "
        f"{one.foretold_mean_s:.3f} s foretold, {one.mean_s:.3f} s measured: "
        f"{one.mean_error:+.1%}; {one.foretold_per_s:.3f}/s, {one.per_s:.3f}/s: "
        f"{one.per_s_error:+.1%}  (sampling {one.sampling_error:.1%})"
    )


async def take_passes(
    pair: Pair, asked: argparse.Namespace, *, suite: Suite, blocks: Iterator[list[Item]]
) -> Turns:
    """Calibrate and measure in turns; every other pass goes the other way round."""
    turns: Turns = {at: {name: [] for name in asked.policy} for at in asked.concurrency}
    async with assembled(Forgetting(pair.small), Forgetting(pair.large), Settings()) as base:
        for number in range(asked.passes):
            folder = asked.out / f"pass-{number + 1}"
            steps = [
                partial(calibrate, base, suite, folder / f"at-{at}", concurrency=at)
                for at in (1, *asked.fit)
            ] + [
                partial(
                    measure, base, asked, blocks=blocks, turns=turns, concurrency=at, wanted=wanted
                )
                for at, wanted in zip(asked.concurrency, cycle(asked.blocks), strict=False)
            ]
            for step in reversed(steps) if number % 2 else steps:
                await step()
            _tell(f"pass {number + 1} of {asked.passes} done")
    return turns


def run(pair: Pair, asked: argparse.Namespace) -> tuple[Fit, list[Compared]]:
    """Calibrate and measure, plan from the calibration alone, compare."""
    suite = open_suite(f"builtin:{asked.items}", seed=asked.seed)
    like = [entry for entry in suite.entries() if isinstance(entry, Item)]
    blocks = (items_like if asked.others else reordered)(like, seed=asked.seed + 1)
    turns = anyio.run(partial(take_passes, pair, asked, suite=suite, blocks=blocks))
    passes = [asked.out / f"pass-{number + 1}" for number in range(asked.passes)]
    scenario, fit = plan_from(
        [folder / "at-1" for folder in passes],
        [folder / f"at-{at}" for folder in passes for at in asked.fit],
    )
    found: list[Compared] = []
    for concurrency, made in turns.items():
        found += compare(made, scenario, concurrency=concurrency, others=asked.others)
    return fit, found


def plan_from(alone: Sequence[Path], loaded: Sequence[Path]) -> tuple[Scenario, Fit]:
    """Make a plan's inputs of all runs, as `speceyes plan ALONE --fit LOADED` does of one ALONE."""
    draws = [draw for folder in alone for _, draw, _ in draws_of(folder)[1]]
    fates = [fate for draw in draws if isinstance(draw, Recorded) for fate in draw.fates]
    scenario = Scenario(
        draw=Recorded(fates),
        policy="serial",
        arrivals=Closed(1),
        small=Servers(seats=SEATS),
        large=Servers(seats=SEATS),
    )
    fit = fit_servers(scenario, seen_under_load(alone[0], loaded))
    for seen, found_s in fit.found:
        _tell(f"fit: {seen.policy}, {seen.callers} at once: {seen.mean_s:.3f} s, {found_s:.3f} s")
    return replace(scenario, small=fit.small, large=fit.large), fit


def plot(found: Sequence[Compared], folder: Path) -> str:
    """Draw foretold against measured."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    picture, places = plt.subplots(1, 2, figsize=(9.0, 4.0))
    for place, what, told in (
        (places[0], "mean_s", "mean latency, s"),
        (places[1], "per_s", "queries a second"),
    ):
        for name in dict.fromkeys(one.policy for one in found):
            mine = [one for one in found if one.policy == name]
            at = [one.concurrency for one in mine]
            (line,) = place.plot(at, [getattr(one, what) for one in mine], "o", label=name)
            foretold = [getattr(one, f"foretold_{what}") for one in mine]
            place.plot(at, foretold, "-", color=line.get_color())
        place.set(title=told, xlabel="queries under way", xscale="log", yscale="log")
    places[0].legend(title="points: measured, lines: foretold")
    picture.tight_layout()
    file = folder / "plan-vllm.png"
    picture.savefig(file, dpi=120)
    return str(file)


def main() -> None:
    """Serve, run, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=60, help="of calibration, and of a block")
    parser.add_argument("--passes", type=int, default=4, help="two or more")
    parser.add_argument(
        "--fit", type=int, nargs="+", default=[4, 24], help="concurrency of the runs under load"
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[1, 2, 2], help="of a pass, at each concurrency"
    )
    parser.add_argument("--others", action="store_true", help="items, of the same mixture")
    parser.add_argument(
        "--rounds", type=int, default=5, help="of others, a block's least, over concurrency"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6, 16])
    names = list(POLICIES)
    parser.add_argument("--policy", nargs="+", choices=names, default=[AGENT, "serial"])
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--out", type=Path, default=Path("runs/plan-vllm"))
    asked = parser.parse_args()
    if asked.passes < 2:
        parser.error("--passes: two or more, for a sampling error")
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, serve_pair(Path(folder), _tell) as pair:
        fit, found = run(pair, asked)
    off = [max(abs(one.mean_error), abs(one.per_s_error)) for one in found]
    told: dict[str, Any] = {
        "benchmark": "plan_vllm",
        "items": asked.items,
        "others": asked.others,
        "passes": asked.passes,
        "fit_concurrency": asked.fit,
        "seed": asked.seed,
        "fit": asdict(fit),
        "compared": [asdict(one) for one in found],
        "within_goal": sum(one <= GOAL for one in off),
        "places": len(off),
        "greatest_error": max(off),
        "plot": plot(found, asked.out),
        "commit": read_commit(),
        "versions": read_versions(),
        "machine": asdict(read_machine()),
    }
    print(json.dumps(told))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
