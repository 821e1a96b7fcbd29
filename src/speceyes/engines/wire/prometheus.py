"""What a server tells of itself in Prometheus' text format is read here, as far as it is its load.

It refuses to know how the text is fetched. Other series, comments and lines that cannot be read are
passed over: a server may tell what it likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from speceyes.load import Load

# By server: what runs, what waits. vLLM and SGLang name them so.
_RUNNING: Final = ("vllm:num_requests_running", "sglang:num_running_reqs")
_WAITING: Final = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")


def read_load(text: str) -> Load | None:
    r"""Read how many requests run and wait, over all engines that the server has; None if untold.

    >>> read_load('vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting 1\n')
    Load(running=3, waiting=1)
    """
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, value = _sample(line)
        if name in _RUNNING or name in _WAITING:
            sums[name] = sums.get(name, 0.0) + value
    running, waiting = _first(sums, _RUNNING), _first(sums, _WAITING)
    if running is None or waiting is None:
        return None
    return Load(running=running, waiting=waiting)


def _sample(line: str) -> tuple[str, float]:
    # NAME{LABELS} VALUE [TIME], where a label's value may hold spaces and braces.
    head, brace, labelled = line.partition("{")
    name, _, told = line.partition(" ")
    if brace and head.strip() and " " not in head:
        name, told = head, labelled.rpartition("}")[2]
    words = told.split()
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        value = math.nan
    return (name, value) if math.isfinite(value) and value >= 0.0 else ("", 0.0)


def _first(sums: Mapping[str, float], names: tuple[str, ...]) -> int | None:
    found = next((sums[name] for name in names if name in sums), None)
    return None if found is None else round(found)
