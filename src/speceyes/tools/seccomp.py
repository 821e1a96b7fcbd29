"""Which system calls code may make, as the small program by which the kernel decides.

It refuses to know who is held to it. What is not named here is answered as if the kernel had no
such call, for libraries then fall back on older ones; what is refused by name is not permitted.
Source: Linux, include/uapi/linux/{filter,seccomp,audit}.h; calls by number as in asm/unistd.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from speceyes.errors import ConfigError
from speceyes.tools.calls import ALLOWED, NUMBERS, REFUSED

_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_ANY_BIT, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ARCHITECTURES: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000  # x86_64's second table of calls

_THREAD: Final = 0x00010000  # CLONE_THREAD: a thread of this process, not a process
# Any new namespace: time, mount, cgroup, uts, ipc, user, pid, net. The lowest bit is of no use in
# clone, where it is part of the signal that the child ends with; threads have none.
_NAMESPACES: Final = 0x00000080 | 0x00020000 | 0x02000000 | 0x7C000000
_TERMINAL_QUESTIONS: Final = (0x5401, 0x5413, 0x5450, 0x5451, 0x541B)  # is it one; close on exec
_OWN_NAME: Final = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA


class Instruction(NamedTuple):
    """One step of the kernel's filter machine."""

    code: int
    if_true: int
    if_false: int
    value: int


def build_filter(machine: str) -> bytes:
    """Compile the filter for one kind of machine. Raises: ConfigError if it is not known here."""
    if machine not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        raise ConfigError(
            "sandbox", f"there is none for {machine}, only for {known}; see --unsafe-python"
        )
    numbers = NUMBERS[machine]
    steps = [
        *_load(_ARCHITECTURE_AT),
        Instruction(_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        _give(_KILL),
        *_load(_NUMBER_AT),
        Instruction(_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        _give(_KILL),
    ]
    for name in ALLOWED:
        if name in numbers:
            steps += _when(numbers[name], [_give(_ALLOW)])
    for name, number in REFUSED.items():
        if name in numbers:
            steps += _when(numbers[name], [_refuse(number)])
    for name, judged in _judged().items():
        steps += _when(numbers[name], judged)
    steps.append(_refuse(errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _judged() -> dict[str, list[Instruction]]:
    """Calls that hang on their arguments."""
    return {
        "clone": [
            *_load(_ARGUMENTS_AT),
            Instruction(_JUMP_IF_ANY_BIT, 0, 2, _THREAD),
            Instruction(_JUMP_IF_ANY_BIT, 1, 0, _NAMESPACES),
            _give(_ALLOW),
            _refuse(errno.EPERM),
        ],
        "ioctl": _one_of(1, _TERMINAL_QUESTIONS, otherwise=errno.ENOTTY),
        "prctl": _one_of(0, _OWN_NAME, otherwise=errno.EPERM),
        # Reading one's limits is prlimit64 without new ones: the third argument is a null pointer.
        "prlimit64": [
            *_load(_ARGUMENTS_AT + 2 * 8),
            Instruction(_JUMP_IF_EQUAL, 0, 3, 0),
            *_load(_ARGUMENTS_AT + 2 * 8 + 4),
            Instruction(_JUMP_IF_EQUAL, 0, 1, 0),
            _give(_ALLOW),
            _refuse(errno.EPERM),
        ],
    }


def _one_of(argument: int, values: tuple[int, ...], *, otherwise: int) -> list[Instruction]:
    steps = _load(_ARGUMENTS_AT + argument * 8)
    for value in values:
        steps += [Instruction(_JUMP_IF_EQUAL, 0, 1, value), _give(_ALLOW)]
    return [*steps, _refuse(otherwise)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    # The call's number stays loaded unless `then` is entered, and `then` always ends in a return.
    return [Instruction(_JUMP_IF_EQUAL, 0, len(then), number), *then]


def _load(at: int) -> list[Instruction]:
    return [Instruction(_LOAD, 0, 0, at)]


def _give(verdict: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, verdict)


def _refuse(number: int) -> Instruction:
    return _give(_ERROR | number)
