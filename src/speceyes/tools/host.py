"""What the sandbox needs is looked for on this machine: bubblewrap, interpreter, libraries.

It refuses to know what is done with it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from speceyes.errors import ConfigError
from speceyes.tools.sandbox import SYSTEM_PATHS, Layout

FIELD: Final = "sandbox"
_LIBRARIES: Final = {"numpy": "numpy", "PIL": "pillow", "cv2": "opencv", "matplotlib": "matplotlib"}
_NOBODY: Final = 65_534
_PACKAGE: Final = Path(__file__).resolve().parents[1]
UNSAFE: Final = "--unsafe-python runs code without walls"


def find_layout() -> Layout:
    """Look for all that the walls are made of.

    Raises: ConfigError with the mend: no Linux, no bubblewrap, a library that is not installed.
    """
    if sys.platform != "linux":
        raise ConfigError(FIELD, f"there is one on Linux only; {UNSAFE}")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ConfigError(
            FIELD,
            "bubblewrap is not installed: apt install bubblewrap (dnf, pacman and apk know it by "
            f"the same name); {UNSAFE}",
        )
    present = [path for path in SYSTEM_PATHS if Path(path).exists()]
    links = {path: str(Path(path).readlink()) for path in present if Path(path).is_symlink()}
    return Layout(
        bwrap=bwrap,
        python=str(_real_python()),
        interpreter_folders=_interpreter_folders(),
        library_folders=library_folders(),
        system_paths=tuple(path for path in present if path not in links),
        links=links,
        package=str(_PACKAGE),
    )


def library_folders() -> tuple[str, ...]:
    """Find the folders that hold the libraries which code imports. Raises: ConfigError."""
    folders: dict[str, None] = {}
    for module, name in _LIBRARIES.items():
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise ConfigError(FIELD, f"needs {name}: pip install 'speceyes[python]'")
        folders[str(Path(found.origin).resolve().parents[1])] = None
    return tuple(folders)


def package_root() -> str:
    """Give the folder that speceyes is imported from."""
    return str(_PACKAGE.parent)


def id_to_become() -> int | None:
    """Say who code runs as where root started it: nobody, if this machine's root may make them.

    None: code runs as who started it, as it does for every user but root.
    """
    if os.getuid() != 0:
        return None
    for kind in ("uid_map", "gid_map"):
        spans = [line.split() for line in Path("/proc/self", kind).read_text("ascii").splitlines()]
        if not any(int(a) <= _NOBODY < int(a) + int(count) for a, _, count in spans):
            return None
    return _NOBODY


def map_ids(child: int, become: int) -> None:
    """Let a process that root started know root and the one it is to become, and nobody else."""
    for kind in ("uid_map", "gid_map"):
        Path("/proc", str(child), kind).write_text(f"0 0 1\n{become} {become} 1\n", "ascii")


def _real_python() -> Path:
    # The interpreter itself, not a virtual environment's link to it, whose folder is not inside.
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def _interpreter_folders() -> tuple[str, ...]:
    named = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=_BASE))
    shared = sysconfig.get_config_var("LIBDIR")
    folders = [*named, str(Path(sys.base_prefix, "lib"))]
    if isinstance(shared, str) and Path(shared).is_relative_to(sys.base_prefix):
        folders.append(shared)
    if sys.base_prefix == "/usr":  # /usr/lib is inside in any case
        folders = [*named]
    return tuple(dict.fromkeys(folder for folder in folders if Path(folder).is_dir()))


_BASE: Final = {"platbase": sys.base_exec_prefix, "base": sys.base_prefix}
