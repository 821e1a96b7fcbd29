"""A route that was turned off stays off, whatever ends the workers: a kill, or a new start."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import anyio
import pytest

from tests.gateway_process import Process, serving
from tests.gateway_rig import body
from tests.stub_server import serving as stub
from tests.test_gateway_assembly import KEPT, speak

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

WORKERS = 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ask(gateway: Process) -> str:
    status, said = gateway.ask("/v1/chat/completions", json.dumps(body()).encode())
    assert status == 200, said
    route: str = json.loads(said)["speceyes"]["route"]
    return route


def states(gateway: Process) -> dict[str, int]:
    _, said = gateway.ask("/v1/stats")
    found: dict[str, int] = json.loads(said)["now"]["shadows"]["speceyes"]["states"]
    return found


def until_off(gateway: Process) -> None:
    """Ask until every worker has found its bound broken, and has told the others."""
    until_s = time.monotonic() + 60.0
    while states(gateway) != {"off": WORKERS}:
        assert time.monotonic() < until_s, gateway.text()
        ask(gateway)
        time.sleep(0.1)


def kill_workers(gateway: Process) -> None:
    """End them at once; the parent starts others."""
    parent = gateway.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    workers = [int(one) for one in children if "spawn_main" in _command(one)]
    assert len(workers) == WORKERS
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    until_s = time.monotonic() + 90.0
    while gateway.text().count("state=off") < 2 * WORKERS:  # found, and gone on from
        assert time.monotonic() < until_s, gateway.text()
        time.sleep(0.1)


def _command(process: str) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()


def stays_off(folder: Path, flags: list[str]) -> None:
    with serving(folder, *flags) as gateway:
        until_off(gateway)
        kill_workers(gateway)
        assert [ask(gateway) for _ in range(6)] == ["agentic"] * 6
    with serving(folder, *flags) as gateway:
        assert [ask(gateway) for _ in range(6)] == ["agentic"] * 6
        assert "goes on from what was seen before" in gateway.text()


async def test_a_route_stays_off_when_its_workers_are_killed_and_when_all_starts_anew(tmp_path):
    async with stub(speak) as server:
        file = tmp_path / "speceyes.toml"
        file.write_text(KEPT.format(url=server.url, policy="serial"))
        flags = ["--config", str(file), "--workers", str(WORKERS)]
        await anyio.to_thread.run_sync(partial(stays_off, tmp_path, flags))
