"""A vLLM server that works leaves the other one's core alone, as one on its own machine would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.vllm_server import Pair, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SAY_MUCH = {
    "messages": [{"role": "user", "content": "What do you see?"}],
    "max_tokens": 400,
    "ignore_eos": True,
}


def ticks_of(server: Server) -> dict[str, int]:
    """Give the processor time of each of a server's processes, by its name and number."""
    assert server.group is not None
    found: dict[str, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, told = stat.read_text().partition(" (")
        except OSError:  # it has ended
            continue
        called, _, rest = told.rpartition(")")
        fields = rest.split()
        if int(fields[2]) == server.group:
            found[f"{called} {pid}"] = sum(map(int, fields[11:13]))
    return found


def test_all_but_the_process_that_runs_the_model_leave_the_other_core_alone(vllm: Pair):
    before = ticks_of(vllm.large)
    vllm.large.complete(SAY_MUCH | {"model": vllm.large.name})
    worked = {name: ticks - before.get(name, 0) for name, ticks in ticks_of(vllm.large).items()}
    engine = sum(worked.pop(name) for name in tuple(worked) if name.startswith("VLLM::EngineCor"))
    assert engine > 20
    assert sum(worked.values()) < engine / 2  # processes that wait by looking would take as much
