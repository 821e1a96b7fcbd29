"""Make build/harness: the virtual environment in which other evaluation harnesses drive speceyes.

It sees the project's own environment, torch and all, and adds inspect_ai and lmms-eval to it; it
changes nothing there. A finished one is kept until its pins or what lies beneath them change.
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
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "harness"
PINS: Final = Path(__file__).with_name("harness-requirements.txt")
BENEATH: Final = (sysconfig.get_path("purelib"), str(ROOT / "src"))  # seen, never written to
_STAMP: Final = ".stamp"
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install")


def python_of(folder: Path = FOLDER) -> Path:
    """Give the environment's interpreter."""
    return folder / "bin" / "python"


def stamp_now() -> str:
    """Name what an environment is made of: two are alike if, and only if, their stamps are."""
    made_of = (PINS.read_text(encoding="utf-8"), *BENEATH, sys.version, platform.machine())
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def is_ready(folder: Path = FOLDER) -> bool:
    """Say if the environment is whole and made of what is wanted now."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == stamp_now()


def build(folder: Path = FOLDER) -> None:
    """Make the environment from nothing. Raises: CalledProcessError if the pins do not install."""
    shutil.rmtree(folder, ignore_errors=True)
    began_s = time.monotonic()
    print("harness: [1/2] an environment on top of the project's own", flush=True)
    # Its pip is the one beneath, which sees what lies there but refuses to touch it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = subprocess.run(
        [python_of(folder), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "beneath.pth").write_text("\n".join(BENEATH) + "\n", encoding="utf-8")
    print(f"harness: [2/2] {PINS.name}", flush=True)
    words = [str(python_of(folder)), *_PIP, "--no-deps", "--requirement", str(PINS)]
    subprocess.run(words, check=True)
    (folder / _STAMP).write_text(stamp_now(), encoding="utf-8")
    print(f"harness: ready in {time.monotonic() - began_s:.0f} s: {folder}", flush=True)


def main() -> None:
    """Make the environment unless it is there already."""
    if is_ready():
        print(f"harness: {FOLDER} is up to date")
        return
    try:
        build()
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        print(f"harness: could not be made ({error}); tests that need it are skipped")


if __name__ == "__main__":
    main()
