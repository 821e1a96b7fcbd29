"""What does a sandbox cost? First blocks, crops, many at once, and what is left behind.

A first block is what a query waits for: a process that waits is taken, handed the query's picture,
locked up, and runs `print(1)`. A crop opens a picture of 1024x1024, cuts a part out, saves it and
prints its path; the time ends when the crop is there as a PNG. The same crop by a bare interpreter,
started for it, is what sandboxes of this kind save. Prints one JSON document, last.

    python benchmarks/sandbox.py [BLOCKS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.builtin.suite import draw_item  # noqa: E402
from speceyes.notebook import PYTHON, Notebook  # noqa: E402
from speceyes.pictures import DecodedPictures  # noqa: E402
from speceyes.tools.limits import SandboxLimits  # noqa: E402
from speceyes.tools.python import PythonTool  # noqa: E402
from speceyes.types import Box, Observation, Picture, ToolCall  # noqa: E402
from tests.adversarial.outside import descendants  # noqa: E402

NOTEBOOK = Notebook(collects="printed")
AT_ONCE = 16
A_QUERY = 4  # blocks: a query of five turns ends in an answer
SAMPLES = 60
REST_S = 0.6  # for the next process to be there: a query's model speaks longer than this
CROP = """
from PIL import Image
image = Image.open("{path}")
image.crop((200, 300, 500, 600)).save("{out}/crop.png")
print("{out}/crop.png")
"""


def draw_picture() -> Picture:
    """Give a scene of the built-in suite at 1024x1024."""
    (scene,) = draw_item(0, seed=0).query.pictures
    return DecodedPictures((scene,)).cut(Box(0, 0, *scene.size), (1024, 1024))


def crop_code(picture: Picture) -> str:
    """Give the crop as a model would write it."""
    path = NOTEBOOK.path_of(0, picture)
    return CROP.format(path=path, out="/mnt/data/temp_processed_images")


async def run(tool: PythonTool, picture: Picture, *blocks: str) -> list[float]:
    """Run blocks as one query; give the milliseconds of each."""
    spent_ms = []
    async with tool.open(DecodedPictures((picture,))) as opened:
        for code in blocks:
            start_s = time.perf_counter()
            seen = await opened.run(ToolCall(PYTHON, {"code": code}, ""))
            spent_ms.append(1000 * (time.perf_counter() - start_s))
            check(seen, crops="crop" in code)
    return spent_ms


def check(seen: Observation, *, crops: bool) -> None:
    """Stop if a block did not do what is timed."""
    if seen.error is not None or len(seen.pictures) != crops:
        raise SystemExit(f"a block failed: {seen}")


def bare_crop(picture: Picture) -> float:
    """Start an interpreter for one crop; give the milliseconds until its path is printed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.png")
        path.write_bytes(picture.data)
        words = [sys.executable, "-c", CROP.format(path=path, out=folder)]
        start_s = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - our own code
        return 1000 * (time.perf_counter() - start_s)


async def repeat(measure: Callable[[], Awaitable[list[float]]], rest_s: float) -> list[list[float]]:
    """Measure again and again, with rests."""
    found = []
    for _ in range(SAMPLES):
        await anyio.sleep(rest_s)
        found.append(await measure())
    return found


def figures(spent_ms: list[float]) -> dict[str, float]:
    """Sum samples up."""
    cuts = statistics.quantiles(spent_ms, n=20)
    return {"median_ms": round(statistics.median(spent_ms), 2), "p95_ms": round(cuts[-1], 2)}


def footprint() -> dict[str, float]:
    """Say what this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "rss_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        "processes": len(descendants()),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }


async def measure(picture: Picture, blocks: int) -> dict[str, Any]:
    """Time single blocks, then run many, sixteen queries at a time."""
    told: dict[str, Any] = {"before": footprint()}
    async with PythonTool(NOTEBOOK) as tool:
        code = crop_code(picture)
        firsts = await repeat(partial(run, tool, picture, "print(1)", "print(2)"), REST_S)
        crops = await repeat(partial(run, tool, picture, "print(1)", code), REST_S)
        first_crops = await repeat(partial(run, tool, picture, code), REST_S)
        bare = [bare_crop(picture) for _ in range(SAMPLES)]
        told |= {
            "first_block": figures([spent[0] for spent in firsts]),
            "next_block": figures([spent[1] for spent in firsts]),
            "crop_block": figures([spent[1] for spent in crops]),
            "crop_as_first_block": figures([spent[0] for spent in first_crops]),
            "bare_interpreter_crop": figures(bare),
        }
    async with PythonTool(NOTEBOOK, SandboxLimits(at_once=AT_ONCE, warm=AT_ONCE)) as tool:
        told |= {"many": await run_many(tool, picture, blocks)}
    await anyio.sleep(0.5)
    told |= {"after": footprint()}
    crop_ms, bare_ms = told["crop_block"]["median_ms"], told["bare_interpreter_crop"]["median_ms"]
    return told | {"crop_over_bare": round(crop_ms / bare_ms, 3)}


async def run_many(tool: PythonTool, picture: Picture, blocks: int) -> dict[str, Any]:
    """Run so many crops, a few for each query, and look at what is held as they go by."""
    queries = -(-blocks // A_QUERY)
    code, seen, left = crop_code(picture), [footprint()], iter(range(queries))

    async def work() -> None:
        for n in left:
            await run(tool, picture, *[code] * A_QUERY)
            if n % (queries // 5 or 1) == 0:
                seen.append(footprint())

    start_s = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)
    spent_s = time.perf_counter() - start_s
    await anyio.sleep(2 * REST_S)
    seen.append(footprint())
    done = {"blocks": queries * A_QUERY, "queries": queries, "at_once": AT_ONCE}
    return done | {"seconds": round(spent_s, 1), "held": seen}


def main() -> None:
    """Measure, and print."""
    blocks = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    told = anyio.run(measure, draw_picture(), blocks)
    print(json.dumps({"benchmark": "sandbox"} | read_circumstances() | told))


if __name__ == "__main__":
    main()
