"""Does a plan come true on a real vLLM? What is foretold is set beside what is then measured.

The built-in pair is served by two vLLM processes. In each pass the agent alone and SpecEyes answer
the same items, one after the other and at each of `--fit` at once; from these runs the plan is
made, as `speceyes plan RUN --fit FEW --fit MANY` makes it. And they answer them at `--concurrency`:
these runs the plan never sees. The two kinds take turns, and every other pass goes the other way
round, so that a machine that gets slower or faster with the minutes does so for both. The plan is
then asked what these queries take, in the order in which they came. Errors are foretold over
measured, less one, beside one standard error of what was measured, over the passes. Prints one JSON
document, last; runs and a plot go to --out.

    make vllm && .venv/bin/python benchmarks/plan_vllm.py --out runs/plan-vllm
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.policies_pair import assembled  # noqa: E402
from benchmarks.vllm import METHODS, WARM_UP_ITEMS, Forgetting, Progress  # noqa: E402
from speceyes.bench.contenders import contenders_on  # noqa: E402
from speceyes.bench.folder import open_folder  # noqa: E402
from speceyes.bench.items import Suite  # noqa: E402
from speceyes.bench.machine import (  # noqa: E402
    read_circumstances,
    read_commit,
    read_machine,
    read_versions,
)
from speceyes.bench.manifest import Manifest  # noqa: E402
from speceyes.bench.run import Plan, run_suite  # noqa: E402
from speceyes.bench.suites.opening import open_suite  # noqa: E402
from speceyes.builtin.suite import draw_items  # noqa: E402
from speceyes.config import PolicyName, Settings  # noqa: E402
from speceyes.funnel import Funnel  # noqa: E402
from speceyes.plan.drive import Closed, Scenario  # noqa: E402
from speceyes.plan.fitting import Agreement, Fit, Seen, agreements, fit_servers  # noqa: E402
from speceyes.plan.inputs import draws_of, seen_under_load  # noqa: E402
from speceyes.plan.station import Servers  # noqa: E402
from speceyes.policies.fixed import overlap, race, serial  # noqa: E402
from tests.e2e.vllm_server import Pair, serve_pair  # noqa: E402

POLICIES = {"serial": serial, "overlap": overlap, "race": race}
SEATS = 256  # of a vLLM server: its own default, which is never reached here
GOAL = 0.10


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One policy at one concurrency: how far what was foretold is from what was measured."""

    told: Agreement
    mean_error: float
    per_s_error: float
    sampling_error: float  # of the measured mean, as a share: what no model could do better


@dataclass(frozen=True)
class Step:
    """One run of a pass: to fit the plan to, or to test it by."""

    folder: Path
    concurrency: int


def steps_of(asked: argparse.Namespace, number: int) -> list[Step]:
    """Give the runs of a pass in their order: those to fit and those to test take turns."""
    folder = asked.out / f"pass-{number}"
    fit = [Step(folder / f"fit-at-{at}", at) for at in (1, *asked.fit)]
    test = [Step(folder / f"test-at-{at}", at) for at in reversed(asked.concurrency)]
    both = [step for step in chain(*zip_longest(fit, test)) if step is not None]
    return both if number % 2 else both[::-1]


