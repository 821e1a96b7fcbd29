"""How much do a thousand queries in flight cost? The real funnel over HTTP, on a stub server.

The stub runs in a process of its own, so that memory and time here are the client's alone; it
replies to nobody until all queries are in flight. Prints one JSON document, last: memory and time
for a query at each concurrency, errors, connections left.

    python benchmarks/in_flight.py [QUERIES]
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.engines.http import HttpEngine, HttpSettings  # noqa: E402
from tests.stand_ins import a_funnel, a_query  # noqa: E402
from tests.stub_server import Body, Say, StubServer, last_text, say  # noqa: E402


def reply(body: Body) -> Say:
    """Screen at once; let the small model take its time."""
    kind = last_text(body).partition("|")[0]
    if kind == "screen":
        return say(body, ["no"])
    return say(body, ["small", " words"])


def serve(pipe: Connection) -> None:
    """Serve, holding as many requests as the pipe says, and tell what was seen."""

    async def main() -> None:
        server = StubServer(reply)
        await server.start()
        pipe.send(server.url)
        while True:
            server.hold(await anyio.to_thread.run_sync(pipe.recv))
            pipe.send((server.max_in_flight, server.disconnects, server.connections))
            server.max_in_flight = 0

    anyio.run(main)


def memory_mib() -> float:
    """Give what this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def measure(url: str, queries: int, idle_mib: float) -> dict[str, Any]:
    """Answer so many queries, all in flight at once."""
    settings = HttpSettings(max_connections=queries, first_byte_timeout_s=300.0)
    engines = [HttpEngine(url, model="stub", settings=settings) for _ in range(2)]
    patience = {"screen_timeout_s": 300.0, "speculate_timeout_s": 300.0}
    gc.collect()
    peak_mib, start_s, cpu_s = 0.0, time.monotonic(), time.process_time()
    routes, errors = Counter[str](), Counter[str]()
    async with a_funnel(*engines, **patience) as funnel, anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal peak_mib
            while True:
                peak_mib = max(peak_mib, memory_mib())
                await anyio.sleep(0.02)

        tasks.start_soon(watch)
        asked = (a_query(f"q{n}") for n in range(queries))
        async for outcome in funnel.answer_many(asked, concurrency=queries):
            if outcome.answer is not None:
                routes[f"{outcome.answer.route}, {outcome.answer.reason}"] += 1
            else:
                errors[str(outcome.error)] += 1
        tasks.cancel_scope.cancel()
    for engine in engines:
        await engine.aclose()
    return {
        "queries": queries,
        "answered": dict(routes),
        "failed": dict(errors.most_common(5)),
        "seconds": round(time.monotonic() - start_s, 2),
        "cpu_ms_a_query": round(1000 * (time.process_time() - cpu_s) / queries, 2),
        "peak_kib_a_query": round(1024 * (peak_mib - idle_mib) / queries, 1),
        "peak_mib": round(peak_mib, 1),
    }


def main() -> None:
    """Measure one query, a quarter, a half, and three times all that were asked for."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = ours.recv()
    anyio.run(partial(measure, url, 1, 0.0))  # loads all that is loaded on first use
    idle_mib, runs = memory_mib(), []
    for queries in (1, most // 4, most // 2, most, most, most):
        ours.send(queries)
        ours.recv()
        run = anyio.run(partial(measure, url, queries, idle_mib))
        time.sleep(0.2)
        ours.send(0)
        in_flight, disconnects, connections = ours.recv()
        seen = {"in_flight": in_flight, "disconnects": disconnects, "connections_left": connections}
        runs.append(run | seen)
        print(runs[-1])
    server.kill()
    told = {
        "benchmark": "in_flight",
        **read_circumstances(),
        "idle_mib": round(idle_mib, 1),
        "runs": runs,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
