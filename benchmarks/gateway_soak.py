"""Does the gateway hold? Hours of mixed load with faults, or thousands of slow streams at once.

Clients of every temper ask, servers fail on request; every request must be accounted for in
/metrics, no call upstream may outlive its client, and the worker's memory must stay flat after it
has warmed up. With `--streams N`: N streams at once, none lost, and the memory that each takes.
Prints one JSON document, last; ends with 1 if something did not hold.

    python benchmarks/gateway_soak.py --minutes 30
    python benchmarks/gateway_soak.py --streams 2000 [--route funnel]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.proxying.behaviours import KINDS, LEFT, Kind, play, read_reply  # noqa: E402
from benchmarks.proxying.load import chat_body, http_request  # noqa: E402
from benchmarks.proxying.targets import (  # noqa: E402
    Target,
    cores,
    gateway,
    read_json,
    read_text,
    upstream,
)
from speceyes.bench.machine import read_circumstances  # noqa: E402

Json = dict[str, Any]

SAMPLE_S: Final = 2.0
SETTLE_S: Final = 20.0  # within which all that was begun must have ended
FLAT_MIB: Final = 8.0  # that the last quarter may be above the first one after the warm-up
WARM_UP: Final = 0.2  # of the time
RAMP_PER_S: Final = 300  # streams
_COUNTED: Final = re.compile(r"^speceyes_requests_total\{(.*)\} (\S+)$", re.MULTILINE)
_CLASSES: Final = {LEFT: "cancelled", "broken": "2xx"}  # a reply that broke off had begun well
_LABEL: Final = re.compile(r'(\w+)="(.*?)"')
_IN_FLIGHT: Final = re.compile(r"^speceyes_in_flight (\S+)$", re.MULTILINE)


@dataclass
class Diary:
    """What the clients saw, and what the worker held meanwhile."""

    begun: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # "kind: outcome"
    surprises: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float]] = field(default_factory=list)  # seconds, MiB

    def saw(self, kind: Kind, outcome: str) -> None:
        """Write down how a request ended for its client."""
        self.outcomes[f"{kind.name}: {outcome}"] += 1
        if outcome not in kind.statuses:
            self.surprises[f"{kind.name}: {outcome}"] += 1

    def answered(self) -> Counter[str]:
        """Count what ended, by outcome alone."""
        found = Counter[str]()
        for name, count in self.outcomes.items():
            found[name.rpartition(": ")[2]] += count
        return found


async def soak(target: Target, diary: Diary, *, minutes: float, clients: int, seed: int) -> None:
    """Let clients of every temper ask until the time is over, and end what they began."""
    end_s = time.monotonic() + 60 * minutes

    async def one(number: int) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - a load to be had again
        while time.monotonic() < end_s:
            (kind,) = chance.choices(KINDS, [kind.weight for kind in KINDS])
            diary.begun += 1
            diary.saw(kind, await play(kind, target.port, chance))
            await asyncio.sleep(chance.expovariate(20.0))

    watching = asyncio.create_task(watch(target, diary))
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(one(number))
    watching.cancel()


async def watch(target: Target, diary: Diary) -> None:
    """Write down the worker's memory, again and again."""
    began_s = time.monotonic()
    while True:
        diary.samples.append((time.monotonic() - began_s, target.memory_mib() or 0.0))
        if len(diary.samples) % 15 == 0:
            _tell(
                f"{diary.samples[-1][0]:.0f} s, {diary.begun} begun, {diary.samples[-1][1]:.1f} MiB"
            )
        await asyncio.sleep(SAMPLE_S)


