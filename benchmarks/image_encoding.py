"""In which form should a picture be sent, at 8K and as the model sees it? PNG, JPEG 95, as it came.

An 8K picture with a photograph's statistics is made from a seed. For each form: milliseconds to
write it, megabytes in the request, milliseconds for a server to read it, and how far its pixels are
from the original's. Prints one JSON document, last.

    python benchmarks/image_encoding.py [REPEATS]
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image as Pillow

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from speceyes.bench.machine import read_circumstances  # noqa: E402
from speceyes.engines.dataurls import DataUrls  # noqa: E402
from speceyes.pictures import decode, encode_png, open_picture  # noqa: E402
from speceyes.types import Picture  # noqa: E402

EIGHT_K = (7680, 4320)
MODEL_VIEW = (4760, 2688)  # what a 12.8 megapixel limit (16384 * 28^2) leaves of it
SEED = 20261123


def photograph(seed: int) -> Pillow.Image:
    """Make a picture whose detail falls with its scale, as in photographs, plus sensor noise."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((EIGHT_K[1], EIGHT_K[0], 3), dtype=np.float32)
    for octave in range(10):
        side = (16 * 2**octave, 9 * 2**octave)
        layer = rng.normal(0.0, 60.0 * 0.62**octave, (side[1], side[0], 3)).astype(np.float32)
        for channel in range(3):
            grown = Pillow.fromarray(layer[:, :, channel]).resize(
                EIGHT_K, Pillow.Resampling.BICUBIC
            )
            pixels[:, :, channel] += np.asarray(grown)
    pixels += 128.0 + rng.normal(0.0, 2.0, pixels.shape).astype(np.float32)
    return Pillow.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Pillow.Image) -> Picture:
    """Write a JPEG of quality 95."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return Picture(buffer.getvalue(), "image/jpeg", image.width, image.height)


def timed_ms(work: Callable[[], Any], repeats: int) -> float:
    """Give the median time of a piece of work."""
    spent = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - start_s))
    return round(median(spent), 1)


def row(form: str, picture: Picture, write: Callable[[], Any], **more: Any) -> dict[str, Any]:
    """Describe one form of one picture."""
    original, repeats = np.asarray(more["original"], dtype=np.int16), more["repeats"]
    error = np.abs(np.asarray(decode(picture), dtype=np.int16) - original)
    urls = DataUrls("png", 1)
    return {
        "form": form,
        "size": list(picture.size),
        "write_ms": timed_ms(write, repeats),
        "url_ms": timed_ms(lambda: urls._make(picture), repeats),
        "sent_mb": round(len(picture.data) * 4 / 3 / 1e6, 2),
        "read_ms": timed_ms(lambda: decode(picture), repeats),
        "mean_error": round(float(error.mean()), 3),
        "most_error": int(error.max()),
    }


def main() -> None:
    """Measure all forms and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    whole = photograph(SEED)
    came_jpeg = open_picture(jpeg(whole).data)
    came = decode(came_jpeg)  # what a person sees of the file that came in
    view = came.resize(MODEL_VIEW, Pillow.Resampling.BICUBIC, reducing_gap=3.0)
    rows = []
    for image, name in ((came, "8K"), (view, "model's view")):
        shared = {"original": image, "repeats": repeats}
        if image is came:
            rows.append(row("8K as it came (JPEG)", came_jpeg, lambda: None, **shared))
        rows.append(row(f"{name}, PNG", encode_png(image), lambda i=image: encode_png(i), **shared))
        rows.append(row(f"{name}, JPEG 95", jpeg(image), lambda i=image: jpeg(i), **shared))
    for one in rows:
        print(one)
    told = {
        "benchmark": "image_encoding",
        **read_circumstances(),
        "seed": SEED,
        "repeats": repeats,
        "rows": rows,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
