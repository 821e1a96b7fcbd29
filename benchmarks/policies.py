"""How fast is each policy, and does `adaptive` find the best? The real funnel, on a virtual clock.

Engines are the planner's stations: so many seats, calls that wait in order for one, and calls that
are slower the more others run beside them. Their seconds come from published and measured figures
(PROFILES). First the formulas are checked at concurrency 1, then all policies run on an easy, a
mixed and a hard suite at several concurrencies, with engines that tell their load and engines that
do not. Prints one JSON document, last; with --out, a plot of each profile goes there as well.

    python benchmarks/policies.py [--items 600] [--concurrency 1 6 16 64] [--out runs/policies]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.engines.replay import scripted, scripted_screen  # noqa: E402
from speceyes.funnel import Outcome  # noqa: E402
from speceyes.load import Load  # noqa: E402
from speceyes.meter import note_lost  # noqa: E402
from speceyes.plan.clock import run_virtually  # noqa: E402
from speceyes.plan.station import Servers, Station  # noqa: E402
from speceyes.policies.adaptive import Adaptive  # noqa: E402
from speceyes.policies.fixed import Policy, agent_only, overlap, race, serial  # noqa: E402
from speceyes.types import GenerateRequest, Generation  # noqa: E402
from tests.stand_ins import CALL, a_funnel, a_query, key_of  # noqa: E402

FIXED: dict[str, Policy] = {"serial": serial, "overlap": overlap, "race": race}
SUITES = {"easy": 0.98, "mixed": None, "hard": 0.0}  # beta; None is the profile's own
TURNS = {1: 0.15, 2: 0.40, 3: 0.30, 4: 0.15}  # of the agent, and how often
TURN_TOKENS = 100
SPREAD = 0.3  # of the logarithm of each call's seconds
PATIENCE = {f"{name}_timeout_s": 1e6 for name in ("screen", "speculate", "fall_back")}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Mean seconds of a pair's calls, how often it saves the agent, and what its engines hold.

    `crowding`: how much slower a call is for each other one that runs beside it; in the same
    engine, or in both where they share a processor.
    """

    source: str
    screen_s: float
    small_s: float
    agent_s: float
    alpha: float
    beta: float
    seats: int
    crowding: float
    is_shared: bool = False


PROFILES = {
    "paper": Profile(
        source="arXiv 2603.23483, batch ablation, DeepEyes on POPE: 1.46x at batch 1 and 2.18x at "
        "batch 16 give c_J + beta * c_S = .23 L and alpha * beta = .56; L is taken as 4 s, and the "
        "seats as its batch of 16",
        screen_s=0.40,
        small_s=0.70,
        agent_s=4.0,
        alpha=0.78,
        beta=0.72,
        seats=16,
        crowding=0.0,
    ),
    "vllm": Profile(
        source="LAB.md, built-in pair over vLLM on 2 cores: L 1.52 s alone, 2.9 times as long with "
        "16 in flight; alpha 1, beta .694, and .02 s for screen and speculation",
        screen_s=0.010,
        small_s=0.015,
        agent_s=1.52,
        alpha=0.99,
        beta=0.694,
        seats=64,
        crowding=0.124,
    ),
    "builtin": Profile(
        source="LAB.md, built-in pair in one process on 2 cores: L .748 s alone, 4.1 times as long "
        "with 6 in flight; alpha .974, beta .575, .07 s for screen and speculation",
        screen_s=0.030,
        small_s=0.040,
        agent_s=0.748,
        alpha=0.974,
        beta=0.575,
        seats=16,
        crowding=0.62,
        is_shared=True,
    ),
}


@dataclass(frozen=True)
class Draw:
    """What one query will meet, and how long it takes where nobody else is."""

    needs_tool: bool
    passes: bool
    screen_s: float
    small_s: float
    turns_s: tuple[float, ...]

    @property
    def agent_s(self) -> float:
        return sum(self.turns_s)

    @property
    def is_accepted(self) -> bool:
        return self.passes and not self.needs_tool

    def settled_s(self, *, together: bool) -> float:
        """Seconds until it is settled who answers."""
        if self.needs_tool:
            return self.screen_s
        pair = (self.screen_s, self.small_s)
        return max(pair) if together else sum(pair)


def draws_of(profile: Profile, beta: float, items: int, *, seed: int) -> dict[str, Draw]:
    """Draw queries; seconds are log-normal, and nothing depends on anything else."""
    rng = np.random.default_rng(seed)
    mean_turns = sum(n * p for n, p in TURNS.items())

    def seconds(mean_s: float, count: int = 1) -> list[float]:
        drawn = rng.lognormal(-(SPREAD**2) / 2, SPREAD, count) * mean_s
        return [float(value) for value in drawn]

    def one() -> Draw:
        turns = int(rng.choice(list(TURNS), p=list(TURNS.values())))
        return Draw(
            needs_tool=bool(rng.random() >= beta),
            passes=bool(rng.random() < profile.alpha),
            screen_s=seconds(profile.screen_s)[0],
            small_s=seconds(profile.small_s)[0],
            turns_s=tuple(seconds(profile.agent_s / mean_turns, turns)),
        )

    return {f"q{index}": one() for index in range(items)}