def settle(target: Target, upstream_port: int) -> Json:
    """Wait until nothing is under way; tell what is left where that does not come."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        page = read_text(target.port, "/metrics")
        found = _IN_FLIGHT.search(page)
        in_flight = float(found[1]) if found else -1.0
        books = read_json(upstream_port, "/ledger")
        if (in_flight == 0 and books["active"] == 0) or time.monotonic() > end_s:
            return {"in_flight": in_flight, "upstream": books, "counted": counted(page)}
        time.sleep(0.2)


def counted(page: str) -> list[Json]:
    """Read how requests ended, off /metrics."""
    return [
        {**dict(_LABEL.findall(labels)), "count": int(float(count))}
        for labels, count in _COUNTED.findall(page)
    ]


def account(diary: Diary, left: Json) -> Json:
    """Hold what the clients saw against what the gateway counted."""
    by_class, by_route = Counter[str](), Counter[str]()
    for line in left["counted"]:
        by_route[line["route"]] += line["count"]
        by_class["cancelled" if line["route"] == "cancelled" else line["status"]] += line["count"]
    seen_by_class = Counter[str]()
    for outcome, count in diary.answered().items():
        seen_by_class[_CLASSES.get(outcome, f"{outcome[0]}xx")] += count
    books = left["upstream"]
    return {
        "begun": diary.begun,
        "counted": sum(by_route.values()),
        "seen_by_class": dict(seen_by_class),
        "counted_by_class": dict(by_class),
        "counted_by_route": dict(by_route),
        "seen": dict(sorted(diary.outcomes.items())),
        "surprises": dict(diary.surprises),
        "upstream": books,
        "is_accounted": sum(by_route.values()) == diary.begun and by_class == seen_by_class,
        "has_no_orphans": left["in_flight"] == 0
        and books["active"] == 0
        and books["begun"] == books["finished"] + books["left"] + books["broken"],
    }


def memory_of(samples: Sequence[tuple[float, float]]) -> Json:
    """Say if the memory stayed flat once it was warm."""
    warm = [mib for _, mib in samples[int(WARM_UP * len(samples)) :]]
    quarter = max(1, len(warm) // 4)
    first, last = statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])
    return {
        "first_mib": round(samples[0][1], 1),
        "warm_mib": round(first, 1),
        "last_mib": round(last, 1),
        "most_mib": round(max(mib for _, mib in samples), 1),
        "is_flat": last - first <= FLAT_MIB,
        "samples": [
            [round(at_s), round(mib, 1)] for at_s, mib in samples[:: len(samples) // 60 + 1]
        ],
    }


async def stream_many(target: Target, *, route: str, count: int, seconds: int) -> Json:
    """Hold so many slow streams at once; count the pieces that each got, and weigh them."""
    image_bytes, mark = (0, "") if route == "bypass" else (2_000, "[screen:yes]")
    question = f"What colour is it? {mark}[large:drip{seconds}]"
    body = chat_body(route, image_bytes=image_bytes, is_stream=True, question=question)
    request = http_request("/v1/chat/completions", body)
    ends, pieces = Counter[str](), []
    idle_mib, most_mib, under_way = target.memory_mib() or 0.0, 0.0, 0
    all_there = asyncio.Event()

    async def one() -> None:
        nonlocal under_way
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        under_way += 1
        if under_way == count:
            all_there.set()
        try:
            writer.write(request)
            status, told = await read_reply(reader)
            ends[status if told.endswith(b"data: [DONE]\n\n") else "not ended"] += 1
            pieces.append(told.count(b"\ndata: ") + 1)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            ends[type(error).__name__] += 1
        finally:
            writer.close()

    async def weigh() -> None:
        nonlocal most_mib
        await all_there.wait()
        while True:
            most_mib = max(most_mib, target.memory_mib() or 0.0)
            await asyncio.sleep(0.5)

    weighing = asyncio.create_task(weigh())
    began_s, cpu_s = time.monotonic(), target.cpu_s() or 0.0
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one())
            if number % 30 == 29:
                await asyncio.sleep(30 / RAMP_PER_S)
    weighing.cancel()
    return {
        "streams": count,
        "route": route,
        "stream_s": seconds,
        "ends": dict(ends),
        "pieces": {"least": min(pieces, default=0), "most": max(pieces, default=0)},
        "wall_s": round(time.monotonic() - began_s, 1),
        "cpu_s": round((target.cpu_s() or 0.0) - cpu_s, 1),
        "idle_mib": round(idle_mib, 1),
        "most_mib": round(most_mib, 1),
        "kib_a_stream": round(1024 * (most_mib - idle_mib) / count, 1),
        "is_whole": dict(ends) == {"200": count},
    }


def run_soak(asked: argparse.Namespace, target: Target, upstream_port: int) -> tuple[Json, bool]:
    """Soak, then account."""
    diary = Diary()
    uvloop.run(soak(target, diary, minutes=asked.minutes, clients=asked.clients, seed=asked.seed))
    told = account(diary, settle(target, upstream_port))
    memory = memory_of(diary.samples)
    held = told["is_accounted"] and told["has_no_orphans"] and memory["is_flat"]
    return told | {"memory": memory}, held and not diary.surprises


def run_streams(asked: argparse.Namespace, target: Target, upstream_port: int) -> tuple[Json, bool]:
    """Stream, a few at first, so that all is loaded."""
    runs = [
        uvloop.run(stream_many(target, route=asked.route, count=count, seconds=asked.stream_s))
        for count in (min(100, asked.streams), asked.streams)
    ]
    left = settle(target, upstream_port)
    most = left["upstream"]["most_active"]
    told = {"runs": runs, "most_active_upstream": most, "in_flight_left": left["in_flight"]}
    return told, all(run["is_whole"] for run in runs) and left["in_flight"] == 0


def main() -> None:
    """Serve, soak, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--streams", type=int, help="so many streams at once, instead")
    parser.add_argument("--stream-s", type=int, default=60, help="that each stream lasts")
    parser.add_argument("--route", choices=("bypass", "funnel"), default="bypass")
    parser.add_argument("--out", type=Path, help="where the document goes as well")
    asked = parser.parse_args()
    first, last = cores()
    room = max(512, asked.streams or 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream(first) as port,
        gateway(last, port, Path(folder), room=room) as target,
    ):
        told, has_held = (run_streams if asked.streams else run_soak)(asked, target, port)
        if not has_held:
            _tell((Path(folder) / "gateway.log").read_text(encoding="utf-8")[-4000:])
    document = {
        "benchmark": "gateway_soak",
        **read_circumstances(),
        "settings": {name: value for name, value in vars(asked).items() if name != "out"},
        "has_held": has_held,
        **told,
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))
    sys.exit(0 if has_held else 1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
