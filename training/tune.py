"""Third stage: the small model end to end, from pixels, at a low rate; DeepStack wakes up here.

Relations between two things are rare in the questions and slow to learn: they come more often.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name
from tokenizers import Tokenizer

from training.examples import MAKERS
from training.export import build_model
from training.language import Batch, Speaker, hidden_states
from training.pool import load_pool
from training.vision import batched_attention, grid, to_patches

SHARES = {"answer": 0.6, "relation": 0.25, "list": 0.15}


def tune_small(a: argparse.Namespace) -> None:
    """Train all weights together; resume from `tune-small.pt` when it is there."""
    torch.manual_seed(2)
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    model = build_model("small", tokenizer).to(a.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01)
    path, start = a.out / "tune-small.pt", 0
    saved = torch.load(path if path.exists() else a.out / "language-small.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    if path.exists():
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
    pool = load_pool(a.out / "pool", a.seeds)
    batched_attention(model.model.visual, 64)
    speaker = Speaker(tokenizer, torch.zeros(len(pool.scenes), 16, 1), torch.empty(0))
    began, marks = time.monotonic(), {kind: [0.0, 0.0, 1e-9] for kind in SHARES}
    for step in range(start, a.steps):
        rng = np.random.default_rng((13, step))
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        rate = min(1.0, (step + 1) / 50) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / a.steps))
        )
        for group in optimiser.param_groups:
            group["lr"] = a.lr * rate
        rows = rng.integers(0, len(pool.scenes), a.batch)
        said = speaker.batch(rows, [MAKERS[kind](rng, pool, int(i)) for i in rows]).to(a.device)
        pictures = torch.from_numpy(pool.views[rows]).to(a.device)
        seen = model.model.visual(to_patches(pictures), grid_thw=grid(a.batch).to(a.device))
        batch = Batch(said.ids, said.target, said.positions, seen.pooler_output)
        hidden = hidden_states(model, batch, speaker.image, deepstack=seen.deepstack_features)
        taught = batch.target[:, 1:]
        logits, truth = model.lm_head(hidden[:, :-1][taught]), batch.ids[:, 1:][taught]
        loss = F.cross_entropy(logits, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for i, value in enumerate(
            (loss.item(), (logits.argmax(-1) == truth).float().mean().item(), 1)
        ):
            marks[kind][i] += value
        if (step + 1) % 50 == 0 or step + 1 == a.steps:
            left = (time.monotonic() - began) / (step + 1 - start) * (a.steps - step - 1)
            shown = "; ".join(
                f"{k} loss {x / n:.3f} token {t / n:.4f}" for k, (x, t, n) in marks.items()
            )
            print(f"small {step + 1}/{a.steps} {shown} eta {left / 60:.1f} min", flush=True)
            marks = {each: [0.0, 0.0, 1e-9] for each in SHARES}
        if (step + 1) % 200 == 0 or step + 1 == a.steps:
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Tune the small model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("src/speceyes/builtin/models/large/tokenizer.json")
    )
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    tune_small(a)


if __name__ == "__main__":
    main()
