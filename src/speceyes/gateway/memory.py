"""Memory that one request's pictures took is kept for the next one's, up to a bound.

It refuses to know requests. The C library's habit is to give megabytes back to the system at once
and to ask for them anew, page by page: at a megabyte a request that takes longer than all else.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_TRIM_THRESHOLD: Final = -1  # glibc's names for what can be set, from malloc.h
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_MIB: Final = 1024 * 1024
_KEPT: Final = {
    _MMAP_THRESHOLD: 32 * _MIB,  # larger pieces are given back at once
    _TRIM_THRESHOLD: 128 * _MIB,  # so much is kept
    _TOP_PAD: 4 * _MIB,  # so much is asked for beyond the need
}


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed; False where it is none that can be told."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _KEPT.items())
