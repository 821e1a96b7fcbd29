"""A pair that plays its part in the built-in suite from a script: right where a real one would be.

Real funnel, protocol, zoom tool and pictures; only the two engines are scripted. Mistakes are drawn
from a seed: the small model guesses at hard items, and now and then either model slips.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache, partial

import anyio
import numpy as np
from PIL import Image as Pillow

from speceyes import prompts
from speceyes.agent import Agent
from speceyes.bench.contenders import contenders_on
from speceyes.bench.folder import Run
from speceyes.bench.items import Item, SuiteFacts
from speceyes.bench.machine import Machine
from speceyes.bench.manifest import Manifest
from speceyes.bench.run import Memory, Plan, run_suite
from speceyes.builtin.suite import draw_items
from speceyes.config import Settings
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.funnel import Funnel
from speceyes.gate import GateSpec
from speceyes.phases import Parts, Rules
from speceyes.pictures import DecodedPictures, encode_png
from speceyes.policies.fixed import serial
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.screen import ScreenSpec
from speceyes.tools.zoom import ZoomTool
from speceyes.types import Box, Evidence, Image, Query, Usage

GATE = GateSpec(threshold=5.0, k=16)
SCREEN = ScreenSpec()
PROTOCOL = DeepEyes(min_px=112 * 112, max_px=112 * 112)
MACHINE = Machine(
    system="Linux x86_64", processor="Abacus 9000", cores=2, threads=2, memory_gib=8.0, load=0.5
)
METHODS = ("baseline", "speceyes", "small")
_ZOOM_PX = 14


class Quiet:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.stages = []
        self.seen = []

    def begins(self, stage, items, *, done=0):
        self.stages.append((stage, items, done))

    def saw(self, record):
        self.seen.append((record.method, record.item_id))


class ScriptedPair:
    """Both engines for a list of items, `pace` times as slow as the built-in ones."""

    def __init__(self, items, *, seed=0, pace=0.0, slips=0.06):
        self._rng = np.random.default_rng(seed)
        self._pace = pace
        self._slips = slips
        self._items = {_view_of(item).digest: item for item in items}
        self._minds = {digest: self._mind(item) for digest, item in self._items.items()}
        self.small = ReplayEngine(self._small, name="scripted small")
        self.large = ReplayEngine(self._large, name="scripted large")

    def _mind(self, item):
        rng = self._rng
        slip = rng.random() < self._slips
        p_tool = rng.beta(30, 1) if item.is_hard != slip else rng.beta(1, 30)
        knows = not item.is_hard and rng.random() > self._slips
        said = item.answer if knows else _guess(rng, item)
        separability = max(1.8, rng.normal(8.5, 1.6) if knows else rng.normal(2.6, 1.1))
        agent_right = rng.random() > self._slips
        answer = item.answer if agent_right else _guess(rng, item)
        return p_tool, said, separability, answer

    def _small(self, request):
        _, said, separability, _ = self._minds[_digest_of(request)]
        if request.messages[0].role == "system":  # a turn of the agent's, to be scored
            proposal = f"<think>I think so.</think>\n<answer>{said}</answer>"
            return self._take(scripted(proposal, separability=None), 0.05)
        return self._take(sure(said, separability), 0.03)

    def _large(self, request):
        digest = _digest_of(request)
        item, (p_tool, _, _, answer) = self._items[digest], self._minds[digest]
        if request.messages[0].role != "system":
            return self._take(scripted_screen(p_tool), 0.02)
        if "one digit" in request.messages[-1].parts[-1].text:
            score = 8 if self._minds[digest][1] == item.answer else 3
            return self._take(scripted(f"Score: {score}", separability=None), 0.02)
        turn = sum(message.role == "assistant" for message in request.messages)
        width_px = item.query.pictures[0].width_px
        targets = item.targets_px or (Box(0, 0, width_px, width_px),)
        if turn < len(targets):
            text = _look(targets[turn], turn, width_px / 112)
        else:
            thought = f"Now I see it well. So the answer is {answer}."
            text = f"<think>{thought}</think>\n<answer>{answer}</answer>"
        usage = Usage(300 + 90 * turn, 200, len(text.split()) * 2, 1 + turn)
        return self._take(scripted(text, separability=None, usage=usage), 0.3)

    def _take(self, generation, latency_s):
        return Take(generation, latency_s * self._pace)


def funnel(pair, policy=serial, *, screener=True, gate=GATE):
    agent = Agent(
        engine=pair.large,
        protocol=PROTOCOL,
        tools={"image_zoom_in_tool": ZoomTool()},
        budget=PROTOCOL.budget,
        max_pictures=8,
    )
    parts = Parts(
        small=pair.small,
        screener=pair.large if screener else None,
        agent=agent,
        prompts=prompts,
        open_pixels=DecodedPictures,
    )
    rules = Rules(
        gate=gate,
        screen=SCREEN,
        max_answer_tokens=20,
        screen_timeout_s=30.0,
        speculate_timeout_s=30.0,
        fall_back_timeout_s=100.0,
        degrade=False,
    )
    return Funnel(parts, rules, policy)


def tiny_items(count):
    """Make items with pictures of one colour each, for where nobody looks at them."""
    splits = ("attribute", "position", "existence")
    made = []
    for index in range(count):
        picture = encode_png(Pillow.new("RGB", (224, 224), (index % 256, index // 256, 90)))
        split = splits[index % 3]
        options = () if split == "existence" else ("star", "ring", "disc")
        answer = "yes" if split == "existence" else options[index % 2]
        query = Query(f"What is {index}?", (picture,), options, query_id=f"tiny-{index}")
        targets = (Box(100, 100, 112, 112),)
        made.append(Item(query.query_id, split, query, answer, index % 5 < 2, "shape", targets))
    return made


class ListSuite:
    """A suite of items that are there already, some of them perhaps spoiled."""

    def __init__(self, entries, *, seed=7):
        self._entries = list(entries)
        self._seed = seed

    @property
    def facts(self):
        return SuiteFacts(
            name="builtin",
            source="builtin",
            counts=dict(Counter(entry.split for entry in self._entries)),
            seed=self._seed,
            as_released=False,
            per_split=None,
            checksum=f"of-{len(self._entries)}-items-{self._seed}",
        )

    def entries(self):
        return iter(self._entries)


def manifest(suite, *, methods=METHODS, concurrency=1, **more):
    fields = {
        "suite": suite.facts,
        "methods": methods,
        "concurrency": concurrency,
        "small": "scripted small",
        "large": "scripted large",
        "protocol": "deepeyes",
        "gate": GATE,
        "screen": SCREEN,
        "settings": Settings(),
        "least_score": 7,
        "prompts": {},
        "started_at": "2026-01-02T03:04:05+00:00",
        "commit": None,
        "versions": {"python": "3.11"},
        "machine": MACHINE,
    }
    return Manifest(**(fields | more))


async def keep(keeper, items, *, methods=METHODS, concurrency=1, watcher=None, pair=None, **more):
    """Run a suite of these entries with a scripted pair, each record going to the keeper."""
    asked = [item for item in items if isinstance(item, Item)]
    pair = pair or ScriptedPair(asked)
    made = funnel(pair)
    plan = Plan(
        suite=ListSuite(items),
        methods=methods,
        spec=GATE,
        concurrency=concurrency,
        warm_up=more.pop("warm_up", asked[:1]),
    )
    async with contenders_on(made.parts, made.rules, methods) as contenders:
        await run_suite(contenders, plan, keeper, watcher=watcher or Quiet(), **more)


async def run(items, *, seed=7, pace=0.0, pair=None, **more):
    """Run a suite with a scripted pair, in memory."""
    asked = [item for item in items if isinstance(item, Item)]
    keeper = Memory()
    await keep(keeper, items, pair=pair or ScriptedPair(asked, seed=seed, pace=pace), **more)
    methods, concurrency = more.get("methods", METHODS), more.get("concurrency", 1)
    asked_for = manifest(ListSuite(items, seed=seed), methods=methods, concurrency=concurrency)
    return Run(asked_for, tuple(keeper.records), "scripted")


@cache
def drawn_run(count, pace=0.0, methods=METHODS):
    """Run a suite over scenes of the built-in suite, once; gives (the run, its items)."""
    items = list(draw_items(count, seed=7))
    return anyio.run(partial(run, items, pace=pace, methods=methods)), items


@cache
def tiny_run(count=60, methods=METHODS):
    """Run a suite over tiny pictures, once."""
    return anyio.run(partial(run, tiny_items(count), pace=0.02, methods=methods))


def _guess(rng, item):
    return str(rng.choice(item.query.options or ("yes", "no")))


def sure(text, separability):
    """Say a text with this separability at the gate's K; the evidence reaches K = 64."""
    rivals = np.linspace(0.0, -6.0, 63)
    near = rivals[: GATE.k - 1]
    row = np.concatenate([[near.mean() + separability * near.std()], rivals])
    row -= np.log(np.exp(row).sum())
    count = len(text.split())
    evidence = Evidence(np.tile(row, (count, 1)), np.full(count, row[0]))
    return replace(scripted(text, separability=None), evidence=evidence)


def _view_of(item):
    picture = item.query.pictures[0]
    whole = Box(0, 0, *picture.size)
    return DecodedPictures(item.query.pictures).cut(whole, PROTOCOL.view_size(picture.size))


def _digest_of(request):
    parts = (part for message in request.messages for part in message.parts)
    return next(part.picture.digest for part in parts if isinstance(part, Image))


def _look(box, turn, scale):
    x, y = ((box.left_px + box.right_px) / 2 / scale, (box.top_px + box.bottom_px) / 2 / scale)
    side = max(_ZOOM_PX, min(112, round(box.size[0] / scale * 1.4)))
    left, top = (int(min(max(v - side / 2, 0), 112 - side)) for v in (x, y))
    call = {
        "name": "image_zoom_in_tool",
        "arguments": {"bbox_2d": [left, top, left + side, top + side], "label": "the object"},
    }
    what = "it" if turn == 0 else "the other one"
    thought = f"I look for {what} near {x:.0f} {y:.0f}. I zoom in to see it well."
    return f"<think>{thought}</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
