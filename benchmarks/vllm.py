"""How much faster is SpecEyes than its agent alone on a real vLLM? Both answer the same items.

The built-in pair is served by two vLLM processes, a core each; before each method's turn they
forget what they have cached, so that no one profits from the other. Prints one JSON document, last.

    make vllm && .venv/bin/python benchmarks/vllm.py --items 48 --concurrency 1 16
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes import SpecEyes  # noqa: E402
from speceyes.bench.contenders import contenders_on  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.bench.records import Method, Record  # noqa: E402
from speceyes.bench.run import Memory, Plan, run_suite  # noqa: E402
from speceyes.bench.suites.opening import open_suite  # noqa: E402
from speceyes.bench.summary import Entrant, Figures, Summary, summarise  # noqa: E402
from speceyes.builtin.pair import BUILTIN  # noqa: E402
from speceyes.builtin.suite import draw_items  # noqa: E402
from speceyes.engines.http import HttpEngine  # noqa: E402
from speceyes.engines.wire.settings import DEFAULT_HTTP, HttpSettings  # noqa: E402
from tests.e2e.vllm_server import Pair, Server, serve_pair  # noqa: E402

WARM_UP_ITEMS = 3
METHODS: tuple[Method, ...] = ("baseline", "speceyes")


class Forgetting(HttpEngine):
    """An engine whose server forgets when told to. Implements `bench.contenders.Forgetful`."""

    def __init__(self, server: Server, settings: HttpSettings = DEFAULT_HTTP) -> None:
        super().__init__(server.base_url, model=server.name, settings=settings)
        self._behind = server

    def forget(self) -> None:
        """Drop what the server has cached."""
        self._behind.forget()
        self.forget_pictures()


@dataclass
class Progress:
    """Say on the standard error how far it is."""

    concurrency: int
    stage: str = ""
    left: int = 0

    def begins(self, stage: str, items: int, *, done: int = 0) -> None:
        """A stage begins."""
        self.stage, self.left = stage, items - done
        self._say()

    def saw(self, record: Record) -> None:  # noqa: ARG002 - a Watcher is told
        """An item ended."""
        self.left -= 1
        if self.left % 20 == 0:
            self._say()

    def _say(self) -> None:
        words = f"concurrency {self.concurrency}: {self.stage}, {self.left} to come"
        print(words, file=sys.stderr, flush=True)


async def measure(pair: Pair, plan: Plan, protocol: str) -> Summary:
    """Let both methods answer all items on both servers."""
    small, large = Forgetting(pair.small), Forgetting(pair.large)
    eyes = SpecEyes(
        small=small,
        large=large,
        protocol=BUILTIN.protocols[protocol],
        gate=BUILTIN.gate,
        screen=BUILTIN.screen,
    )
    keeper = Memory()
    try:
        async with (
            eyes,
            contenders_on(eyes.funnel.parts, eyes.funnel.rules, METHODS) as contenders,
        ):
            await run_suite(contenders, plan, keeper, watcher=Progress(plan.concurrency))
    finally:
        await small.aclose()
        await large.aclose()
    by = {method: [r for r in keeper.records if r.method == method] for method in METHODS}
    return summarise(
        [
            Entrant(label=method, method=method, records=found, concurrency=plan.concurrency)
            for method, found in by.items()
        ]
    )


def figures(summary: Summary, concurrency: int) -> dict[str, Any]:
    """Lay out one concurrency's figures."""
    whole = summary.overall
    gain, ours = whole.gains["speceyes"], whole.figures["speceyes"]
    interval = gain.speedup_interval
    return {
        "concurrency": concurrency,
        "speedup": gain.speedup,
        "speedup_interval": None if interval is None else [interval.low, interval.high],
        "alpha": None if ours.alpha is None else ours.alpha.value,
        "beta": None if ours.beta is None else ours.beta.value,
        "limit": ours.limit,
        "share_of_limit": gain.share_of_limit,
        "baseline": _method(whole.figures["baseline"]),
        "speceyes": _method(ours),
        "routes": dict(summary.routes["speceyes"]),
        "reject_reasons": dict(summary.reject_reasons["speceyes"]),
    }


def _method(method: Figures) -> dict[str, Any]:
    return {
        "accuracy": method.accuracy.value,
        "failed": method.failed,
        "wall_s": method.wall_s,
        "latency": None if method.latency is None else asdict(method.latency),
        "phases": {phase: asdict(spread) for phase, spread in method.phases.items()},
    }


def main() -> None:
    """Serve, measure each concurrency, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--seed", type=int, default=20260412)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--protocol", choices=tuple(BUILTIN.protocols), default="deepeyes")
    asked = parser.parse_args()
    circumstances = read_circumstances()
    suite = open_suite(f"builtin:{asked.items}", seed=asked.seed)
    warm_up = list(draw_items(WARM_UP_ITEMS, seed=asked.seed, stream="calibration"))
    plans = [
        Plan(
            suite=suite,
            methods=METHODS,
            spec=BUILTIN.gate,
            concurrency=concurrency,
            warm_up=warm_up,
        )
        for concurrency in asked.concurrency
    ]
    with tempfile.TemporaryDirectory() as folder, serve_pair(Path(folder), _tell) as pair:
        runs = [
            figures(anyio.run(measure, pair, plan, asked.protocol), plan.concurrency)
            for plan in plans
        ]
    document = {
        "benchmark": "vllm",
        "protocol": asked.protocol,
        "items": asked.items,
        "seed": asked.seed,
        "runs": runs,
        **circumstances,
    }
    print(json.dumps(document))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
