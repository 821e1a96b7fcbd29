"""Make the closer model from the large one: its eyes whole, of its language layers every other one.

What the large model has learnt of places is not learnt again: it sees, the smaller one is taught to
say at once where to look. `training.language closer` goes on from here.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

from training.export import MODELS, build_model

KEPT_LAYERS = (0, 2, 5, 7)
_LAYER = re.compile(r"(?<=language_model\.layers\.)\d+(?=\.)")


def shrink(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep some of the language layers, renumbered; all else as it is.

    >>> weights = {
    ...     "model.language_model.layers.5.x": torch.ones(1),
    ...     "lm_head.weight": torch.ones(1),
    ... }
    >>> sorted(shrink(weights | {"model.language_model.layers.1.x": torch.ones(1)}))
    ['lm_head.weight', 'model.language_model.layers.2.x']
    """
    kept = {}
    for name, value in weights.items():
        layer = _LAYER.search(name)
        if layer is None:
            kept[name] = value
        elif int(layer[0]) in KEPT_LAYERS:
            kept[_LAYER.sub(str(KEPT_LAYERS.index(int(layer[0]))), name)] = value
    return kept


def main() -> None:
    """Write checkpoints of the closer model, from which `training.language` goes on."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    large = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        MODELS / "large", dtype=torch.float32
    )
    model = build_model("closer", Tokenizer.from_file(str(MODELS / "large" / "tokenizer.json")))
    model.load_state_dict(shrink(large.state_dict()))
    torch.save({"model": model.state_dict(), "step": 0}, a.out / "language-closer.pt")
    torch.save({"visual": model.model.visual.state_dict()}, a.out / "vision-closer.pt")


if __name__ == "__main__":
    main()
