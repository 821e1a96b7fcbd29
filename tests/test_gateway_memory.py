"""Large pieces of memory are not asked for anew with every request."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from speceyes.gateway.memory import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

piece = bytes(1024 * 1024)
def use():
    held = [bytearray(piece) for _ in range(8)]
    del held

use()
before = faults()
for _ in range(20):
    use()
print((faults() - before) / 160)
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told"
)


def faults_a_piece(how: str) -> float:
    words = [sys.executable, "-c", PROGRAM, how]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert said[:-1] == (["True"] if how == "keep" else [])
    return float(said[-1])


def test_a_megabyte_that_was_freed_costs_no_page_faults():
    assert faults_a_piece("keep") < 2
    assert faults_a_piece("leave") > 20  # else this would be for nothing
