"""First stage: the vision tower learns to say, cell by cell, what is where.

A throw-away linear head reads each merged token (a cell of 28 x 28 view pixels): is the centre of
a large thing in it, of a tiny one, which colour, shape, side and tone of dot, and where inside.
Trained end to end from the answers alone, vision stays at chance (see LAB.md).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name
from torch import Tensor, nn

from speceyes.builtin.scenes import COLOURS, PX_PER_VIEW_PX, SHAPES, SIDES, TONES, VIEW_PX, Thing
from speceyes.builtin.zones import ViewBox
from training.architecture import build_large, build_small, parameters
from training.pool import CROPS, Pool, load_pool

CELLS = 4  # a side
CELL_PX = VIEW_PX // CELLS
PLACES = VIEW_PX // 4 + 1  # places in the picture, 4 view pixels apart, as the agent names them
PATCH_PX = 14
# Per cell: large colour (0 none), shape, side, tone, x, y; tiny colour (0 none), x, y; and which
# row and column of the first view it is. Places count from the picture's corner, not the cell's:
# the language model's own rotary positions tell columns only a few hundredths of a radian apart,
# so the tower must say where in the picture a thing is (LAB.md).
WIDTHS = (
    len(COLOURS) + 1,
    len(SHAPES),
    len(SIDES),
    len(TONES),
    PLACES,
    PLACES,
    len(COLOURS) + 1,
    PLACES,
    PLACES,
    CELLS,
    CELLS,
)
NAMES = ("colour", "shape", "side", "tone", "x", "y", "tiny", "tiny_x", "tiny_y", "row", "column")
_PLACEHOLDER_IDS = {
    "<|endoftext|>": 0, "<|im_end|>": 1, "<|image_pad|>": 2, "<|video_pad|>": 3,
    "<|vision_start|>": 4, "<|vision_end|>": 5,
}  # fmt: skip


def to_patches(images: Tensor) -> Tensor:
    """Cut (B, 112, 112, 3) uint8 into (B * 64, 1176) floats, in the Qwen processors' order."""
    batch, g = images.shape[0], VIEW_PX // PATCH_PX // 2
    x = images.float().div_(127.5).sub_(1.0)
    x = x.view(batch, g, 2, PATCH_PX, g, 2, PATCH_PX, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)  # B, gh, gw, 2, 2, C, ph, pw
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return x.reshape(batch * g * g * 4, 3 * 2 * PATCH_PX * PATCH_PX)


def batched_attention(visual: nn.Module, patches_per_image: int) -> None:
    """Attend within each image by one batched call; valid while all images have one size."""
    for block in visual.blocks:
        _patch(block.attn, patches_per_image, type(block.attn))


