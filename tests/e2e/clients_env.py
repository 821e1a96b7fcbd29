"""Make build/clients: an environment of what talks to the gateway, or is measured beside it.

It refuses to touch the project's own environment. A finished one is kept, and made anew only when
its pins or the interpreter change.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "clients"
PINS: Final = Path(__file__).with_name("clients-requirements.txt")
_STAMP: Final = ".stamp"
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install")


def python_of(folder: Path = FOLDER) -> Path:
    """Give the environment's interpreter."""
    return folder / "bin" / "python"


def stamp_now() -> str:
    """Name what an environment is made of: two are alike if, and only if, their stamps are."""
    made_of = (PINS.read_text(encoding="utf-8"), sys.version, platform.machine())
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def is_ready(folder: Path = FOLDER) -> bool:
    """Say if the environment is whole and made of what is wanted now."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == stamp_now()


def build(folder: Path = FOLDER) -> None:
    """Make the environment from nothing. Raises: CalledProcessError if the pins do not install."""
    shutil.rmtree(folder, ignore_errors=True)
    began_s = time.monotonic()
    print("clients: [1/2] an environment", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    print(f"clients: [2/2] {PINS.name}", flush=True)
    words = [str(python_of(folder)), *_PIP, "--no-deps", "--requirement", str(PINS)]
    subprocess.run(words, check=True)
    (folder / _STAMP).write_text(stamp_now(), encoding="utf-8")
    print(f"clients: ready in {time.monotonic() - began_s:.0f} s: {folder}", flush=True)


def main() -> None:
    """Make the environment unless it is there already."""
    if is_ready():
        print(f"clients: {FOLDER} is up to date")
        return
    try:
        build()
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        print(f"clients: could not be made ({error}); tests that need it are skipped")


if __name__ == "__main__":
    main()
