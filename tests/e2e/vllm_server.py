"""Serve the built-in models with a real vLLM, one core each, and stop all of it again.

It refuses to know what the servers are asked. A server that does not come up says why: the tail of
its log is in the error.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from PIL import Image as Pillow

from speceyes.pictures import encode_png
from tests.e2e.vllm_env import FOLDER, ROOT, SITE, is_ready, python_of

MODELS: Final = ROOT / "src" / "speceyes" / "builtin" / "models"
ROLES: Final = ("small", "large")
CONTEXT_TOKENS: Final = 4096
MAX_LOGPROBS: Final = 64
MAX_IMAGES: Final = 8
BLOCK_TOKENS: Final = 32  # as finely as a CPU shares prefixes; its own 128 is a third of a prompt
READY_S: Final = 420.0  # 60 to 75 s on a core of its own; a shared one takes several times that
FORGOTTEN_S: Final = 20.0
_STOP_S: Final = 15.0
_TOLD_EVERY_S: Final = 20.0
_TAIL_LINES: Final = 40


class ServerDidNotStart(RuntimeError):  # noqa: N818 - says what happened
    """A server ended or stayed silent before it was ready; carries the tail of its log."""


class StillBusy(RuntimeError):  # noqa: N818 - says what happened
    """A server was to forget while somebody else asked it."""


def free_port() -> int:
    """Find a loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cores() -> tuple[int, int]:
    """Give a core for each of the two servers; the same one where there is only one."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


@dataclass(kw_only=True, eq=False)
class Server:
    """One model on one port: started, killed and started again at the same address."""

    model: Path
    name: str  # what the API calls the model
    core: int
    folder: Path  # for the log
    tell: Callable[[str], None] = print  # told how long it has been starting
    poll_s: float = 1.0
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where the OpenAI-compatible API begins."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def command(self) -> list[str]:
        """The words that start it."""
        settings = {
            "model": self.model,
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": self.port,
            "dtype": "float32",  # as the in-process engine runs the same weights
            "max-model-len": CONTEXT_TOKENS,
            "max-logprobs": MAX_LOGPROBS,
            "block-size": BLOCK_TOKENS,
            "distributed-executor-backend": "uni",  # the model in its engine's process, as on a GPU
            "limit-mm-per-prompt": json.dumps({"image": MAX_IMAGES, "video": 0}),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        flags = ("--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details")
        module = "vllm.entrypoints.openai.api_server"
        return [str(python_of()), "-m", module, *words, *flags]

    @property
    def group(self) -> int | None:
        """Give the number of its process group; None where it is not started."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> Path:
        """The file that all of the server's output goes to."""
        return self.folder / f"vllm-{self.name}.log"

    def start(self) -> None:
        """Start it, in a process group of its own; `wait_ready` says when it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=_environment(self),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Wait until it serves. Raises: ServerDidNotStart with the log's tail."""
        began_s = told_s = time.monotonic()
        while not self.is_healthy():
            now_s = time.monotonic()
            if self._process is None or self._process.poll() is not None:
                raise ServerDidNotStart(self._why("ended before it served anything"))
            if now_s - began_s > within_s:
                raise ServerDidNotStart(self._why(f"did not serve within {within_s:.0f} s"))
            if now_s - told_s >= _TOLD_EVERY_S:
                told_s = now_s
                last = (self.tail(1) or ["no output yet"])[0]
                self.tell(f"vllm {self.name}: {now_s - began_s:.0f} s, {last[:120]}")
            time.sleep(self.poll_s)
        self.tell(f"vllm {self.name}: serving after {time.monotonic() - began_s:.0f} s")

    def warm_up(self, within_s: float = READY_S) -> None:
        """Show it a picture: the first one takes half a minute, longer than a query would wait."""
        data = encode_png(Pillow.new("RGB", (112, 112))).data
        shown = {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}
        content = [{"type": "image_url", "image_url": shown}, {"type": "text", "text": "?"}]
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 2,
            "logprobs": True,
            "top_logprobs": MAX_LOGPROBS,
        }
        began_s = time.monotonic()
        self.complete(body, within_s)
        self.tell(f"vllm {self.name}: first picture after {time.monotonic() - began_s:.0f} s")

    def complete(self, body: dict[str, Any], within_s: float = READY_S) -> dict[str, Any]:
        """Ask for a chat completion as it is worded, and give the reply. Raises: URLError."""
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        asked, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(url, asked, kind), timeout=within_s
        ) as reply:
            return dict(json.load(reply))

    def ensure(self) -> None:
        """See that it serves: started anew if it does not."""
        if not self.is_healthy():
            self.stop()
            self.start()
            self.wait_ready()
            self.warm_up()

    def is_healthy(self) -> bool:
        """Say if it answers."""
        health = f"http://127.0.0.1:{self.port}/health"
        try:
            with urllib.request.urlopen(health, timeout=5) as reply:
                return int(reply.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    def read_metric(self, name: str) -> float:
        """Add up one of the server's Prometheus counters over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        found = [line for line in lines if line.partition("{")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def forget(self, within_s: float = FORGOTTEN_S) -> None:
        """Let it keep nothing of the prompts and pictures it has seen.

        It cannot while a call is under way, and one that was cancelled is so for a moment longer.
        Raises: StillBusy.
        """
        for what in ("mm", "encoder"):
            self._post(f"reset_{what}_cache")
        until_s = time.monotonic() + within_s
        while not json.loads(self._post("reset_prefix_cache"))["success"]:
            if time.monotonic() > until_s:
                raise StillBusy(f"vllm {self.name} had calls under way for {within_s:.0f} s")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would: no goodbye to whoever waits for an answer."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """End it and everything it started; safe to call twice."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self.kill()

    def tail(self, lines: int = _TAIL_LINES) -> Sequence[str]:
        """Give the last lines of the log."""
        if not self.log.is_file():
            return []
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]

    def _post(self, what: str) -> bytes:
        url = f"http://127.0.0.1:{self.port}/{what}"
        with urllib.request.urlopen(
            urllib.request.Request(url, method="POST"), timeout=30
        ) as reply:
            return bytes(reply.read())

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            # The group outlives its leader: workers of a dead server are reached as well.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait(_STOP_S)

    def _why(self, what: str) -> str:
        told = "\n".join(self.tail())
        return f"vllm {self.name} {what}; the end of {self.log}:\n{told}"


