"""What does it save that a picture goes to vLLM once, and then by its name?

A picture of each size is talked about for some turns, as an agent does: it stands in every turn,
and each turn but the first brings a part of it more. Both ways take turns, each the other time
first, and the server forgets all before each. One token a turn, so that what is measured is how a
turn begins. The server is the built-in large model on a core. Prints one JSON document, last.

    make vllm && .venv/bin/python benchmarks/image_reuse.py --turns 4 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from PIL import Image as Pillow

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from benchmarks.image_encoding import EIGHT_K, SEED, jpeg, photograph  # noqa: E402
from benchmarks.vllm import Forgetting  # noqa: E402
from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.engines.wire.settings import HttpSettings, ImageReuse  # noqa: E402
from speceyes.types import GenerateRequest, Image, Message, Picture, Text  # noqa: E402
from tests.e2e.vllm_server import MODELS, Server, cores, serve  # noqa: E402

WIDTHS = (EIGHT_K[0], 3840, 1920, 448, 112)
PART = 4  # of the picture's side, that each part shows
WAYS: tuple[ImageReuse, ...] = ("never", "auto")


def pictures_of(whole: Pillow.Image, width: int, turns: int) -> list[Picture]:
    """Give a picture so wide, and a part of it for each turn but the first."""
    shown = whole.resize((width, width * whole.height // whole.width))
    side = shown.width // PART, shown.height // PART
    parts = [
        shown.crop((at * side[0], 0, (at + 1) * side[0], side[1])).resize((112, 112))
        for at in range(turns - 1)
    ]
    return [jpeg(image) for image in (shown, *parts)]


async def talk(engine: Forgetting, pictures: Sequence[Picture]) -> list[float]:
    """Time each turn's first token, in seconds."""
    spent: list[float] = []
    messages: list[Message] = []
    for picture in pictures:
        messages.append(Message("user", (Image(picture), Text("What is it?"))))
        began_s = time.perf_counter()
        await engine.generate(GenerateRequest(tuple(messages), 1))
        spent.append(time.perf_counter() - began_s)
        messages.append(Message("assistant", (Text("I look closer."),)))
    return spent


async def measure(server: Server, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Talk about pictures of all sizes, both ways."""
    whole = photograph(SEED)
    engines = {way: Forgetting(server, HttpSettings(image_reuse=way)) for way in WAYS}
    found = []
    for width in WIDTHS:
        pictures = pictures_of(whole, width, asked.turns)
        spent: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for repeat in range(-1, asked.repeats):  # the first one warms up
            for way in WAYS[:: 1 if repeat % 2 else -1]:
                engines[way].forget()
                turns_s = await talk(engines[way], pictures)
                if repeat >= 0:
                    spent[way].append(turns_s)
        found.append(figure(width, pictures[0], spent))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    for engine in engines.values():
        await engine.aclose()
    return found


def figure(width: int, picture: Picture, spent: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Compare both ways, repeat by repeat."""
    sums = {way: [sum(turns_s) for turns_s in repeats] for way, repeats in spent.items()}
    ratios = [never / auto for never, auto in zip(sums["never"], sums["auto"], strict=True)]
    later = {
        way: statistics.median(s for turns_s in repeats for s in turns_s[1:])
        for way, repeats in spent.items()
    }
    return {
        "width": width,
        "sent_bytes": len(picture.data),
        "all_turns_s": {way: statistics.median(found) for way, found in sums.items()},
        "later_turn_s": later,
        "times_faster": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "later_turn_times_faster": later["never"] / later["auto"],
    }


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=4, help="of a conversation, at least 2")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(model=MODELS / "large", name="large", core=cores()[1], folder=Path(folder))
        with serve(server):
            found = anyio.run(measure, server, asked)
    told = {
        "benchmark": "image_reuse",
        "turns": asked.turns,
        "repeats": asked.repeats,
        "sizes": found,
        **read_circumstances(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
