"""The walls around code that a model wrote, as a command line of bubblewrap.

It refuses to know which code, and it starts nothing. Nothing of the host is inside but what is
named here: an interpreter, its libraries, fonts, three devices. There is no /proc and no /sys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

_SYSTEM_FOLDERS: Final = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64")
_SYSTEM_EXTRAS: Final = ("/usr/local/lib", "/usr/share/fonts", "/etc/ld.so.cache", "/nix/store")
SYSTEM_PATHS: Final = (*_SYSTEM_FOLDERS, *_SYSTEM_EXTRAS)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom")
# Alone in its kind: processes, network, users, System V and mount points, host name, cgroups.
_NAMESPACES: Final = ("user", "pid", "net", "ipc", "uts", "cgroup")
# Until it locks itself up: to make its folders, and to become somebody else if root started it.
_RIGHTS: Final = ("CAP_SYS_ADMIN",)
_RIGHTS_OF_ROOT: Final = (*_RIGHTS, "CAP_SETUID", "CAP_SETGID")
TEMPORARY: Final = "/tmp"  # noqa: S108 - of a mount namespace's own, in memory
PACKAGE_ROOT: Final = "/cell"
_PARTS: Final = ("__init__.py", "tools/__init__.py", "tools/inside")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Say where on the host lies what is needed inside.

    `links` are folders that are symbolic links, as /lib often is, with where they lead.
    `library_folders` hold the packages that code imports; `package` is speceyes itself.
    """

    bwrap: str
    python: str
    interpreter_folders: tuple[str, ...]
    library_folders: tuple[str, ...]
    system_paths: tuple[str, ...]
    links: Mapping[str, str]
    package: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Name the descriptors that bubblewrap is handed: what it reports to, what it waits for."""

    info: int
    go_ahead: int | None


def environment(*, collects_figures: bool, home: str = TEMPORARY) -> dict[str, str]:
    """Give all the variables there are."""
    threads = ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
    plain = {
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PATH": "/nowhere",
        "MPLCONFIGDIR": f"{home}/matplotlib",
        "MPLBACKEND": "module://speceyes.tools.inside.figures" if collects_figures else "agg",
        "OPENCV_LOG_LEVEL": "ERROR",
        "OPENCV_FOR_THREADS_NUM": "1",
    }
    return plain | {f"{name}_NUM_THREADS": "1" for name in threads}


def interpreter(python: str, paths: tuple[str, ...], plan: str) -> list[str]:
    """Give the command that runs the process behind the walls, wherever that is."""
    # Isolated, without site packages but those named: nothing of the caller's settings counts.
    start = (
        f"import sys; sys.path[:0] = {[*paths]!r}; "
        "from speceyes.tools.inside.cell import main; main(sys.argv[1])"
    )
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", start, plan]


def command_line(
    layout: Layout, channels: Channels, *, plan: str, folders: tuple[str, ...], env: dict[str, str]
) -> list[str]:
    """Give the whole command line; `folders` are those that the process inside fills itself."""
    as_root = channels.go_ahead is not None
    words = [layout.bwrap, "--die-with-parent", "--new-session", "--clearenv"]
    words += [f"--unshare-{name}" for name in _NAMESPACES]
    words += ["--hostname", "cell", "--info-fd", str(channels.info)]
    if as_root:
        words += ["--userns-block-fd", str(channels.go_ahead)]
    words += ["--cap-drop", "ALL"]
    for right in _RIGHTS_OF_ROOT if as_root else _RIGHTS:
        words += ["--cap-add", right]
    for name, value in env.items():
        words += ["--setenv", name, value]
    bound = [*_outermost((*layout.system_paths, *layout.interpreter_folders, layout.python))]
    # Libraries lie elsewhere inside: where they are on the host is nobody's business.
    libraries = {f"{PACKAGE_ROOT}/lib{n}": path for n, path in enumerate(layout.library_folders)}
    binds = {path: path for path in bound} | libraries
    binds |= {f"{PACKAGE_ROOT}/speceyes/{part}": f"{layout.package}/{part}" for part in _PARTS}
    # Folders on the way are made first: bubblewrap would make some that only root may pass.
    for folder in _on_the_way((*binds, *layout.links, *_DEVICES, *folders)):
        words += ["--dir", folder]
    for path, source in binds.items():
        words += ["--ro-bind", source, path]
    for path, target in layout.links.items():
        words += ["--symlink", target, path]
    for device in _DEVICES:
        words += ["--dev-bind", device, device]
    for folder in folders:
        words += ["--dir", folder]
    words += ["--remount-ro", "/", "--chdir", "/"]
    return [*words, "--", *interpreter(layout.python, (PACKAGE_ROOT, *libraries), plan)]


def _outermost(paths: tuple[str, ...]) -> list[str]:
    """Leave out what lies in another of the paths."""
    kept = sorted(set(paths))
    return [
        path
        for path in kept
        if not any(PurePosixPath(path).is_relative_to(other) for other in kept if other != path)
    ]


def _on_the_way(paths: tuple[str, ...]) -> list[str]:
    """Give all folders that the paths lie in, outer ones first, without the root."""
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    return sorted(folders - {"/"})
