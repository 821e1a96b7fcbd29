"""Second stage: the language model learns to speak of what the frozen vision tower sees.

First it lists what is in pictures (colour by colour, which binds words to places), then it learns
its real work in the library's own prompts: judging, answering, and the agent's turns, in which it
zooms by a tool or by code of its own.
Pictures are encoded once, before; a step costs the language model alone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the field's own name
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from training.architecture import parameters
from training.examples import MAKERS, Maker
from training.export import build_model
from training.pool import Pool, load_pool
from training.transcripts import VIEW, Transcript
from training.vision import batched_attention, grid, to_patches

PADS = 16
SIDE = 4  # merged tokens a side
ENCODE_BATCH = 100


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded examples of one kind.

    Shapes: ids (B, T); target (B, T) bool; positions (3, B, T); features (N, 160) for all pads in
    reading order.
    """

    ids: Tensor
    target: Tensor
    positions: Tensor
    features: Tensor

    def to(self, device: str) -> Batch:
        """Move every tensor to a device."""
        moved = (t.to(device) for t in (self.ids, self.target, self.positions, self.features))
        return Batch(*moved)


class Speaker:
    """Turn transcripts into batches with one tokenizer and one set of encoded pictures."""

    def __init__(self, tokenizer: Tokenizer, views: Tensor, crops: Tensor) -> None:
        """Shapes: views (N, 16, D), crops (N, 4, 16, D)."""
        self.tokenizer, self.views, self.crops = tokenizer, views, crops
        self.pad = tokenizer.token_to_id("<|endoftext|>")
        self.image = tokenizer.token_to_id("<|image_pad|>")

    def encode(self, example: Transcript) -> tuple[list[int], list[bool]]:
        """Tokenize piece by piece, so that what is learnt is cut where it is generated."""
        ids: list[int] = []
        target: list[bool] = []
        for piece in example.pieces:
            new = self.tokenizer.encode(piece.text, add_special_tokens=False).ids
            ids += new
            target += [piece.is_target] * len(new)
        return ids, target

    def batch(self, scenes: np.ndarray, examples: list[Transcript], *, skip: int = 0) -> Batch:
        """Pad examples to one length; the first `skip` tokens, common to all, are left out."""
        encoded = [self.encode(example) for example in examples]
        longest = max(len(ids) for ids, _ in encoded)
        ids = torch.full((len(examples), longest), self.pad)
        target = torch.zeros((len(examples), longest), dtype=torch.bool)
        positions = np.zeros((3, len(examples), longest), np.int64)
        features = []
        for row, (tokens, taught) in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            target[row, : len(tokens)] = torch.tensor(taught)
            positions[:, row, : len(tokens)] = mrope_positions(tokens, self.image)
            for picture in examples[row].pictures:
                scene = int(scenes[row])
                features.append(
                    self.views[scene] if picture == VIEW else self.crops[scene, picture]
                )
        seen = torch.cat(features).float() if features else torch.empty(0, self.views.shape[-1])
        where = torch.from_numpy(positions)[:, :, skip:]
        return Batch(ids[:, skip:], target[:, skip:], where, seen)


