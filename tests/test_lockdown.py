"""Each lock by itself, in a process made for it: what it stops, and what it leaves."""

import os
import platform
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from speceyes.tools.host import package_root
from speceyes.tools.inside import lockdown
from speceyes.tools.seccomp import build_filter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the locks are Linux's")

BEGIN = """
import ctypes, os, resource, socket, sys, threading
from dataclasses import replace
from speceyes.tools.inside import lockdown
from tests.test_blocks import a_plan
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
plan = a_plan(sys.argv[1])
def attempt(name, what):
    try:
        what()
        print(name, "done")
    except OSError as error:
        print(name, error.errno)
"""
ABSENT = lockdown._libc.syscall(444, None, 0, 1) < 0  # as the kernel has no such call


@pytest.fixture
def elsewhere():
    """Give a file that is ours to write, outside the folders for temporary ones."""
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".speceyes-") as file:
        yield Path(file.name)


def locked(code, folder, *arguments):
    """Run code in a process of its own; give what it printed, line by line."""
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{package_root()}:{root}"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(ABSENT, reason="this kernel has no Landlock")
def test_landlock_leaves_reading_everywhere_and_writing_in_two_folders(tmp_path, elsewhere):
    code = f"""
    version = lockdown._restrict_files(plan)
    attempt("read", lambda: open({__file__!r}).close())
    attempt("write", lambda: open({str(elsewhere)!r}, "a").close())
    attempt("make", lambda: open({str(elsewhere) + ".x"!r}, "w").close())
    attempt("run", lambda: os.execv(sys.executable, [sys.executable, "-c", ""]))
    attempt("write here", lambda: open(sys.argv[1] + "/x", "w").close())
    attempt("move here", lambda: os.rename(sys.argv[1] + "/x", sys.argv[1] + "/y"))
    attempt("a pipe here", lambda: os.mkfifo(sys.argv[1] + "/p"))
    if version >= 4:
        attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9)))
    else:
        print("connect 13")
    """
    assert locked(code, tmp_path) == [
        "read done",
        "write 13",
        "make 13",
        "run 13",
        "write here done",
        "move here done",
        "a pipe here 13",
        "connect 13",
    ]


def test_the_filter_of_calls_holds_all_threads(tmp_path):
    code = """
    from speceyes.tools.seccomp import build_filter
    ready, go = threading.Event(), threading.Event()
    def wait():
        ready.set()
        go.wait()
        attempt("in a thread", socket.socket)
    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    lockdown._restrict_calls(bytes.fromhex(sys.argv[2]))
    go.set()
    thread.join()
    attempt("here", socket.socket)
    attempt("a process", os.fork)
    attempt("a file", lambda: open("/dev/null").close())
    """
    program = build_filter(platform.machine()).hex()
    assert locked(code, tmp_path, program) == [
        "in a thread 1",
        "here 1",
        "a process 1",
        "a file done",
    ]


def test_resources_are_bounded_for_good(tmp_path):
    code = """
    lockdown.bound_resources(replace(plan, memory_bytes=1 << 32, open_files=32, threads=99))
    held = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE)}
    print(held[resource.RLIMIT_AS], held[resource.RLIMIT_NOFILE])
    print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_CPU))
    """
    assert locked(code, tmp_path) == [f"({1 << 32}, {1 << 32}) (32, 32)", "(0, 0) (60, 60)"]


def test_a_lock_that_does_not_close_is_an_error(tmp_path):
    code = 'attempt("a filter", lambda: lockdown._restrict_calls(bytes(8)))'
    assert locked(code, tmp_path) == ["a filter 22"]
