"""A vLLM server that works leaves the other one's core alone, as one on its own machine would."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.vllm_server import Pair, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TOKENS = 400


def ticks_of(name: str) -> int:
    """Add up the processor time of all processes whose name begins so."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, told = stat.read_text().partition("(")
        except OSError:  # it has ended
            continue
        called, _, rest = told.rpartition(")")
        if called.startswith(name):
            ticks += sum(map(int, rest.split()[11:13]))
    return ticks


def say_much(server: Server) -> None:
    """Let it say something long."""
    body = {
        "model": server.name,
        "messages": [{"role": "user", "content": "What do you see?"}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    asked, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, asked, kind), timeout=300) as reply:
        assert json.load(reply)["usage"]["completion_tokens"] == TOKENS


def test_an_engines_core_sleeps_while_its_worker_works(vllm: Pair):
    names = ("VLLM::EngineCor", "VLLM::Worker")
    before = [ticks_of(name) for name in names]
    say_much(vllm.large)
    core, worker = (ticks_of(name) - was for name, was in zip(names, before, strict=True))
    assert worker > 20
    assert core < worker / 2  # without a pause between two looks, four fifths of it