def mrope_positions(ids: list[int], image_id: int) -> np.ndarray:
    """Return (3, T) time, row and column positions, as Qwen2.5-VL and Qwen3-VL count them."""
    where = np.empty((3, len(ids)), np.int64)
    at, i = 0, 0
    cells = np.arange(PADS)
    while i < len(ids):
        if ids[i] == image_id:
            where[:, i : i + PADS] = at + np.stack([0 * cells, cells // SIDE, cells % SIDE])
            at, i = at + SIDE, i + PADS
        else:
            where[:, i] = at
            at, i = at + 1, i + 1
    return where


def common_prefix(speaker: Speaker, examples: list[Transcript]) -> list[int]:
    """Return the tokens before the first picture that all examples share (the system prompt)."""
    rows = [speaker.encode(example)[0] for example in examples]
    length = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1 or column[0] == speaker.image:
            break
        length += 1
    return rows[0][:length]


def hidden_states(
    model: nn.Module,
    batch: Batch,
    image_id: int,
    prefix: Tensor | None = None,
    deepstack: list[Tensor] | None = None,
) -> Tensor:
    """Run the language model; a common prefix is computed once for the whole batch."""
    language = model.model.language_model
    embedded = language.embed_tokens(batch.ids)
    is_image = batch.ids == image_id
    embedded = embedded.masked_scatter(is_image.unsqueeze(-1), batch.features)
    if prefix is None:
        deep = (
            {"visual_pos_masks": is_image, "deepstack_visual_embeds": deepstack}
            if deepstack
            else {}
        )
        out = language(
            inputs_embeds=embedded, position_ids=batch.positions, use_cache=False, **deep
        )
        return out.last_hidden_state
    rows, length = batch.ids.shape[0], prefix.shape[1]
    cache = DynamicCache(config=language.config)
    where = torch.arange(length, device=prefix.device).expand(3, 1, length)
    language(
        inputs_embeds=language.embed_tokens(prefix),
        position_ids=where,
        past_key_values=cache,
        use_cache=True,
    )
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    out = language(
        inputs_embeds=embedded, position_ids=batch.positions, past_key_values=cache, use_cache=True
    )
    return out.last_hidden_state


@torch.inference_mode()
def encode_pictures(visual: nn.Module, images: np.ndarray) -> Tensor:
    """Encode (..., 112, 112, 3) uint8 as (..., 16, D) float16."""
    flat = images.reshape(-1, *images.shape[-3:])
    device = next(visual.parameters()).device
    out = []
    for start in range(0, len(flat), ENCODE_BATCH):
        chunk = torch.from_numpy(flat[start : start + ENCODE_BATCH]).to(device)
        merged = visual(to_patches(chunk), grid_thw=grid(len(chunk)).to(device)).pooler_output
        out.append(merged.view(len(chunk), PADS, -1).half().cpu())
    return torch.cat(out).view(*images.shape[:-3], PADS, -1)


WHOLE_PROMPT_FROM = 0.9  # share of all steps
VERDICTS = ("yes", "no", "Ġyes", "Ġno")
VERDICT_WEIGHT = {"small": 1.0, "large": 5.0, "closer": 1.0}
NUMBER_WEIGHT = {"small": 1.0, "large": 2.0, "closer": 1.0}
# Shares of each kind while learning to list, and while learning the real work.
LISTING = {
    "small": {"list": 1.0},
    "large": {"list": 0.3, "places": 0.6, "list_crop": 0.1},
}
WORKING = {
    "small": {"list": 0.15, "answer": 0.85},
    "closer": {
        "answer": 0.16,
        "answer_existence": 0.1,
        "relation": 0.04,
        "places": 0.08,
        "closer": 0.36,
        "closer_existence": 0.26,
    },
    "large": {
        "list": 0.01,
        "places": 0.06,
        "list_crop": 0.02,
        "screen": 0.03,
        "agent": 0.06,
        "agent_existence": 0.06,
        "agent_first": 0.06,
        "agent_pair": 0.07,
        "coder": 0.11,
        "coder_existence": 0.10,
        "coder_first": 0.14,
        "coder_pair": 0.12,
        "drill": 0.03,
        "drill_code": 0.08,
        "agent_screen": 0.03,
        "coder_screen": 0.02,
    },
}


def train_language(role: str, a: argparse.Namespace) -> None:
    """Train on frozen vision; resume from `language-ROLE.pt` when it is there."""
    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    model = build_model(role, tokenizer).to(a.device)
    visual, path = model.model.visual, a.out / f"language-{role}.pt"
    weights = [p for n, p in model.named_parameters() if ".visual." not in n]
    optimiser = torch.optim.AdamW(weights, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01)
    start = _resume(path, model, optimiser)
    seen = torch.load(a.out / f"vision-{role}.pt", weights_only=True, map_location="cpu")
    visual.load_state_dict(seen["visual"])
    pool = load_pool(a.out / "pool", a.seeds)
    scenes = min(a.scenes, len(pool.scenes))
    speaker = _speaker(role, model, tokenizer, pool, scenes, a.out)
    print(
        f"{role}: {parameters(model):,} weights, {scenes:,} scenes, from step {start}", flush=True
    )
    _loop(role, a, model, optimiser, weights, speaker, pool, scenes, start, path)


def _speaker(
    role: str, model: nn.Module, tokenizer: Tokenizer, pool: Pool, scenes: int, folder: Path
) -> Speaker:
    path = folder / f"features-{role}.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location="cpu")
        return Speaker(tokenizer, saved["views"], saved["crops"])
    visual = model.model.visual
    batched_attention(visual, 64)
    visual.eval()
    began = time.monotonic()
    views = encode_pictures(visual, pool.views[:scenes])
    crops = encode_pictures(visual, pool.crops[:scenes]) if role != "small" else torch.empty(0)
    torch.save({"views": views, "crops": crops}, path)
    print(f"encoded in {time.monotonic() - began:.0f} s", flush=True)
    return Speaker(tokenizer, views, crops)


def _resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(saved["model"])
    if "optimiser" in saved:  # a model that has only just grown has none
        optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])


