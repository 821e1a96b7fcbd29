"""What does the gateway cost? Beside LiteLLM's proxy, on the same upstream that costs nothing.

Five ways lead to one upstream: straight; over a bare wire, which reads nothing; through the
gateway's bypass; through its funnel, which asks twice; through LiteLLM's proxy. One worker each,
on a core that nothing of the benchmark shares; they take turns within every round, and ratios are
taken within rounds. Prints a table, and one JSON document, last.

    make clients && .venv/bin/python benchmarks/gateway.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.proxying.figures import Json, cell_of, judge, table  # noqa: E402
from benchmarks.proxying.targets import (  # noqa: E402
    Load,
    Target,
    cores,
    gateway,
    litellm,
    upstream,
    wire,
)
from benchmarks.proxying.upstream import MODEL  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from tests.e2e.pinned_env import CLIENTS  # noqa: E402

NAMES: Final = ("direct", "wire", "bypass", "funnel", "litellm")
_PACKAGES: Final = ("aiohttp", "httptools", "msgspec", "starlette", "uvicorn", "uvloop")
_DIRECT_PATH: Final = "/large/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked."""

    name: str
    image_bytes: int = 0
    is_odd: bool = False  # to be resized before a model sees it
    is_stream: bool = False


WORKLOADS: Final = (
    Workload(name="text"),
    Workload(name="text, stream", is_stream=True),
    Workload(name="image 100 kB", image_bytes=100_000),
    Workload(name="image 1 MB", image_bytes=1_000_000),
    Workload(name="image 1 MB, resized", image_bytes=1_000_000, is_odd=True),
    Workload(name="image 5 MB", image_bytes=5_000_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how often, at how many connections."""

    seconds: float
    rounds: int
    connections: tuple[int, ...]
    workloads: tuple[Workload, ...]
    names: tuple[str, ...]


@contextmanager
def served(names: Sequence[str]) -> Iterator[dict[str, Target]]:
    """Serve the upstream and all that stands before it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first, last = cores()
        port = stack.enter_context(upstream(first))
        found = {
            "direct": Target(name="direct", port=port, model=MODEL, process=None, path=_DIRECT_PATH)
        }
        if "wire" in names:
            found["wire"] = stack.enter_context(wire(last, port))
        if {"bypass", "funnel"} & {*names}:
            told = stack.enter_context(gateway(last, port, folder))
            found |= {name: replace(told, name=name, model=name) for name in ("bypass", "funnel")}
        if "litellm" in names:
            found["litellm"] = stack.enter_context(litellm(last, port, folder))
        yield {name: found[name] for name in names}


def targets_for(workload: Workload, targets: dict[str, Target]) -> list[Target]:
    """Leave out what the workload does not tell of: only the funnel looks into pictures."""
    if workload.is_odd:
        return [target for target in targets.values() if target.name in {"direct", "funnel"}]
    return [t for t in targets.values() if t.name != "funnel" or workload.image_bytes]


def measure(load: Load, target: Target, workload: Workload, *, run: dict[str, Any]) -> Json:
    """Measure one target once."""
    cpu_s = target.cpu_s()
    asked = {
        "port": target.port,
        "path": target.path,
        "model": target.model,
        "image_bytes": workload.image_bytes,
        "is_odd": workload.is_odd,
        "is_stream": workload.is_stream,
        **run,
    }
    found = load.measure(asked)
    used_s = target.cpu_s()
    count = found["requests"] + found["warm_requests"]
    is_known = cpu_s is not None and used_s is not None and count
    return found | {"cpu_ms": 1000 * (used_s - cpu_s) / count if is_known else None}


def measure_all(plan: Plan, targets: dict[str, Target]) -> list[Json]:
    """Measure every cell; in each round the targets take turns, another one first each time."""
    load, cells = Load(cores()[0]), []
    try:
        for workload in plan.workloads:
            reached = targets_for(workload, targets)
            for connections in plan.connections:
                rounds: dict[str, list[Json]] = {target.name: [] for target in reached}
                for turn in range(plan.rounds):
                    for target in reached[turn % len(reached) :] + reached[: turn % len(reached)]:
                        run = {"connections": connections, "seconds": plan.seconds}
                        rounds[target.name].append(measure(load, target, workload, run=run))
                cells.append(cell_of(workload.name, connections, rounds))
                _tell(f"{workload.name}, {connections}: {_brief(cells[-1])}")
    finally:
        load.close()
    return cells


def server_versions() -> dict[str, str]:
    """Name the versions of what the measured servers are made of."""
    pins = CLIENTS.pins.read_text(encoding="utf-8")
    pinned = re.search(r"^litellm==(.+)$", pins, re.MULTILINE)
    found = {package: metadata.version(package) for package in _PACKAGES}
    return found | {"litellm": pinned[1] if pinned else "?"}


def main() -> None:
    """Serve, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="that each measurement takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--workloads", nargs="+", choices=[w.name for w in WORKLOADS])
    parser.add_argument("--quick", action="store_true", help="two rounds of half a second")
    parser.add_argument("--out", type=Path, help="where the document goes as well")
    asked = parser.parse_args()
    plan = Plan(
        seconds=0.5 if asked.quick else asked.seconds,
        rounds=2 if asked.quick else asked.rounds,
        connections=tuple(asked.connections),
        workloads=tuple(w for w in WORKLOADS if not asked.workloads or w.name in asked.workloads),
        names=tuple(name for name in NAMES if name in asked.targets),
    )
    if "litellm" in plan.names and not CLIENTS.is_ready():
        parser.error(f"{CLIENTS.folder} is not there or out of date; run `make clients`")
    circumstances = read_circumstances()
    with served(plan.names) as targets:
        cells = measure_all(plan, targets)
        memory = {name: target.memory_mib() for name, target in targets.items()}
    document = {
        "benchmark": "gateway",
        **circumstances,
        "servers": server_versions(),
        "settings": {"seconds": plan.seconds, "rounds": plan.rounds, "cores": cores()},
        "memory_mib": memory,
        "goals": judge(cells),
        "cells": cells,
    }
    print(table(cells))
    if asked.out is not None:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))


def _brief(cell: Json) -> str:
    return ", ".join(f"{name} {told['rps']} rps" for name, told in cell["targets"].items())


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
