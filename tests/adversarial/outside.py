"""What there is outside of the sandbox, watched: an escape shows here, whatever the code says."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as Pillow

from speceyes.tools.calls import NUMBERS

CANARY = "the-secret-that-must-not-come-back"
CANARY_COLOUR = (13, 201, 87)


@dataclass
class Outside:
    """Canaries: a secret, a picture, a place for a file, listeners, signals."""

    folder: Path
    heard: list[str] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Outside:
        self.folder.chmod(0o755)
        (self.folder / "canary.txt").write_text(CANARY)
        (self.folder / "canary_module.py").write_text("")
        Pillow.new("RGB", (64, 64), CANARY_COLOUR).save(self.folder / "canary.png")
        os.environ["CANARY"] = CANARY
        self.before = signal.signal(signal.SIGUSR1, lambda *_: self.heard.append("a signal"))
        tcp = self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        self._listen(socket.AF_INET6, socket.SOCK_STREAM, ("::1", self.port))
        self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self.port))
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, str(self.folder / "socket"))
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.abstract}")
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self.before)
        del os.environ["CANARY"]
        for listener in self.sockets:
            listener.close()

    @property
    def abstract(self) -> str:
        return f"canary-{os.getpid()}"

    def fill_in(self, code: str, picture: str) -> str:
        named = {
            "SECRET": self.folder / "canary.txt",
            "SECRET_PICTURE": self.folder / "canary.png",
            "TARGET": self.folder / "target",
            "SOCKET": self.folder / "socket",
            "ABSTRACT": self.abstract,
            "PORT": self.port,
            "PARENT": os.getpid(),
            "PICTURE": picture,
        }
        for name, value in named.items():
            code = code.replace(f"@{name}@", str(value))
        numbers = NUMBERS[platform.machine()]
        return re.sub(r"@CALL:(\w+)@", lambda match: str(numbers[match[1]]), code)

    def breaches(self) -> list[str]:
        """Tell what came through, and forget it."""
        for listener in self.sockets:
            kind = listener.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            try:
                if kind == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(16)
                self.heard.append(f"a connection of family {listener.family}")
            except BlockingIOError:
                pass
        target = self.folder / "target"
        if target.exists():
            self.heard.append("a file")
            target.unlink()
        if (self.folder / "canary.txt").read_text() != CANARY:
            self.heard.append("a change of a file")
        found, self.heard = self.heard, []
        return found

    def _listen(self, family: int, kind: int, address: object) -> socket.socket:
        listener = socket.socket(family, kind)
        listener.setblocking(False)
        self.sockets.append(listener)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener


def descendants(of: int | None = None) -> set[int]:
    """Find all processes that come from this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    fresh = {os.getpid() if of is None else of}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def wait_until(holds, seconds: float = 10.0) -> bool:
    """Say if it comes to hold, in time."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
