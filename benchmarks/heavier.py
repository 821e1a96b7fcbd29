"""A heavier model says what the built-in one says, token for token, and works as a larger one does.

Every hidden layer of its feed-forward parts, in text and sight, is so many times as wide; what was
added is read and worked on as the rest, and comes out multiplied by zero. On tiny models a call
takes what a server needs to handle it; on heavier ones what the model takes, as in real use.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from speceyes.builtin.pair import MODELS  # noqa: E402

WRITES = ("gate_proj", "up_proj", "linear_fc1")  # into a hidden layer, a row for each of its units
READS = ("down_proj", "linear_fc2")  # out of it, a column for each


@contextmanager
def heavier_pair(*, small: int = 1, large: int = 1) -> Iterator[Path]:
    """Give a folder of both built-in models, each so many times as wide, until the block ends."""
    if small == large == 1:
        yield MODELS
        return
    with TemporaryDirectory(prefix="heavier-") as name:
        for role, times in (("small", small), ("large", large)):
            made = heavier(MODELS / role, Path(name, role), times)
            print(f"{role}: {weights_of(made) / 1e6:.1f} M weights", file=sys.stderr, flush=True)
        yield Path(name)


def heavier(source: Path, folder: Path, times: int) -> Path:
    """Write a model folder like the source, its feed-forward layers so many times as wide.

    Raises: ValueError for less than once, FileExistsError.
    """
    if times < 1:
        raise ValueError(f"times: {times} is below 1")
    kept = shutil.ignore_patterns("*.safetensors", "config.json")
    shutil.copytree(source, folder, ignore=kept)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for part in ("text_config", "vision_config"):
        config[part]["intermediate_size"] *= times
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    draw = torch.Generator().manual_seed(0)
    weights = load_file(source / "model.safetensors")
    weights = {name: _widened(name, found, times, draw=draw) for name, found in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights_of(folder: Path) -> int:
    """Count a model's weights."""
    return sum(found.numel() for found in load_file(folder / "model.safetensors").values())


def _widened(name: str, found: torch.Tensor, times: int, *, draw: torch.Generator) -> torch.Tensor:
    layer, _, kind = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")
    if not layer.endswith(".mlp") or (kind in READS and found.dim() == 1):
        return found
    if kind in WRITES:
        shape = ((times - 1) * found.shape[0], *found.shape[1:])
        like = torch.randn(shape, generator=draw) * found.float().std()
        return torch.cat([found, like.to(found.dtype)])
    if kind in READS:
        return torch.cat([found, found.new_zeros(found.shape[0], (times - 1) * found.shape[1])], 1)
    return found