@dataclass(frozen=True)
class Pair:
    """The small and the large model, each behind its own port."""

    small: Server
    large: Server

    @property
    def servers(self) -> tuple[Server, Server]:
        """Both."""
        return (self.small, self.large)


def wait_ready(servers: Sequence[Server]) -> None:
    """Wait until all have answered about a picture. Raises: ServerDidNotStart."""
    for server in servers:
        server.wait_ready()
    for server in servers:
        server.warm_up()


def leave_process() -> NoReturn:
    """End the process as one that SIGTERM has ended, but not before its cleanup."""
    raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def serve_pair(
    folder: Path,
    tell: Callable[[str], None] = print,
    *,
    models: Path = MODELS,
    leave: Callable[[], NoReturn] = leave_process,
) -> Iterator[Pair]:
    """Serve both built-in models until the block ends, be it by SIGTERM, on which it leaves.

    `models`: the folder of others in their place, by the same names.
    Raises: ServerDidNotStart.
    """
    if not is_ready():
        raise ServerDidNotStart(f"{FOLDER} is not there or out of date; run `make build/vllm`")
    small, large = (
        Server(model=models / role, name=role, core=core, folder=folder, tell=tell)
        for role, core in zip(ROLES, cores(), strict=True)
    )
    with serve(small, large, leave=leave):
        yield Pair(small, large)


@contextmanager
def serve(*servers: Server, leave: Callable[[], NoReturn] = leave_process) -> Iterator[None]:
    """Run servers until the block ends, be it by SIGTERM, on which it leaves.

    Raises: ServerDidNotStart.
    """
    with _ended_by_sigterm(leave) as hold_back, ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
        stack.callback(hold_back)  # the first to be called
        for server in servers:
            server.start()
        wait_ready(servers)
        yield


@contextmanager
def _ended_by_sigterm(leave: Callable[[], NoReturn]) -> Iterator[Callable[[], None]]:
    # Without a handler the process ends at once, and its servers, in sessions of their own, go on.
    # Once told to hold back, what comes then counts when the block has ended.
    if threading.current_thread() is not threading.main_thread():  # no other may set one
        yield lambda: None
        return
    late: list[int] = []

    def hold_back() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: late.append(number))

    before = signal.signal(signal.SIGTERM, lambda *_: leave())
    try:
        yield hold_back
    finally:
        signal.signal(signal.SIGTERM, before)
        if late:
            signal.raise_signal(signal.SIGTERM)


def _environment(server: Server) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(SITE),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for resetting its caches
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else a CPU's model has a process of its own
        "OMP_NUM_THREADS": "1",
        "MODEL_CORE": str(server.core),  # vllm_site reads it
    }
