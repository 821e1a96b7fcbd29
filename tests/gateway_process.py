"""`speceyes serve` as a process of its own: started, waited for, asked, ended."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from ssl import SSLContext
from urllib.parse import urlsplit

COMMAND = (sys.executable, "-c", "from speceyes.cli import main; main()", "serve")
_URL = re.compile(r"message='starting' url=(https?://\S+)/v1")
_READY_S = 90.0


@dataclass
class Process:
    """One gateway. `log` is where it writes."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    trusted: SSLContext | None = None

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, timeout_s: float = 30.0) -> int:
        return self.process.wait(timeout_s)

    def ask(self, path: str, data: bytes | None = None) -> tuple[int, str]:
        """Ask once: the status, and what was said. Raises: OSError."""
        host = urlsplit(self.url)
        at: tuple[str, int | None] = (str(host.hostname), host.port)
        is_plain = host.scheme == "http"
        connection = (
            HTTPConnection(*at, timeout=30)
            if is_plain
            else HTTPSConnection(*at, timeout=30, context=self.trusted)
        )
        with closing(connection):
            connection.request("GET" if data is None else "POST", path, data)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def ready(self) -> None:
        """Wait until it answers."""
        until_s = time.monotonic() + _READY_S
        while time.monotonic() < until_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}:\n{self.text()}")
            found = _URL.search(self.text())
            if found:
                self.url = found[1]
                with suppress(OSError):
                    self.ask("/readyz")
                    return
            time.sleep(0.1)
        raise RuntimeError(f"not ready within {_READY_S:g} s:\n{self.text()}")


@contextmanager
def serving(folder: Path, *flags: str, trusted: SSLContext | None = None) -> Iterator[Process]:
    """Serve at a free port, within a context; `trusted`: who a certificate may be signed by."""
    log = folder / "gateway.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*COMMAND, "--port", "0", *flags], stderr=out, stdout=out)
    served = Process(process, log, trusted=trusted)
    try:
        served.ready()
        yield served
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
