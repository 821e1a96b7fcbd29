"""What is measured is started here, each in a process of its own on a core of its own, and stopped.

It refuses to know what is measured. Upstream and load share the first core; what stands between
them has the last one to itself.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.proxying.upstream import MODEL
from tests.e2e.pinned_env import CLIENTS

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).parent
SPECEYES: Final = Path(sys.executable).with_name("speceyes")
READY_S: Final = 180.0
_STOP_S: Final = 15.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Something that answers at a port."""

    name: str
    port: int
    model: str
    process: subprocess.Popen[str] | None
    path: str = "/v1/chat/completions"

    def cpu_s(self) -> float | None:
        """Give the processor time it has used, with its children."""
        if self.process is None:
            return None
        return sum(_cpu_s(pid) for pid in family(self.process.pid))

    def memory_mib(self) -> float | None:
        """Give the memory it holds, with its children."""
        if self.process is None:
            return None
        return sum(memory_mib(pid) for pid in family(self.process.pid))


def family(pid: int) -> tuple[int, ...]:
    """Give a process and all that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text(encoding="ascii").split():
                found.extend(family(int(child)))
    return tuple(found)


def memory_mib(pid: int) -> float:
    """Give what a process holds, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def cores() -> tuple[int, int]:
    """Give the core of load and upstream, and that of what is measured."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def free_port() -> int:
    """Find a loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(
    words: Sequence[str | Path],
    *,
    core: int,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a program on a core; without a log its output can be read, a line at a time."""
    process = subprocess.Popen(  # noqa: S603 - programs of this checkout
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if log is None else log.open("w", encoding="utf-8"),
        stderr=None if log is None else subprocess.STDOUT,
        text=True,
        env=None if env is None else dict(env),
        start_new_session=True,
    )
    os.sched_setaffinity(process.pid, {core})
    return process


def stop(process: subprocess.Popen[str]) -> None:
    """End a program and all it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_S)


def read_json(port: int, path: str) -> Any:
    """Read a document from a port of this machine. Raises: OSError, ValueError."""
    return json.loads(read_text(port, path))


def read_text(port: int, path: str) -> str:
    """Read a page from a port of this machine. Raises: OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        told = reply.read().decode()
        if reply.status != 200:
            raise OSError(f"{path}: {reply.status} {told[:200]}")
        return told
    finally:
        connection.close()


def wait_ready(process: subprocess.Popen[str], port: int, path: str, *, log: Path) -> None:
    """Wait until a program answers. Raises: RuntimeError with the end of its log."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            read_text(port, path)
            return
        time.sleep(0.2)
    told = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    raise RuntimeError(f"{process.args!r} does not serve; its log ends:\n" + "\n".join(told))


@contextmanager
def upstream(core: int) -> Iterator[int]:
    """Serve the upstream; give its port."""
    process = start((sys.executable, HERE / "upstream.py"), core=core)
    try:
        yield _first_line(process)
    finally:
        stop(process)


@contextmanager
def wire(core: int, upstream_port: int) -> Iterator[Target]:
    """Carry bytes to the upstream."""
    process = start((sys.executable, HERE / "wire.py", str(upstream_port)), core=core)
    try:
        port = _first_line(process)
        path = "/large/v1/chat/completions"
        yield Target(name="wire", port=port, model=MODEL, process=process, path=path)
    finally:
        stop(process)


def gateway_settings(upstream_port: int, port: int, *, room: int = 512) -> str:
    """Write the gateway's settings: one model for each route, both on the same upstream.

    `room`: so many requests may be under way, and so many connections to an engine.
    """
    address = f"http://127.0.0.1:{upstream_port}"
    return f"""
gate = "paper"
small = {{engine = "{address}/small/v1#{MODEL}"}}
large = {{engine = "{address}/large/v1#{MODEL}"}}
http = {{max_connections = {room}}}
[routes.bypass]
mode = "bypass"
[routes.funnel]
[gateway]
port = {port}
[gateway.limits]
max_in_flight = {room}
"""


@contextmanager
def gateway(core: int, upstream_port: int, folder: Path, *, room: int = 512) -> Iterator[Target]:
    """Serve the gateway, with one worker; its model here is that of the bypass."""
    port, settings, log = free_port(), folder / "speceyes.toml", folder / "gateway.log"
    settings.write_text(gateway_settings(upstream_port, port, room=room), encoding="utf-8")
    process = start((SPECEYES, "serve", "--config", settings), core=core, log=log)
    try:
        wait_ready(process, port, "/readyz", log=log)
        yield Target(name="bypass", port=port, model="bypass", process=process)
    finally:
        stop(process)


LITELLM_SETTINGS: Final = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{port}/large/v1
      api_key: none
"""


@contextmanager
def litellm(core: int, upstream_port: int, folder: Path) -> Iterator[Target]:
    """Serve LiteLLM's proxy, with one worker and without what costs it time: keys, logs, prices."""
    port, settings, log = free_port(), folder / "litellm.yaml", folder / "litellm.log"
    told = LITELLM_SETTINGS.format(model=MODEL, port=upstream_port)
    settings.write_text(told, encoding="utf-8")
    env = {
        "PATH": f"{CLIENTS.python.parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
    }
    flags = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    words = (
        CLIENTS.python.with_name("litellm"),
        "--config",
        settings,
        *flags,
        "--telemetry",
        "False",
    )
    process = start(words, core=core, log=log, env=env)
    try:
        wait_ready(process, port, "/health/liveliness", log=log)
        yield Target(name="litellm", port=port, model=MODEL, process=process)
    finally:
        stop(process)


class Load:
    """The process that asks; it measures one run at a time."""

    def __init__(self, core: int) -> None:
        self.process = start((sys.executable, HERE / "load.py"), core=core)

    def measure(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Measure a run, as `load.Run` says it. Raises: RuntimeError if the load ended."""
        into, out = self.process.stdin, self.process.stdout
        if into is None or out is None:
            raise RuntimeError("the load has no pipes")
        into.write(json.dumps(run) + "\n")
        into.flush()
        line = out.readline()
        if not line:
            raise RuntimeError(f"the load ended in {run}; its error stands above")
        return dict(json.loads(line))

    def close(self) -> None:
        """End it."""
        stop(self.process)


def _first_line(process: subprocess.Popen[str]) -> int:
    line = "" if process.stdout is None else process.stdout.readline()
    if not line.strip().isdigit():
        raise RuntimeError(f"{process.args!r} ended; its error stands above")
    return int(line)
