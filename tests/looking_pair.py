"""A scripted pair whose small model looks closer: unsure of hard items until it has seen them."""

from dataclasses import replace
from functools import cache, partial

import anyio
import numpy as np

from speceyes.bench.contenders import contenders_on
from speceyes.bench.folder import Run
from speceyes.bench.run import Memory, Plan, run_suite
from speceyes.config import Settings
from speceyes.engines.replay import scripted
from speceyes.gate import GateSpec
from speceyes.policies.fixed import serial
from speceyes.protocols.closer import Closer
from tests.scripted_pair import (
    GATE,
    ListSuite,
    Quiet,
    ScriptedPair,
    _digest_of,
    _guess,
    funnel,
    manifest,
    sure,
    tiny_items,
)

CLOSER_GATE = GateSpec(threshold=4.0, k=12)
CLOSER = Closer(extent=None, min_px=112 * 112, max_px=112 * 112, factor=28)
NOWHERE = "I cannot say"


class LookingPair(ScriptedPair):
    """The small model answers, says where, answers again; now and then it does not say where."""

    def __init__(self, items, *, seed=0, pace=0.0, nowhere=0.1):
        super().__init__(items, seed=seed, pace=pace)
        rng = np.random.default_rng([seed, 1])
        self._looks = {}
        for digest, item in self._items.items():
            said = [item.answer if rng.random() > 0.2 else _guess(rng, item) for _ in range(3)]
            separability = [max(1.8, rng.normal(5.0, 2.0)) for _ in range(3)]
            wheres = [NOWHERE if rng.random() < nowhere else "[20, 20, 60, 60]" for _ in range(3)]
            self._looks[digest] = said, separability, wheres

    def _small(self, request):
        turn = sum(message.role == "assistant" for message in request.messages)
        if turn == 0:
            return super()._small(request)
        said, separability, wheres = self._looks[_digest_of(request)]
        place, answers = divmod(turn - 1, 2)
        if answers:
            return self._take(sure(said[place], separability[place]), 0.05)
        return self._take(scripted(wheres[place], separability=None), 0.02)


async def run_deep(items, *, depth, seed, pace=0.0, policy=serial, gates=(GATE, CLOSER_GATE)):
    """Run a suite with a pair that looks closer, in memory."""
    pair = LookingPair(items, seed=seed, pace=pace)
    made, methods = funnel(pair), ("baseline", "speceyes")
    parts = replace(made.parts, closer=CLOSER)
    rules = replace(made.rules, gate=gates[0], closer_gate=gates[1], depth=depth)
    keeper, suite = Memory(), ListSuite(items, seed=seed)
    plan = Plan(suite=suite, methods=methods, spec=gates[0], concurrency=1, warm_up=items[:1])
    async with contenders_on(parts, rules, methods, policy=policy) as contenders:
        await run_suite(contenders, plan, keeper, watcher=Quiet())
    told = manifest(
        suite,
        methods=methods,
        gate=gates[0],
        closer_gate=gates[1],
        settings=Settings(depth=depth),
        prompts={"speculate": "s1"},
    )
    return Run(told, tuple(keeper.records), f"deep-{seed}")


@cache
def deep_run(count=90, *, depth=1, seed=7, pace=0.0, gates=(GATE, CLOSER_GATE)):
    """Run items whose names are the seed's, so that another seed's are other items."""
    items = [replace(item, item_id=f"{seed}-{item.item_id}") for item in tiny_items(count)]
    return anyio.run(partial(run_deep, items, depth=depth, seed=seed, pace=pace, gates=gates))
