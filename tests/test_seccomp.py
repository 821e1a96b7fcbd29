"""The filter of system calls, run on a model of the machine that the kernel runs it on."""

import errno
import struct

import pytest

from speceyes.errors import ConfigError
from speceyes.tools.calls import ALLOWED, NUMBERS, REFUSED
from speceyes.tools.seccomp import build_filter

ALLOW, KILL = "allow", "kill"
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = pytest.mark.parametrize("machine", NUMBERS)
THREAD = 0x003D0F00  # how glibc makes one
JUDGED = ("clone", "ioctl", "prctl", "prlimit64")


def verdict(machine, number, *arguments, architecture=None):
    """Run the filter on one call, as the kernel does."""
    words = [number & 0xFFFFFFFF, architecture or ARCHITECTURES[machine], 0, 0]
    for argument in (*arguments, *[0] * 6)[:6]:
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    steps = list(struct.iter_unpack("=HBBI", build_filter(machine)))
    loaded, at = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            loaded = words[value // 4]
        elif code == 0x06:
            kind, data = value & 0xFFFF0000, value & 0xFFFF
            return {0x7FFF0000: ALLOW, 0x80000000: KILL, 0x00050000: data}[kind]
        else:
            holds = {
                0x15: loaded == value,
                0x45: bool(loaded & value),
                0x35: loaded >= value,
            }[code]
            at += if_true if holds else if_false


def asked(machine, name, *arguments):
    return verdict(machine, NUMBERS[machine][name], *arguments)


@MACHINES
def test_what_libraries_need_is_allowed(machine):
    known = [name for name in ALLOWED if name in NUMBERS[machine]]
    assert {asked(machine, name) for name in known} == {ALLOW}
    assert len(known) > 100


@MACHINES
def test_what_leads_out_is_not_permitted(machine):
    known = {name: number for name, number in REFUSED.items() if name in NUMBERS[machine]}
    assert {name: asked(machine, name) for name in known} == known
    assert {"ptrace", "socket", "execve", "unshare", "mount", "kill"} <= set(known)


@MACHINES
def test_a_call_that_nobody_named_seems_not_to_exist(machine):
    named = set(NUMBERS[machine].values())
    others = set(range(600)) - named
    assert {verdict(machine, number) for number in others} == {errno.ENOSYS}


@MACHINES
def test_a_call_in_the_manner_of_another_machine_ends_the_process(machine):
    assert verdict(machine, 1, architecture=0x40000003) == KILL  # 32 bit
    assert verdict(machine, 0x40000000 | 1) == KILL  # x32


@MACHINES
def test_only_threads_may_be_cloned(machine):
    assert asked(machine, "clone", THREAD) == ALLOW
    assert asked(machine, "clone", 0x01200011) == errno.EPERM  # as fork does


@MACHINES
@pytest.mark.parametrize("bit", [0x80, *(1 << n for n in (17, 25, 26, 27, 28, 29, 30))])
def test_no_thread_is_cloned_into_a_namespace(machine, bit):
    assert asked(machine, "clone", THREAD | bit) == errno.EPERM


@MACHINES
def test_limits_are_read_and_not_set(machine):
    assert asked(machine, "prlimit64", 0, 9, 0, 0x7FFE00001000) == ALLOW
    assert asked(machine, "prlimit64", 0, 9, 0x1000, 0) == errno.EPERM
    assert asked(machine, "prlimit64", 0, 9, 0x100000000, 0) == errno.EPERM


@MACHINES
def test_a_terminal_may_be_asked_for_and_not_typed_into(machine):
    assert asked(machine, "ioctl", 0, 0x5401) == ALLOW  # TCGETS, which isatty asks
    assert asked(machine, "ioctl", 0, 0x5412) == errno.ENOTTY  # TIOCSTI


@MACHINES
def test_a_thread_may_take_a_name_and_nothing_else_of_prctl(machine):
    assert asked(machine, "prctl", 15) == ALLOW
    assert {asked(machine, "prctl", option) for option in (1, 4, 22, 38, 47)} == {errno.EPERM}


@MACHINES
def test_every_call_has_one_place(machine):
    assert set(ALLOWED) & set(REFUSED) == set()
    assert (set(ALLOWED) | set(REFUSED)) & set(JUDGED) == set()
    numbers = list(NUMBERS[machine].values())
    assert len(numbers) == len(set(numbers))
    assert set(NUMBERS[machine]) <= {*ALLOWED, *REFUSED, *JUDGED}


@MACHINES
def test_the_filter_is_of_a_length_that_the_kernel_takes(machine):
    assert len(build_filter(machine)) // 8 <= 4096


def test_a_machine_without_a_table_is_named():
    with pytest.raises(ConfigError, match="none for riscv64, only for x86_64 and aarch64"):
        build_filter("riscv64")
