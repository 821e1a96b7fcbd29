"""Make build/NAME: a virtual environment of pinned packages, beside the project's own.

    clients  what talks to the gateway, or is measured beside it
    harness  other evaluation harnesses, which drive speceyes; on top of the project's own

It refuses to change the project's own environment. A finished one is kept, and made anew only when
its pins, the interpreter or what lies beneath it change.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_TARGETS: Final = {"clients": "clients", "harness": "harnesses"}  # of make, that build them
_STAMP: Final = ".stamp"
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install")


@dataclass(frozen=True, slots=True)
class PinnedEnvironment:
    """One environment: where it is, what is pinned, and the folders beneath that it only sees."""

    folder: Path
    pins: Path
    beneath: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in what is said of it."""
        return self.folder.name

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def stamp_now(self) -> str:
        """Name what it is made of: two are alike if, and only if, their stamps are."""
        pins = self.pins.read_text(encoding="utf-8")
        made_of = (pins, *self.beneath, sys.version, platform.machine())
        return hashlib.sha256("\0".join(made_of).encode()).hexdigest()

    def is_ready(self) -> bool:
        """Say if it is whole and made of what is wanted now."""
        stamp = self.folder / _STAMP
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.stamp_now()

    def build(self) -> None:
        """Make it from nothing. Raises: CalledProcessError if the pins do not install."""
        shutil.rmtree(self.folder, ignore_errors=True)
        began_s = time.monotonic()
        self._say("[1/2] an environment")
        # On top of another its pip is the one beneath, which refuses to touch what lies there.
        bare = ["--without-pip"] if self.beneath else []
        subprocess.run([sys.executable, "-m", "venv", *bare, str(self.folder)], check=True)
        if self.beneath:
            words = "import sysconfig; print(sysconfig.get_path('purelib'))"
            asked = [self.python, "-c", words]
            site = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
            beneath = "\n".join(self.beneath) + "\n"
            Path(site, "beneath.pth").write_text(beneath, encoding="utf-8")
        self._say(f"[2/2] {self.pins.name}")
        subprocess.run(
            [self.python, *_PIP, "--no-deps", "--requirement", str(self.pins)], check=True
        )
        (self.folder / _STAMP).write_text(self.stamp_now(), encoding="utf-8")
        self._say(f"ready in {time.monotonic() - began_s:.0f} s: {self.folder}")

    def ensure(self) -> None:
        """Make it unless it is there already; on a laptop, tests can do without it."""
        if self.is_ready():
            self._say(f"{self.folder} is up to date")
            return
        try:
            self.build()
        except subprocess.CalledProcessError as error:
            if os.environ.get("CI"):
                raise
            self._say(f"could not be made ({error}); tests that need it are skipped")

    def require(self) -> None:
        """Skip the test at hand if it is not there; in continuous integration, fail it."""
        import pytest  # which only tests have

        if self.is_ready():
            return
        reason = f"{self.folder} is not there or out of date; run `make {_TARGETS[self.name]}`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def _say(self, words: str) -> None:
        print(f"{self.name}: {words}", flush=True)


def _pins(name: str) -> Path:
    return Path(__file__).with_name(f"{name}-requirements.txt")


CLIENTS: Final = PinnedEnvironment(ROOT / "build" / "clients", _pins("clients"))
HARNESS: Final = PinnedEnvironment(
    ROOT / "build" / "harness",
    _pins("harness"),
    beneath=(sysconfig.get_path("purelib"), str(ROOT / "src")),
)

if __name__ == "__main__":
    {"clients": CLIENTS, "harness": HARNESS}[sys.argv[1]].ensure()
