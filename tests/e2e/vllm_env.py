"""Make build/vllm: the virtual environment that serves models with a real vLLM on a CPU.

It refuses to touch the project's own environment, and needs nothing but Python. A finished
environment is kept, and made anew only when its pins, the torch or the interpreter change.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "build" / "vllm"
PINS: Final = Path(__file__).with_name("vllm-requirements.txt")
SITE: Final = Path(__file__).with_name("vllm_site")  # the server's PYTHONPATH
TORCH: Final = "torch==2.13.0"
_STAMP: Final = ".stamp"
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install")


def python_of(folder: Path = FOLDER) -> Path:
    """Give the environment's interpreter."""
    return folder / "bin" / "python"


def stamp_of(torch: str) -> str:
    """Name what an environment is made of: two are alike if, and only if, their stamps are."""
    made_of = (PINS.read_text(encoding="utf-8"), torch, sys.version, platform.machine())
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def is_ready(folder: Path = FOLDER, *, torch: str = TORCH) -> bool:
    """Say if the environment is whole and made of what is wanted now."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == stamp_of(torch)


def build(folder: Path = FOLDER, *, torch: str = TORCH) -> None:
    """Make the environment from nothing: torch, then every pin as it stands.

    Nothing is resolved: the pins are whole, and vLLM's own wish for torchaudio and torchcodec,
    which serving pictures never imports, is left unmet.
    """
    shutil.rmtree(folder, ignore_errors=True)
    began_s = time.monotonic()
    for number, words in enumerate(_steps(folder, torch), start=1):
        print(f"vllm: [{number}/3] {' '.join(words[-3:])}", flush=True)
        subprocess.run(words, check=True)
    (folder / _STAMP).write_text(stamp_of(torch), encoding="utf-8")
    print(f"vllm: ready in {time.monotonic() - began_s:.0f} s: {folder}", flush=True)


def _steps(folder: Path, torch: str) -> list[list[str]]:
    install = [str(python_of(folder)), *_PIP, "--no-deps"]
    return [
        [sys.executable, "-m", "venv", str(folder)],
        [*install, *shlex.split(torch)],
        [*install, "--requirement", str(PINS)],
    ]


def main() -> None:
    """Make the environment unless it is there already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default=TORCH, help="the torch to install first, for a CPU")
    torch = parser.parse_args().torch
    if is_ready(torch=torch):
        print(f"vllm: {FOLDER} is up to date")
        return
    if platform.system() != "Linux":
        print("vllm: its builds for CPUs are for Linux; tests that need it are skipped")
        return
    build(torch=torch)


if __name__ == "__main__":
    main()
