"""Do time and memory grow in step with the number of queries, and no faster?

The real funnel answers 1,000, 10,000 and 100,000 queries on engines that reply at once and keep
nothing, each number in a process of its own. Outcomes are let go of as they come, as a bench does
once they are records. Prints one JSON document, last: CPU time and peak memory, and their slopes.

    python benchmarks/scale.py [--queries 1000 10000 100000] [--policy serial race adaptive]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from anyio.lowlevel import checkpoint

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.policies.adaptive import Adaptive  # noqa: E402
from speceyes.policies.fixed import overlap, race, serial  # noqa: E402
from speceyes.types import (  # noqa: E402
    GenerateRequest,
    Generation,
    Observation,
    Pixels,
    Query,
    ToolCall,
)
from tests.stand_ins import (  # noqa: E402
    ACCEPTED,
    CALL,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    Spyglass,
    a_funnel,
    a_query,
    an_agent,
    key_of,
    turns,
)

LOOKS = turns(CALL, "answer large")
KINDS = [
    Plan(kind.screen, kind.small, LOOKS) for kind in (ACCEPTED, NEEDS_TOOL, ACCEPTED, REJECTED)
]
POLICIES = {"serial": serial, "overlap": overlap, "race": race}
CONCURRENCY = 64


class AtOnce:
    """Reply at once, by the query's number, and keep nothing; the agent lets others go first."""

    name = "at once"

    async def generate(self, request: GenerateRequest) -> Generation:
        kind, question, turn = key_of(request)
        plan = KINDS[int(question) % len(KINDS)]
        for _ in range(4 if kind == "agent" else 1):
            await checkpoint()
        take = {"screen": plan.screen, "speculate": plan.small}.get(kind) or plan.turns[turn]
        if isinstance(take.result, Exception):
            raise take.result
        return take.result

    async def aclose(self) -> None:
        return


class Glass(Spyglass):
    """Shows one cut per call, and keeps no note of it."""

    async def run(self, call: ToolCall, pixels: Pixels) -> Observation:
        seen = await super().run(call, pixels)
        self.calls.clear()
        return seen


def memory_mib() -> float:
    """Give what this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def answer(queries: int, policy: str) -> dict[str, Any]:
    """Answer so many queries."""

    def asked(count: int) -> Iterator[Query]:
        return (a_query(str(n)) for n in range(count))

    chosen = Adaptive() if policy == "adaptive" else POLICIES[policy]
    routes = Counter[str]()
    large = AtOnce()
    parts = {"agent": an_agent(large, tool=Glass())}
    async with a_funnel(AtOnce(), large, chosen, parts=parts) as funnel:
        async for _ in funnel.answer_many(asked(200), concurrency=CONCURRENCY):
            pass  # what is loaded on first use is loaded now
        idle_mib, began_s, peak_mib = memory_mib(), time.process_time(), 0.0
        outcomes = funnel.answer_many(asked(queries), concurrency=CONCURRENCY)
        async for outcome in outcomes:
            routes[outcome.answer.route if outcome.answer else "failed"] += 1
            if sum(routes.values()) % 100 == 0:
                peak_mib = max(peak_mib, memory_mib())
    return {
        "policy": policy,
        "queries": queries,
        "routes": dict(routes),
        "cpu_s": time.process_time() - began_s,
        "idle_mib": idle_mib,
        "peak_mib": peak_mib,
    }


def work(pipe: Connection, queries: int, policy: str) -> None:
    """Measure one number of queries, in a process of its own."""
    pipe.send(anyio.run(partial(answer, queries, policy)))


def apart(queries: int, policy: str) -> dict[str, Any]:
    """Have it measured in a new process."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=work, args=(theirs, queries, policy))
    process.start()
    theirs.close()
    found: dict[str, Any] = ours.recv()
    process.join()
    return found


def slopes(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Fit seconds to a power of the number of queries, and memory to a line."""
    count = np.array([run["queries"] for run in runs], dtype=float)
    cpu_s = np.array([run["cpu_s"] for run in runs])
    held_kib = 1024 * np.array([run["peak_mib"] - run["idle_mib"] for run in runs])
    return {
        "power_of_time": float(np.polyfit(np.log(count), np.log(cpu_s), 1)[0]),
        "cpu_ms_a_query": float(1000 * cpu_s[-1] / count[-1]),
        "memory_bytes_a_query": float(1024 * np.polyfit(count, held_kib, 1)[0]),
    }


def main() -> None:
    """Measure all numbers under all policies, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    choices = [*POLICIES, "adaptive"]
    parser.add_argument("--policy", nargs="+", choices=choices, default=["serial", "race"])
    asked = parser.parse_args()
    runs, found = [], {}
    for policy in asked.policy:
        of_policy = [apart(queries, policy) for queries in asked.queries]
        for run in of_policy:
            print(run, flush=True)
        runs += of_policy
        found[policy] = slopes(of_policy)
    told = {
        "benchmark": "scale",
        "concurrency": CONCURRENCY,
        "runs": runs,
        "slopes": found,
        **read_circumstances(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