def _rate(step: int, a: argparse.Namespace) -> float:
    began, end = (0, a.listing_steps) if step < a.listing_steps else (a.listing_steps, a.steps)
    share = (step - began) / max(end - began, 1)
    warm = min(1.0, (step - began + 1) / 100)
    floor = 0.35 if step < a.listing_steps else 0.02
    return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def _loop(role, a, model, optimiser, weights, speaker, pool, scenes, start, path) -> None:  # noqa: ANN001
    model.train()
    image_id = speaker.image
    prefixes = {kind: _prefix(speaker, pool, MAKERS[kind]) for kind in ("agent", "coder")}
    heard = _loudness(role, speaker.tokenizer).to(a.device)
    marks: dict[str, list[float]] = {}
    began = time.monotonic()
    for step in range(start, a.steps):
        rng = np.random.default_rng((11, step))
        shares = (LISTING if step < a.listing_steps else WORKING)[role]
        kind = str(rng.choice(list(shares), p=list(shares.values())))
        for group in optimiser.param_groups:
            group["lr"] = a.lr * _rate(step, a)
        rows = rng.integers(0, scenes, a.batch * (2 if kind == "drill" else 1))
        examples = [MAKERS[kind](rng, pool, int(i)) for i in rows]
        prefix_ids = prefixes.get(kind.partition("_")[0], [])
        is_agent = bool(prefix_ids)
        # The system prompt says the same to all: most steps do without it, the last ones do not.
        is_whole = is_agent and (step > WHOLE_PROMPT_FROM * a.steps or rng.random() < 0.15)
        prefix = torch.tensor([prefix_ids], device=a.device) if is_whole else None
        batch = speaker.batch(rows, examples, skip=len(prefix_ids)).to(a.device)
        # Half precision is for speed; the last steps see the numbers that inference will see.
        is_half = a.bf16 and step <= WHOLE_PROMPT_FROM * a.steps
        with torch.autocast(a.device, torch.bfloat16, enabled=is_half):
            hidden = hidden_states(model, batch, image_id, prefix).float()
        taught = batch.target[:, 1:]
        logits, truth = model.lm_head(hidden[:, :-1][taught]), batch.ids[:, 1:][taught]
        each = F.cross_entropy(logits, truth, reduction="none")
        loss = (each * heard[truth]).sum() / heard[truth].sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        _mark(marks, kind, logits.detach(), truth, taught, loss.item())
        if (step + 1) % 50 == 0 or step + 1 == a.steps:
            spent = time.monotonic() - began
            left = spent / (step + 1 - start) * (a.steps - step - 1)
            print(f"{role} {step + 1}/{a.steps} {_show(marks)} eta {left / 60:.1f} min", flush=True)
            marks = {}
        if (step + 1) % 100 == 0 or step + 1 == a.steps:
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
            }
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)


def _loudness(role: str, tokenizer: Tokenizer) -> Tensor:
    # One word in a hundred and fifty decides, or four numbers: unweighted, they are hardly heard.
    heard = torch.ones(tokenizer.get_vocab_size())
    for word, token_id in tokenizer.get_vocab().items():
        if word in VERDICTS:
            heard[token_id] = VERDICT_WEIGHT[role]
        elif word.removeprefix("Ġ").isdecimal():
            heard[token_id] = NUMBER_WEIGHT[role]
    return heard


def _prefix(speaker: Speaker, pool: Pool, make: Maker) -> list[int]:
    rng = np.random.default_rng(5)
    return common_prefix(speaker, [make(rng, pool, i) for i in range(8)])


def _mark(
    marks: dict[str, list[float]],
    kind: str,
    logits: Tensor,
    truth: Tensor,
    taught: Tensor,
    loss: float,
) -> None:
    hits = logits.argmax(-1) == truth
    rows = taught.nonzero()[:, 0]
    whole = torch.ones(taught.shape[0], dtype=torch.long, device=taught.device).scatter_reduce(
        0, rows, hits.long(), "amin"
    )
    sums = marks.setdefault(kind, [0.0, 0.0, 0.0, 0.0])
    for i, value in enumerate((1.0, loss, hits.float().mean().item(), whole.float().mean().item())):
        sums[i] += value


def _show(marks: dict[str, list[float]]) -> str:
    return "; ".join(
        f"{kind} loss {loss / n:.3f} token {token / n:.4f} whole {whole / n:.3f}"
        for kind, (n, loss, token, whole) in sorted(marks.items())
    )


def main() -> None:
    """Train one language model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=tuple(WORKING))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--listing-steps", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--scenes", type=int, default=9_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="faster where the cores have it")
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("src/speceyes/builtin/models/large/tokenizer.json")
    )
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    train_language(a.role, a)


if __name__ == "__main__":
    main()
