"""These are the bounds within which code that a model wrote may run.

It refuses to know how they are held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from speceyes.errors import ConfigError

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Bound one query's code; `warm` and `at_once` bound how many such processes there are.

    `block_s` is the wall time of one block, `cpu_s` the processor time of all blocks of a query.
    `memory_bytes` counts addresses, of which libraries take some hundred MiB before any is used;
    `output_bytes` and `files` bound what lies in the output folder, and `file_bytes` one file.
    `pictures` and `picture_px` bound what one block shows, its pixels added up.
    `warm` processes wait for queries; where `at_once` are taken, a query waits for one.
    Raises: ConfigError naming the field.
    """

    block_s: float = 10.0
    start_s: float = 30.0
    cpu_s: int = 60
    memory_bytes: int = 2048 * _MIB
    output_bytes: int = 128 * _MIB
    file_bytes: int = 64 * _MIB
    files: int = 1024
    open_files: int = 64
    threads: int = 32
    code_chars: int = 100_000
    text_chars: int = 8_000
    pictures: int = 8
    picture_px: int = 16_777_216
    warm: int = 2
    at_once: int = 16

    def __post_init__(self) -> None:
        for bound in fields(self):
            value: float = getattr(self, bound.name)
            if not 0 < value < math.inf:
                raise ConfigError(bound.name, f"{value} is not a number above 0")


DEFAULT_LIMITS: Final = SandboxLimits()
