"""How long does a plan take, and how much memory: queries of every policy, simulated.

    python benchmarks/planning.py [--queries 1000000] [--policies serial,race] [--real]

Each policy runs in a process of its own. `--real` drives the whole funnel, not only its policies.
Prints one JSON document, last.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]


def measure(policy: str, queries: int, *, is_real: bool) -> dict[str, Any]:
    """Simulate one policy at 16 queries at once; memory in MiB, before and at its most."""
    from speceyes.plan.drive import Closed, Scenario, simulate
    from speceyes.plan.fates import ByHand
    from speceyes.plan.station import Servers

    draw = ByHand(
        beta=0.6,
        alpha=0.95,
        screen_s=0.03,
        speculate_s=0.05,
        turn_s=0.5,
        depths={0: 0.3, 1: 0.5, 2: 0.2},
        spread=0.5,
    )
    scenario = Scenario(
        draw=draw,
        policy=policy,  # type: ignore[arg-type]
        arrivals=Closed(16),
        large=Servers(seats=8, slowdown=0.1),
        queries=queries,
        is_real=is_real,
    )
    before_mib = peak_mib()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = simulate(scenario)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return {
        "policy": policy,
        "queries": queries,
        "is_real": is_real,
        "took_s": round(took_s, 1),
        "cpu_s": round(cpu_s, 1),
        "cpu_us_a_query": round(cpu_s / queries * 1e6),
        "mib_before": before_mib,
        "mib_peak": peak_mib(),
        "mean_s": found.mean_s,
        "p95_s": found.p95_s,
        "throughput": found.throughput,
    }


def peak_mib() -> float:
    """Give the most memory that this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def main() -> None:
    """Measure every policy in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--policies", default="serial,race")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(a.policies, a.queries, is_real=a.real)))
        return
    found = []
    for policy in a.policies.split(","):
        words = [sys.executable, __file__, "--one", "--policies", policy]
        words += ["--queries", str(a.queries), *(["--real"] if a.real else [])]
        done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603
        found.append(json.loads(done.stdout))
        print(found[-1])
    print(json.dumps({"plans": found}))


if __name__ == "__main__":
    main()
