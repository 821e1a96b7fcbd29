"""How much memory does HR-Bench 8K take? A file of its size, read through, and answered.

Makes a table as released (four rows a picture, of 8192x8192 pixels and some megabytes as JPEG, as
base64) in a temporary folder, which takes about 8 MB a row on the disk, and removes it in
the end. Each measurement runs in a process of its own; engines are scripted, all else is real: half
of the queries are answered by the small model, half by the agent after one look closer. Prints one
JSON document, last.

    python benchmarks/suite_memory.py [--items 800] [--answer] [--concurrency 1] [--max-view-px N]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

SIDE_PX = 8192
ORDERS = 4
GRAINS = (0.02, 0.06, 0.1, 0.16, 0.22, 0.3)  # a picture each; more grain is more bytes
TARGET_MIB = 1536
ZOOM = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [90, 90, 400, 400], "label": "it"}}


def peak_mib() -> float:
    """Give the most memory that this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def make(path: Path, items: int) -> dict[str, Any]:
    """Write the table; its pictures are few and come again and again."""
    import numpy as np
    from PIL import Image

    images = []
    for seed, grain in enumerate(GRAINS[: -(-items // ORDERS)]):
        rng = np.random.default_rng(seed)
        coarse, fine = (
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                (SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR
            )
            for side in (64, SIDE_PX // 4)
        )
        buffer = io.BytesIO()
        Image.blend(coarse, fine, grain).save(buffer, "JPEG", quality=75)
        images.append(base64.b64encode(buffer.getvalue()))
    with path.open("wb") as file:
        file.write(b"index\tquestion\tanswer\tA\tB\tC\tD\tcategory\timage\n")
        for index in range(items):
            words = f"{index}\tWhat is {index}?\t{'ABCD'[index % ORDERS]}\tw\tx\ty\tz\tsingle\t"
            file.write(words.encode() + images[index // ORDERS % len(images)] + b"\n")
    sizes = [round(len(image) * 3 / 4 / 1e6, 1) for image in images]
    return {"picture_mb": sizes, "file_gb": round(path.stat().st_size / 1e9, 2)}


def scan(folder: Path) -> dict[str, Any]:
    """Count and digest, as before a run."""
    from speceyes.bench.suites.opening import open_suite

    return {"entries": open_suite(f"hrbench:{folder}", splits=("8k",)).facts.total}


def read(folder: Path) -> dict[str, Any]:
    """Iterate over all entries with a plain loop."""
    from speceyes.bench.suites.opening import open_suite

    kinds = Counter[str]()
    for entry in open_suite(f"hrbench:{folder}", splits=("8k",)).entries():
        kinds[type(entry).__name__] += 1
    return dict(kinds)


def answer(folder: Path, concurrency: int, max_view_px: int | None) -> dict[str, Any]:
    """Drive all entries through the funnel, taking each from the file when there is room for it."""
    import anyio

    from speceyes import SpecEyes
    from speceyes.bench.items import Item
    from speceyes.bench.suites.opening import open_suite
    from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
    from speceyes.gate import GateSpec
    from speceyes.protocols.deepeyes import DeepEyes
    from speceyes.types import GenerateRequest, Query

    screened = count()

    def small(request: GenerateRequest) -> Take:
        engines[0].calls.clear()  # they hold on to the pictures
        return Take(scripted("w", k=request.top_logprobs))

    def large(request: GenerateRequest) -> Take:
        engines[1].calls.clear()
        if request.max_tokens == 1:
            return Take(scripted_screen(float(next(screened) % 2)))
        if any(message.role == "assistant" for message in request.messages):
            return Take(scripted("<answer>x</answer>", separability=None))
        call = f"<tool_call>\n{json.dumps(ZOOM)}\n</tool_call>"
        return Take(scripted(call, separability=None))

    engines = [ReplayEngine(small, name="small"), ReplayEngine(large, name="large")]
    protocol = DeepEyes() if max_view_px is None else DeepEyes(max_px=max_view_px)
    ends = Counter[str]()

    def queries() -> Iterator[Query]:
        for entry in open_suite(f"hrbench:{folder}", splits=("8k",)).entries():
            if isinstance(entry, Item):
                yield entry.query
            else:
                ends["spoiled"] += 1

    async def run() -> None:
        gate = GateSpec(threshold=4.0, k=16)
        eyes = SpecEyes(small=engines[0], large=engines[1], gate=gate, protocol=protocol)
        async with eyes:
            async for outcome in eyes.answer_many(queries(), concurrency=concurrency):
                end = outcome.answer.route if outcome.answer else str(outcome.error)
                ends[end] += 1
                del outcome

    anyio.run(run)
    return dict(ends)


def in_child(task: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do one task in a process of its own; gives what it found, its time and its memory."""
    words = [sys.executable, __file__, "--task", task, "--folder", str(folder)]
    words += ["--items", str(options.items), "--concurrency", str(options.concurrency)]
    if options.max_view_px is not None:
        words += ["--max-view-px", str(options.max_view_px)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)  # noqa: S603
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{task}: {made}", flush=True)
    return made


def do(options: argparse.Namespace) -> dict[str, Any]:
    """Do a child's task."""
    folder, start_s = options.folder, time.monotonic()
    match options.task:
        case "make":
            found = make(folder / "hr_bench_8k.tsv", options.items)
        case "scan":
            found = scan(folder)
        case "read":
            found = read(folder)
        case _:
            found = answer(folder, options.concurrency, options.max_view_px)
    seconds = round(time.monotonic() - start_s, 1)
    return {"found": found, "seconds": seconds, "peak_mib": peak_mib()}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the table, measure, and remove it."""
    from speceyes.bench.machine import read_circumstances

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tasks = ["make", "scan", "read", *(["answer"] if options.answer else [])]
        runs = {task: in_child(task, options, Path(folder)) for task in tasks}
    made = runs.pop("make")["found"]
    return {
        "benchmark": "suite_memory",
        **read_circumstances(),
        "settings": {
            "items": options.items,
            "picture_px": [SIDE_PX, SIDE_PX],
            "concurrency": options.concurrency,
            "max_view_px": options.max_view_px,
            **made,
        },
        "target_mib": TARGET_MIB,
        "holds": max(run["peak_mib"] for run in runs.values()) <= TARGET_MIB,
        **runs,
    }


def main() -> None:
    """Measure, or do a child's task."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--items", type=int, default=800)
    parser.add_argument("--answer", action="store_true")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--max-view-px", type=int, help="what the model sees at most")
    parser.add_argument("--folder", type=Path, help="where to make the table")
    parser.add_argument("--task", choices=["make", "scan", "read", "answer"], help="for itself")
    options = parser.parse_args()
    print(json.dumps(do(options) if options.task else measure(options)))


if __name__ == "__main__":
    main()