@dataclass
class Simulated:
    """An engine at a station of the planner's. Implements `types.Engine`, but for its load."""

    name: str
    draws: Mapping[str, Draw]
    station: Station

    async def generate(self, request: GenerateRequest) -> Generation:
        kind, question, turn = key_of(request)
        draw = self.draws[question]
        alone_s = {"screen": draw.screen_s, "speculate": draw.small_s}.get(kind)
        alone_s = draw.turns_s[turn] if alone_s is None else alone_s
        said = _said(kind, draw, turn)

        def lose(given_s: float) -> None:
            tokens = math.floor(said.usage.completion_tokens * given_s / alone_s)
            note_lost(replace(said.usage, completion_tokens=tokens))

        await self.station.serve(alone_s, lost=lose)
        return said

    async def aclose(self) -> None:
        return


class Telling(Simulated):
    """The same, and it tells its load."""

    @property
    def present_load(self) -> Load:
        return Load(running=self.station.running, waiting=self.station.waiting)


def _said(kind: str, draw: Draw, turn: int) -> Generation:
    if kind == "agent":
        return _turn(is_last=turn == len(draw.turns_s) - 1)
    return _screened(draw.needs_tool) if kind == "screen" else _answer(draw.passes)


@cache
def _turn(*, is_last: bool) -> Generation:
    said = scripted("answer large" if is_last else CALL, separability=None)
    return replace(said, usage=replace(said.usage, completion_tokens=TURN_TOKENS))


@cache
def _screened(needs_tool: bool) -> Generation:  # noqa: FBT001 - cached by it
    return scripted_screen(0.9 if needs_tool else 0.1)


@cache
def _answer(passes: bool) -> Generation:  # noqa: FBT001 - cached by it
    return scripted("small words", separability=8.0 if passes else 1.0, k=16)


async def outcomes(
    draws: Mapping[str, Draw], profile: Profile, policy: Policy, *, concurrency: int, tells: bool
) -> tuple[list[Outcome], float]:
    """Answer all queries, so many at once; gives how each ended, and the seconds that all took."""
    made: type[Simulated] = Telling if tells else Simulated
    crowding = profile.crowding if profile.is_shared else 0.0
    servers = Servers(seats=profile.seats, slowdown=profile.crowding, crowding=crowding)
    small, large = (made(name, draws, Station(servers)) for name in ("small", "large"))
    small.station.stand_beside(large.station)
    began_s = anyio.current_time()
    async with a_funnel(small, large, policy, **PATIENCE) as funnel:
        asked = (a_query(name) for name in draws)
        got = [one async for one in funnel.answer_many(asked, concurrency=concurrency)]
    return got, anyio.current_time() - began_s


def simulate(draws: Mapping[str, Draw], profile: Profile, policy: Policy, **more: Any) -> Any:
    """Run it on a clock that leaps."""
    return run_virtually(partial(outcomes, draws, profile, policy, **more))