async def take_run(base: Funnel, suite: Suite, step: Step, *, policy: PolicyName) -> None:
    """Let the agent alone and SpecEyes take turns, and leave a run's folder."""
    parts, rules, concurrency = base.parts, base.rules, step.concurrency
    manifest = Manifest(
        suite=suite.facts,
        methods=METHODS,
        concurrency=concurrency,
        small=parts.small.name,
        large=parts.agent.engine.name,
        protocol=parts.agent.protocol.name,
        gate=rules.gate,
        screen=rules.screen,
        policy=policy,
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
    with open_folder(step.folder, manifest, anew=True) as keeper:
        async with contenders_on(parts, rules, METHODS, policy=POLICIES[policy]) as contenders:
            await run_suite(contenders, plan, keeper, watcher=Progress(concurrency))


async def over_vllm(pair: Pair, asked: argparse.Namespace, suite: Suite) -> None:
    """Take all passes on two servers."""
    async with assembled(Forgetting(pair.small), Forgetting(pair.large), Settings()) as base:
        for number in range(1, asked.passes + 1):
            for step in steps_of(asked, number):
                await take_run(base, suite, step, policy=asked.policy)
            _tell(f"pass {number} of {asked.passes} done")


def plan_and_compare(asked: argparse.Namespace) -> tuple[Fit, list[Compared]]:
    """Plan from the runs to fit alone, and set beside the others what it foretells of them."""
    passes = [asked.out / f"pass-{number}" for number in range(1, asked.passes + 1)]
    alone = [folder / "fit-at-1" for folder in passes]
    scenario, fit = plan_from(
        alone, [folder / f"fit-at-{at}" for folder in passes for at in asked.fit]
    )
    tests = [
        seen_under_load(alone, [folder / f"test-at-{at}" for at in asked.concurrency])
        for folder in passes
    ]
    return fit, [_compared(told, tests) for told in agreements(scenario, list(chain(*tests)))]


def plan_from(alone: Sequence[Path], loaded: Sequence[Path]) -> tuple[Scenario, Fit]:
    """Make a plan's inputs of all runs, as `speceyes plan ALONE --fit LOADED` does of one ALONE."""
    _, ((_, draw, _),) = draws_of(alone[0])
    scenario = Scenario(
        draw=draw,
        policy="serial",
        arrivals=Closed(1),
        small=Servers(seats=SEATS),
        large=Servers(seats=SEATS),
    )
    fit = fit_servers(scenario, seen_under_load(alone, loaded))
    return replace(scenario, small=fit.small, large=fit.large), fit


def _compared(told: Agreement, tests: Sequence[Sequence[Seen]]) -> Compared:
    means = [_mean_s(seen, told) for seen in tests]
    return Compared(
        told=told,
        mean_error=told.found_s / told.seen_s - 1.0,
        per_s_error=told.found_per_s / told.seen_per_s - 1.0,
        sampling_error=statistics.stdev(means) / math.sqrt(len(means)) / told.seen_s,
    )


def _mean_s(seen: Sequence[Seen], told: Agreement) -> float:
    mine = [one for one in seen if (one.policy, one.callers) == (told.policy, told.callers)]
    return sum(one.block * one.mean_s for one in mine) / sum(one.block for one in mine)


def _line(one: Compared) -> str:
    told = one.told
    return (
        f"{told.callers:3} {told.policy:10} {told.queries:4} queries  mean {told.found_s:.3f} s "
        f"foretold, {told.seen_s:.3f} s measured: {one.mean_error:+.1%} (sampling "
        f"{one.sampling_error:.1%}); {told.found_per_s:.3f}/s, {told.seen_per_s:.3f}/s: "
        f"{one.per_s_error:+.1%}"
    )


def plot(found: Sequence[Compared], folder: Path) -> str:
    """Draw foretold against measured."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    picture, places = plt.subplots(1, 2, figsize=(9.0, 4.0))
    for place, what, name in (
        (places[0], "s", "mean latency, s"),
        (places[1], "per_s", "queries a second"),
    ):
        for policy in dict.fromkeys(one.told.policy for one in found):
            mine = [one.told for one in found if one.told.policy == policy]
            at = [told.callers for told in mine]
            measured, foretold = (
                [getattr(told, f"{kind}_{what}") for told in mine] for kind in ("seen", "found")
            )
            (line,) = place.plot(at, measured, "o", label=policy)
            place.plot(at, foretold, "-", color=line.get_color())
        place.set(title=name, xlabel="queries under way", xscale="log", yscale="log")
    places[0].legend(title="points: measured, lines: foretold")
    picture.tight_layout()
    file = folder / "plan-vllm.png"
    picture.savefig(file, dpi=120)
    return str(file)


def main() -> None:
    """Serve, run, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=36)
    parser.add_argument("--passes", type=int, default=5, help="two or more")
    parser.add_argument(
        "--fit", type=int, nargs="+", default=[4, 24], help="concurrency of the runs under load"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6, 16])
    parser.add_argument("--policy", choices=list(POLICIES), default="serial")
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--out", type=Path, default=Path("runs/plan-vllm"))
    asked = parser.parse_args()
    if asked.passes < 2:
        parser.error("--passes: two or more, for a sampling error")
    asked.out.mkdir(parents=True, exist_ok=True)
    suite = open_suite(f"builtin:{asked.items}", seed=asked.seed)
    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as folder, serve_pair(Path(folder), _tell) as pair:
        anyio.run(over_vllm, pair, asked, suite)
    fit, found = plan_and_compare(asked)
    print(*map(_line, found), sep="\n", flush=True)
    off = [max(abs(one.mean_error), abs(one.per_s_error)) for one in found]
    told: dict[str, Any] = {
        "benchmark": "plan_vllm",
        "items": asked.items,
        "passes": asked.passes,
        "fit_concurrency": asked.fit,
        "seed": asked.seed,
        "fit": asdict(fit),
        "compared": [asdict(one) for one in found],
        "within_goal": sum(one <= GOAL for one in off),
        "places": len(off),
        "greatest_error": max(off),
        "plot": plot(found, asked.out),
        **circumstances,
    }
    print(json.dumps(told))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
