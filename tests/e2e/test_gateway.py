"""The gateway as a process: what clients hear of it, how it starts, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.gateway_transcript import FILE, transcript
from tests.gateway_process import COMMAND, Process, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SAID = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]})
UNGATED = ("--small", "http://127.0.0.1:9/v1#a", "--large", "http://127.0.0.1:9/v1#b")
ASKED = json.dumps({"model": "speceyes", "messages": [{"role": "user", "content": "hi"}]})


@contextmanager
def slow_server(seconds: float) -> Iterator[tuple[str, threading.Event]]:
    """Serve one answer, slowly; the event says that somebody asked."""
    asked = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            asked.set()
            time.sleep(seconds)
            with suppress(OSError):  # whoever asked may have left
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(SAID)))
                self.end_headers()
                self.wfile.write(SAID.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1#m", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def config(folder: Path, large: str, **limits: float) -> tuple[str, str]:
    """Write a settings file whose only route passes everything on."""
    told = "".join(f"{name} = {value}\n" for name, value in limits.items())
    file = folder / "speceyes.toml"
    file.write_text(
        f'[routes.speceyes]\nmode = "bypass"\nlarge = "{large}"\n[gateway.limits]\n{told}'
    )
    return "--config", str(file)


def post(gateway: Process, into: list[tuple[int, str]]) -> None:
    """Ask once, and keep the answer."""
    into.append(gateway.ask("/v1/chat/completions", ASKED.encode()))


def run(*flags: str) -> tuple[int, str]:
    """Start a gateway that does not come far."""
    words = [*COMMAND, *flags]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.local
def test_clients_hear_word_for_word_what_the_transcript_says(tmp_path: Path):
    with serving(tmp_path, "--builtin") as gateway:
        assert transcript(gateway.url) == FILE.read_text(encoding="utf-8"), (
            "if this is meant, renew it: python -m tests.e2e.gateway_transcript"
        )


def test_what_is_under_way_comes_to_its_end_after_a_sigterm(tmp_path: Path):
    answers: list[tuple[int, str]] = []
    with slow_server(2.0) as (large, asked), serving(tmp_path, *config(tmp_path, large)) as gateway:
        thread = threading.Thread(target=post, args=(gateway, answers))
        thread.start()
        assert asked.wait(10)
        gateway.process.send_signal(signal.SIGTERM)
        thread.join(20)
        assert gateway.wait() == 0
    assert answers == [(200, SAID)]


def test_what_takes_longer_than_the_drain_is_told_so(tmp_path: Path):
    answers: list[tuple[int, str]] = []
    with (
        slow_server(20.0) as (large, asked),
        serving(tmp_path, *config(tmp_path, large, drain_s=1.0)) as gateway,
    ):
        thread = threading.Thread(target=post, args=(gateway, answers))
        thread.start()
        assert asked.wait(10)
        gateway.process.send_signal(signal.SIGTERM)
        thread.join(20)
        assert gateway.wait() == 0
    ((status, said),) = answers
    assert (status, "is closing" in said) == (503, True)


def test_workers_show_their_figures_as_one(tmp_path: Path):
    answers: list[tuple[int, str]] = []
    with slow_server(0.0) as (large, _):
        flags = (*config(tmp_path, large), "--workers", "2")
        with serving(tmp_path, *flags) as gateway:
            for _ in range(10):
                post(gateway, answers)
            time.sleep(2.5)  # each leaves its figures once a second
            _, shown = gateway.ask("/metrics")
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.wait() == 0
    assert len(answers) == 10
    counted = [line for line in shown.splitlines() if line.startswith("speceyes_requests_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == 10


def test_a_mistake_in_the_settings_is_one_line_and_no_traceback(tmp_path: Path):
    file = tmp_path / "speceyes.toml"
    file.write_text("[gateway]\nprot = 8400\n")
    code, told = run("--config", str(file))
    assert (code, told.startswith("speceyes: gateway.prot: is unknown")) == (2, True)


def test_what_cannot_be_opened_is_one_line_and_no_traceback():
    code, told = run(*UNGATED)
    assert code == 2
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("speceyes: routes.speceyes.gate: none is known")


def test_workers_that_cannot_start_end_it_and_say_why():
    code, told = run(*UNGATED, "--workers", "2", "--port", "0")
    assert code == 1
    assert "Traceback" not in told
    assert "routes.speceyes.gate: none is known" in told


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, told = run("--builtin", "--port", str(port))
    assert code == 2
    assert told.splitlines()[-1].startswith("speceyes: gateway.port: cannot listen")


def test_listening_beyond_loopback_without_keys_is_told_loudly(tmp_path: Path):
    with slow_server(0.0) as (large, _):
        flags = (*config(tmp_path, large), "--host", "0.0.0.0")  # noqa: S104 - that is the point
        with serving(tmp_path, *flags) as gateway:
            assert "ANYBODY" in gateway.text()
        with serving(tmp_path, *config(tmp_path, large)) as gateway:
            assert "ANYBODY" not in gateway.text()
