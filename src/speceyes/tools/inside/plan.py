"""What a process behind the walls is told at its start: bounds, folders, how to lock itself up.

It refuses to know where these come from. A plan is trusted; it is read before any code comes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Say how to run blocks. `walls` False: a bare process, which only bounds its resources.

    `become_id` is the user and group to become before any code runs; None: stay who one is.
    `seccomp` is the filter of system calls, in hexadecimal. The output folder and /tmp are made
    anew, in memory. `interrupt_s`: when a block is interrupted; soon after, it is killed.
    """

    walls: bool
    become_id: int | None
    seccomp: str
    output_folder: str
    picture_folder: str
    collects: Literal["printed", "shown", "both"]
    interrupt_s: float
    cpu_s: int
    memory_bytes: int
    output_bytes: int
    file_bytes: int
    files: int
    open_files: int
    threads: int
    text_chars: int
    pictures: int
    picture_px: int

    def to_json(self) -> str:
        """Write the plan down."""
        return json.dumps(asdict(self))


def plan_from_json(text: str) -> Plan:
    """Read a plan that `to_json` wrote."""
    return Plan(**json.loads(text))
