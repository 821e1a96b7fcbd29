"""The program behind the walls: it waits for one query's pictures, locks itself up, runs blocks.

It refuses to know models and protocols. It reads from and writes to one stream, which it was given
as its standard input; what the code prints goes nowhere but into its answers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from speceyes.tools.inside import lockdown
from speceyes.tools.inside.frames import LENGTHS, lengths, pack, unpack_head
from speceyes.tools.inside.pad import Pad
from speceyes.tools.inside.plan import Plan, plan_from_json

_MOST: int = 2**31  # who speaks to this process is trusted


def main(plan_json: str) -> None:
    """Serve one query, then end with the stream."""
    plan = plan_from_json(plan_json)
    if plan.walls:
        lockdown.make_folders(plan)
    _load_ahead(plan)
    stream = os.dup(0)
    _tell(stream, {"ready": True})
    head, body = _hear(stream)
    pictures = _cut(head["pictures"], body)
    if plan.walls:
        lockdown.lay_out_pictures(plan, pictures)
    else:
        for path, data in pictures.items():
            Path(path).write_bytes(data)
    lockdown.bound_resources(plan)
    landlock = lockdown.lock_up(plan) if plan.walls else 0
    os.chdir(plan.output_folder)
    _silence()
    pad = Pad(plan)
    mistake = pad.preload({name: path for path, _, name in head["pictures"] if name is not None})
    _tell(stream, {"locked": plan.walls, "landlock": landlock, "mistake": mistake})
    while True:
        _, body = _hear(stream)
        outcome = pad.run(body.decode("utf-8", "replace"))
        _tell(stream, *outcome.to_message())


def _load_ahead(plan: Plan) -> None:
    # What nearly all code imports. Loading it takes longer than most blocks do.
    import numpy as np
    from PIL import Image, ImageFilter, ImageOps

    if plan.collects != "printed":
        import matplotlib.pyplot as plt

        plt.figure()
        plt.close("all")
    Image.init()
    _ = np.zeros(1), ImageFilter, ImageOps


def _silence() -> None:
    # What libraries and code write past sys.stdout goes nowhere.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _cut(named: list[list[Any]], body: bytes) -> dict[str, bytes]:
    pictures, start = {}, 0
    for path, count, _ in named:
        pictures[path] = body[start : start + count]
        start += count
    return pictures


def _tell(stream: int, head: dict[str, Any], body: bytes = b"") -> None:
    message = memoryview(pack(head, body))
    while message:
        message = message[os.write(stream, message) :]


def _hear(stream: int) -> tuple[dict[str, Any], bytes]:
    head_bytes, body_bytes = lengths(_read(stream, LENGTHS.size), max_body_bytes=_MOST)
    return unpack_head(_read(stream, head_bytes)), _read(stream, body_bytes)


def _read(stream: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(stream, min(count, 1 << 20))
        if not part:
            os._exit(0)  # the other side has gone
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
