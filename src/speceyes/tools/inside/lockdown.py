"""A process gives up here, for good, what it could do to anything but itself.

It refuses to know what will run. Linux only; each step that fails raises OSError, and then nothing
runs. The order matters: folders first, which need the right to mount, then that right is dropped.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path
from typing import Final

from speceyes.tools.inside.plan import Plan

_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_EXECUTION, _REMOUNT = 1, 2, 4, 8, 32
_SAFE: Final = _NO_SETUID | _NO_DEVICES | _NO_EXECUTION
_CAPABILITY_VERSION: Final = 0x20080522
_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_CALL: Final = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS = 1, 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION, _LANDLOCK_BENEATH = 1, 1
_READ: Final = 1 << 2 | 1 << 3  # files, folders
# Write, remove, make folders, files and links, move, truncate; no devices, sockets or pipes.
_WRITE: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
_FILE_ONLY: Final = 1 << 1 | 1 << 2 | 1 << 14
_ALL_NETWORK, _ALL_SCOPES = 3, 3

_libc: Final = ctypes.CDLL(None, use_errno=True)


def make_folders(plan: Plan) -> None:
    """Make the folders that code may write to: in memory, bounded, and nothing in them can run."""
    bounds = f"size={plan.output_bytes},nr_inodes={plan.files},mode=1777"
    _mount(plan.output_folder, _SAFE, bounds)
    _mount("/tmp", _SAFE, bounds)  # noqa: S108 - of this mount namespace alone


def lay_out_pictures(plan: Plan, pictures: dict[str, bytes]) -> None:
    """Put the query's pictures into their folder, which from then on is read-only."""
    size = sum(map(len, pictures.values())) + 65_536 * (1 + len(pictures))
    _mount(plan.picture_folder, _SAFE, f"size={size},mode=0755")
    for path, data in pictures.items():
        Path(path).write_bytes(data)
    _mount(plan.picture_folder, _SAFE | _READ_ONLY | _REMOUNT, "", again=True)


def bound_resources(plan: Plan) -> None:
    """Bound this process for good; what the system does not know or holds lower stays as it is."""
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: plan.cpu_s,
        resource.RLIMIT_FSIZE: plan.file_bytes,
        resource.RLIMIT_NOFILE: plan.open_files,
        resource.RLIMIT_AS: plan.memory_bytes,
    }
    if plan.walls:  # elsewhere it would count all that this user runs
        bounds |= {resource.RLIMIT_NPROC: plan.threads, resource.RLIMIT_MEMLOCK: 0}
    for kind, bound in bounds.items():
        try:
            resource.setrlimit(kind, (bound, bound))
        except (OSError, ValueError):
            if plan.walls and resource.getrlimit(kind)[1] > bound:
                raise


def lock_up(plan: Plan) -> int:
    """Become nobody with no rights, who can name no file and make no call but those needed.

    Gives the version of Landlock in force, 0 where the kernel has none.
    """
    if plan.become_id is not None:
        os.setgroups([])
        os.setresgid(*[plan.become_id] * 3)
        os.setresuid(*[plan.become_id] * 3)
    _drop_capabilities()
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    version = _restrict_files(plan)
    _restrict_calls(bytes.fromhex(plan.seccomp))
    return version


def _mount(folder: str, flags: int, options: str, *, again: bool = False) -> None:
    kind = None if again else b"tmpfs"
    options_or_none = options.encode() or None
    done = _libc.mount(kind, folder.encode(), kind, ctypes.c_ulong(flags), options_or_none)
    _check(done, f"mount {folder}")


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "drop capabilities")


def _restrict_files(plan: Plan) -> int:
    version: int = max(0, _libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION))
    if version == 0:
        return 0
    known = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    parts = [
        known,
        *([_ALL_NETWORK] if version >= 4 else []),
        *([_ALL_SCOPES] if version >= 6 else []),
    ]
    asked = struct.pack(f"={len(parts)}Q", *parts)
    rules = _check(_libc.syscall(_LANDLOCK_CREATE, asked, len(asked), 0), "landlock")
    _allow(rules, "/", _READ & known)
    for folder in (plan.output_folder, "/tmp"):  # noqa: S108 - of this mount namespace alone
        _allow(rules, folder, (_READ | _WRITE) & known)
    _allow(rules, "/dev/null", _FILE_ONLY & known)
    _check(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)
    return version


def _allow(rules: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, place)
    _check(_libc.syscall(_LANDLOCK_ADD, rules, _LANDLOCK_BENEATH, rule, 0), f"landlock {path}")
    os.close(place)


def _restrict_calls(program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count of instructions, padding, a pointer to them
    asked = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    call = _SECCOMP_CALL[platform.machine()]
    done = _libc.syscall(call, _SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS, asked)
    _check(done, "seccomp")


def _check(result: int, step: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")
    if step == "seccomp" and result > 0:  # the id of a thread that could not be held to it
        raise OSError(0, "seccomp: a thread does not follow")
    return result