def _patch(attention: nn.Module, n: int, kind: type) -> None:
    import sys

    rotate = sys.modules[kind.__module__].apply_rotary_pos_emb_vision

    def forward(
        hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object
    ) -> Tensor:
        rows = hidden_states.shape[0]
        q, k, v = attention.qkv(hidden_states).view(rows, 3, attention.num_heads, -1).unbind(1)
        q, k = rotate(q, k, *position_embeddings)
        q, k, v = (t.view(rows // n, n, attention.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return attention.proj(out.transpose(1, 2).reshape(rows, -1))

    attention.forward = forward  # type: ignore[method-assign]


def grid(batch: int) -> Tensor:
    """Return the (B, 3) grid of patches that the vision towers ask for."""
    side = VIEW_PX // PATCH_PX
    return torch.tensor([[1, side, side]]).expand(batch, 3)


def label_view(things: tuple[Thing, ...], box: ViewBox) -> np.ndarray:
    """Return (16, 11) int64 targets for a picture of the view box; -1 where nothing is asked."""
    left, top, right, _ = box
    zoom = VIEW_PX / (right - left)
    target = np.full((CELLS * CELLS, len(WIDTHS)), -1, np.int64)
    target[:, [0, 6]] = 0
    if (left, top) == (0, 0) and right == VIEW_PX:
        cells = np.arange(CELLS * CELLS)
        target[:, 9], target[:, 10] = cells // CELLS, cells % CELLS
    for thing in things:
        x = (thing.x_px / PX_PER_VIEW_PX - left) * zoom
        y = (thing.y_px / PX_PER_VIEW_PX - top) * zoom
        r = thing.radius_px / PX_PER_VIEW_PX * zoom
        if not (0 <= x < VIEW_PX and 0 <= y < VIEW_PX):
            continue
        column, row = int(x // CELL_PX), int(y // CELL_PX)
        cell = target[row * CELLS + column]
        places = [round(v / 4) for v in (x, y)]
        colour = list(COLOURS).index(thing.colour) + 1
        if r < 6:
            cell[6:9] = [colour, *places]
        elif min(x, y, VIEW_PX - x, VIEW_PX - y) < 0.6 * r:
            cell[0] = -1  # cut off too much to be asked about
        else:
            attributes = [
                SHAPES.index(thing.shape),
                SIDES.index(thing.side),
                TONES.index(thing.tone),
            ]
            cell[:6] = [colour, *attributes, *places]
    return target


def dense_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, dict[str, tuple[float, int]]]:
    """Cross entropy of every column where it is asked; also (hits, count) per column."""
    total, seen = logits.new_zeros(()), {}
    for name, part, column in zip(NAMES, logits.split(WIDTHS, -1), target.unbind(-1), strict=True):
        asked = column >= 0
        picked, truth = part[asked], column[asked]
        loss = F.cross_entropy(picked, truth, reduction="none")
        is_presence = name in ("colour", "tiny")
        if is_presence:
            there = truth > 0
            total = total + loss[there].mean() + loss[~there].mean()
            hits = (picked.argmax(-1) == truth)[there]
        else:
            total = total + loss.mean()
            hits = picked.argmax(-1) == truth
        seen[name] = (float(hits.float().sum()), hits.numel())
    return total, seen


class Images:
    """All pictures of a pool with their dense targets, drawn from in seeded batches."""

    def __init__(self, pool: Pool, *, crop_share: float) -> None:
        """Label every view and crop once."""
        whole = (0, 0, VIEW_PX, VIEW_PX)
        self.pool, self.crop_share = pool, crop_share
        self.view_targets = torch.from_numpy(
            np.stack([label_view(s.things, whole) for s in pool.scenes])
        )
        self.crop_targets = torch.from_numpy(
            np.stack(
                [
                    np.stack([label_view(s.things, box) for box in boxes])
                    for s, boxes in zip(pool.scenes, pool.crop_boxes, strict=True)
                ]
            )
        )

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Return (B, 112, 112, 3) uint8 and (B, 16, 11) targets."""
        n_crops = round(size * self.crop_share)
        rows = rng.integers(0, len(self.pool.scenes), size)
        which = rng.integers(0, CROPS, n_crops)
        views, crops = rows[n_crops:], rows[:n_crops]
        images = np.concatenate([self.pool.crops[crops, which], self.pool.views[views]])
        targets = torch.cat([self.crop_targets[crops, which], self.view_targets[views]])
        return torch.from_numpy(images), targets


def train_vision(
    role: str, steps: int, batch: int, lr: float, folder: Path, seeds: list[int], *, device: str
) -> None:
    """Train one tower; resume from `folder/vision-ROLE.pt` when it is there."""
    torch.manual_seed(0)
    build = build_small if role == "small" else build_large
    visual = build(64, _PLACEHOLDER_IDS).model.visual.to(device)
    visual.deepstack_visual_indexes = []  # silent at this stage: no need to compute it
    batched_attention(visual, (VIEW_PX // PATCH_PX) ** 2)
    head = nn.Linear(160, sum(WIDTHS), device=device)
    weights = [*visual.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.02)
    path, start = folder / f"vision-{role}.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=device)
        visual.load_state_dict(saved["visual"])
        head.load_state_dict(saved["head"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
    images = Images(load_pool(folder / "pool", seeds), crop_share=0.2 if role == "small" else 0.45)
    print(
        f"{role}: {parameters(visual):,} weights, {len(images.pool.scenes):,} scenes, from {start}",
        flush=True,
    )
    began, running = time.monotonic(), {name: [0.0, 0] for name in NAMES}
    for step in range(start, steps):
        rng = np.random.default_rng((7, step))
        rate = min(1.0, (step + 1) / 200) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        for group in optimiser.param_groups:
            group["lr"] = lr * rate
        pictures, target = images.batch(rng, batch)
        merged = visual(
            to_patches(pictures.to(device)), grid_thw=grid(batch).to(device)
        ).pooler_output
        loss, seen = dense_loss(head(merged), target.view(-1, len(WIDTHS)).to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        for name, (hits, count) in seen.items():
            running[name][0] += hits
            running[name][1] += count
        if (step + 1) % 100 == 0 or step + 1 == steps:
            spent = time.monotonic() - began
            left = spent / (step + 1 - start) * (steps - step - 1)
            marks = " ".join(f"{n} {h / max(c, 1):.3f}" for n, (h, c) in running.items())
            print(
                f"{role} {step + 1}/{steps} loss {loss.item():.3f} {marks} eta {left / 60:.1f} min",
                flush=True,
            )
            running = {name: [0.0, 0] for name in NAMES}
        if (step + 1) % 500 == 0 or step + 1 == steps:
            state = {
                "visual": visual.state_dict(),
                "head": head.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            torch.save({**state, "step": step + 1}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Train one vision tower."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("small", "large"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    train_vision(a.role, a.steps, a.batch, a.lr, a.out, a.seeds, device=a.device)


if __name__ == "__main__":
    main()