def check_formulas(items: int) -> dict[str, Any]:
    """Compare mean latencies at concurrency 1, in engines with room, with what formulas say."""
    profile = replace(PROFILES["paper"], crowding=0.0, seats=1_000_000)
    draws = draws_of(profile, profile.beta, items, seed=1)
    each = list(draws.values())

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(each)

    c_j, c_s = mean(d.screen_s for d in each), mean(d.small_s for d in each)
    agent_s, beta = mean(d.agent_s for d in each), mean(not d.needs_tool for d in each)
    saved = mean(d.is_accepted for d in each)
    one_by_one = {
        "serial": [
            d.settled_s(together=False) + (0.0 if d.is_accepted else d.agent_s) for d in each
        ],
        "overlap": [
            d.settled_s(together=True) + (0.0 if d.is_accepted else d.agent_s) for d in each
        ],
        "race": [
            min(d.agent_s, d.settled_s(together=True)) if d.is_accepted else d.agent_s for d in each
        ],
    }
    by_means = {"serial": c_j + beta * c_s + (1 - saved) * agent_s}
    found = {}
    for name, wanted in one_by_one.items():
        got, _ = simulate(draws, profile, FIXED[name], concurrency=1, tells=False)
        mean_s = mean(one.answer.elapsed_s for one in got)
        found[name] = {
            "mean_s": mean_s,
            "by_each_query_s": mean(wanted),
            "by_means_s": by_means.get(name),
            "off": abs(mean_s / (by_means.get(name) or mean(wanted)) - 1.0),
        }
    return {"items": items, "alpha_beta": saved, "policies": found}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a policy came to. Latencies count from when a query was taken up."""

    profile: str
    suite: str
    concurrency: int
    tells: bool
    policy: str
    mean_s: float
    p95_s: float
    per_s: float
    speedup: float
    wasted: float
    agent_first: float


def measure(
    where: dict[str, Any], draws: Mapping[str, Draw], *, tells: bool, policies: Sequence[str]
) -> list[Figure]:
    """Run policies on the same queries; the first one is what the others are compared with."""
    profile, found = PROFILES[where["profile"]], []
    for name in policies:
        policy = Adaptive() if name == "adaptive" else ({"agent": agent_only} | FIXED)[name]
        got, all_s = simulate(draws, profile, policy, concurrency=where["concurrency"], tells=tells)
        answers = [one.answer for one in got]
        seconds = np.array([answer.elapsed_s for answer in answers])
        said = [a.usage_by_phase.get("fall_back") for a in answers]
        tokens = [0 if u is None else u.completion_tokens for u in said]
        waste = [t for t, a in zip(tokens, answers, strict=True) if a.reason == "accepted"]
        found.append(
            Figure(
                **where,
                tells=tells,
                policy=name,
                mean_s=float(seconds.mean()),
                p95_s=float(np.quantile(seconds, 0.95)),
                per_s=len(got) / all_s,
                speedup=(found[0].mean_s if found else seconds.mean()) / float(seconds.mean()),
                wasted=sum(waste) / max(1, sum(tokens)),
                agent_first=float(np.mean([a.reason == "agent_first" for a in answers])),
            )
        )
    return found


def compare(args: argparse.Namespace) -> list[Figure]:
    """Run all policies everywhere."""
    found: list[Figure] = []
    for profile in args.profile:
        for suite, beta in SUITES.items():
            own = PROFILES[profile].beta if beta is None else beta
            draws = draws_of(PROFILES[profile], own, args.items, seed=args.seed)
            for concurrency in args.concurrency:
                where = {"profile": profile, "suite": suite, "concurrency": concurrency}
                told: list[Figure] = []
                for tells in (True, False):
                    names = ("agent", *FIXED, "adaptive") if tells else ("agent", "adaptive")
                    told += measure(where, draws, tells=tells, policies=names)
                found += told
                print(*map(_line, told), sep="\n", flush=True)
    return found


def verdicts(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Set adaptive beside the best fixed policy of each place, by mean latency."""
    found = []
    for mine in figures:
        if mine.policy != "adaptive":
            continue
        place = (mine.profile, mine.suite, mine.concurrency)
        rivals = [
            f for f in figures if f.policy in FIXED and (f.profile, f.suite, f.concurrency) == place
        ]
        best = min(rivals, key=lambda f: f.mean_s)
        found.append(
            dict(zip(("profile", "suite", "concurrency"), place, strict=True))
            | {"tells": mine.tells, "best": best.policy, "behind": mine.mean_s / best.mean_s - 1.0}
        )
    return found


def _line(f: Figure) -> str:
    told = "told" if f.tells else "untold"
    return (
        f"{f.profile:8} {f.suite:6} {f.concurrency:3} {told:7} {f.policy:9} "
        f"mean {f.mean_s:7.3f} s  {f.speedup:5.2f}x  wasted {f.wasted:.2f}  "
        f"first {f.agent_first:.2f}"
    )


def plot(figures: Sequence[Figure], folder: Path) -> list[str]:
    """Draw speedup against concurrency, a picture for each profile."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for profile in dict.fromkeys(f.profile for f in figures):
        picture, places = plt.subplots(1, len(SUITES), figsize=(4.2 * len(SUITES), 3.6))
        for place, suite in zip(places, SUITES, strict=True):
            for name in (*FIXED, "adaptive"):
                line = [
                    (f.concurrency, f.speedup)
                    for f in figures
                    if (f.profile, f.suite, f.policy, f.tells) == (profile, suite, name, True)
                ]
                place.plot(*zip(*line, strict=True), marker="o", label=name)
            place.set(title=f"{profile}, {suite}", xscale="log", xlabel="queries under way")
            place.axhline(1.0, color="grey", linewidth=0.8)
        places[0].set_ylabel("agent alone / policy, mean latency")
        places[-1].legend()
        picture.tight_layout()
        file = folder / f"policies-{profile}.png"
        picture.savefig(file, dpi=120)
        files.append(str(file))
    return files


def main() -> None:
    """Check the formulas, compare the policies, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--formula-items", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 6, 16, 64])
    parser.add_argument("--profile", nargs="+", choices=list(PROFILES), default=list(PROFILES))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began_s = time.monotonic()
    formulas = check_formulas(args.formula_items)
    print(json.dumps(formulas))
    figures = compare(args)
    told = {
        "benchmark": "policies",
        **read_circumstances(),
        "seconds": round(time.monotonic() - began_s, 1),
        "items": args.items,
        "profiles": {name: asdict(PROFILES[name]) for name in args.profile},
        "formulas": formulas,
        "figures": [asdict(figure) for figure in figures],
        "adaptive": verdicts(figures),
        "plots": plot(figures, args.out) if args.out else [],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
