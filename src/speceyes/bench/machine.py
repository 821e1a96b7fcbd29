"""Where and with what a run was made: commit, versions, processor, threads.

It reads what the machine tells about itself, and nothing about the run. What cannot be learnt is
None.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = (
    "speceyes",
    "numpy",
    "pillow",
    "anyio",
    "aiohttp",
    "pyarrow",
    "tokenizers",
    "torch",
    "transformers",
)
_GIT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The computer that a run was made on. `cores` are those this process may use.

    `accelerators` are those that torch sees in this process; a server's own are not known here.
    """

    system: str
    processor: str
    cores: int
    threads: int | None  # of torch, if it is loaded
    memory_gib: float | None
    load: float | None  # mean over the last minute
    accelerators: tuple[str, ...] = ()


def read_machine() -> Machine:
    """Describe this machine as it is now."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=_cores(),
        threads=_threads(),
        memory_gib=_memory_gib(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        accelerators=_accelerators(),
    )


def read_versions() -> dict[str, str]:
    """Name the versions of Python and of the packages that figures depend on, if installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def read_commit() -> str | None:
    """Name the commit this package is from; `+` marks changes that are not committed."""
    root = Path(__file__).resolve().parents[3]
    if (root / ".git").exists():
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return f"{head}+" if head and changed else head
    return _installed_commit()


def read_circumstances() -> dict[str, Any]:
    """Give commit, versions and machine as JSON has them, for a document of figures."""
    return {
        "commit": read_commit(),
        "versions": read_versions(),
        "machine": asdict(read_machine()),
    }


def _installed_commit() -> str | None:
    # PEP 610: what pip notes about a package installed from version control.
    try:
        note = metadata.distribution("speceyes").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    commit = json.loads(note or "{}").get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None


def _git(root: Path, *words: str) -> str | None:
    command: Sequence[str] = ("git", "-C", str(root), *words)
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, on our own checkout
            command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> int | None:
    # Asked only if an engine has loaded it: a report is no reason to load torch.
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def _accelerators() -> tuple[str, ...]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
