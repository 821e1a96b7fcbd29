"""A stand-in for the built-in pair's module, the engines in it, and a question to ask them."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image as Pillow

from speceyes import Query
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.gate import GateSpec
from speceyes.pictures import encode_png
from speceyes.protocols.closer import Closer
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.thyme import Thyme
from speceyes.screen import ScreenSpec

GATE = GateSpec(threshold=4.0, k=16)
ZOOM = (
    "<think>small</think> <tool_call>\n"
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}\n</tool_call>'
)
RING = "<think>seen</think> <answer>ring</answer>"
SURE = Take(scripted("disc", k=16))
UNSURE = Take(scripted("disc", separability=1.0, k=16))


def scene():
    image = Pillow.new("RGB", (448, 448), "white")
    image.paste((255, 0, 0), (0, 0, 224, 224))
    return encode_png(image)


def ask(query_id="q"):
    return Query("Which shape is red?", (scene(),), ("disc", "ring"), query_id)


def says(*texts, p_tool=0.1, name="large"):
    """Make a large engine: a screen first, then the agent's turns, over and over."""
    turns = [Take(scripted(text, separability=None)) for text in texts]

    def script(request):
        if request.max_tokens == 1:
            return Take(scripted_screen(p_tool))
        return turns[sum(message.role == "assistant" for message in request.messages)]

    return ReplayEngine(script, name=name)


def small_says(take, name="small"):
    return ReplayEngine(lambda _: take, name=name)


VIEWED = DeepEyes(min_px=112 * 112, max_px=112 * 112)


class Pair:
    """Stands in for the built-in pair's module."""

    def __init__(self, **failures):
        self.opened, self.names = [], []
        self.failures = failures
        self.BUILTIN = SimpleNamespace(
            gate=GATE,
            first_gate=replace(GATE, k=8),
            closer_gate=replace(GATE, k=4),
            screen=ScreenSpec(top_logprobs=7),
            shared_screen=ScreenSpec(prompt="shared", top_logprobs=6),
            protocols={"deepeyes": VIEWED, "thyme": Thyme(min_px=112 * 112, max_px=112 * 112)},
            closer=Closer(extent=None),
        )

    def load(self, role):
        if role in self.failures:
            raise self.failures[role]
        engine = says(ZOOM, RING) if role == "large" else small_says(UNSURE)
        self.opened.append(engine)
        self.names.append(role)
        return engine


@pytest.fixture
def pair(monkeypatch):
    return install(monkeypatch, Pair())


def install(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "speceyes.builtin.pair", pair)
    return pair
