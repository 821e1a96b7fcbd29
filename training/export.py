"""Write trained weights as a checkpoint folder that transformers and vLLM load as they are."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from speceyes.builtin.scenes import VIEW_PX
from training.architecture import build_closer, build_large, build_small

MODELS = Path("src/speceyes/builtin/models")
ROLES = {"small": build_small, "large": build_large, "closer": build_closer}
_AREA_PX = VIEW_PX * VIEW_PX
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ("image", "image_url") -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def export(role: str, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write one model: weights rounded to float16, tokenizer, chat template, processor files."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = build_model(role, tokenizer)
    model.load_state_dict(weights)
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.token_to_id("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.token_to_id("<|endoftext|>")
    model.to(torch.float16).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, kind in (("preprocessor", "image"), ("video_preprocessor", "video")):
        (folder / f"{name}_config.json").write_text(
            json.dumps(_processor(role, kind), indent=2) + "\n"
        )


def build_model(role: str, tokenizer: Tokenizer) -> nn.Module:
    """Make a model of a role's shape for this tokenizer, with fresh weights."""
    names = (
        "<|endoftext|>",
        "<|im_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
    )
    ids = {name: tokenizer.token_to_id(name) for name in names}
    return ROLES[role](tokenizer.get_vocab_size(), ids)


def _processor(role: str, kind: str) -> dict[str, object]:
    family = "Qwen3VL" if role == "small" else "Qwen2_5_VL"
    types: dict[str, object] = {"image_processor_type": "Qwen2VLImageProcessor"}
    if kind == "video":
        types = {
            "video_processor_type": "Qwen3VLVideoProcessor"
            if role == "small"
            else "Qwen2VLVideoProcessor"
        }
    return types | {
        "processor_class": f"{family}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": _AREA_PX, "longest_edge": _AREA_PX},
        "min_pixels": _AREA_PX,
        "max_pixels": _AREA_PX,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }


def main() -> None:
    """Export one role from its language checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=tuple(ROLES))
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="the large one's, if it has grown")
    parser.add_argument("--out", type=Path, help="a folder of its own; else it is what ships")
    a = parser.parse_args()
    folder = a.out or MODELS / a.role
    folder.mkdir(parents=True, exist_ok=True)
    if a.out is not None and (MODELS / a.role).exists():
        shutil.copytree(MODELS / a.role, folder, dirs_exist_ok=True)
    if a.tokenizer is not None:
        shutil.copy(a.tokenizer, folder / "tokenizer.json")
    weights = torch.load(a.checkpoint, weights_only=True)["model"]
    if not _fits(weights, folder / "tokenizer.json"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODELS / "large" / name, folder / name)
    export(a.role, weights, folder)


def _fits(weights: dict[str, torch.Tensor], path: Path) -> bool:
    # It may be a new one, or have grown since.
    if not path.exists():
        return False
    return Tokenizer.from_file(str(path)).get_vocab_size() == len(weights["lm_head.weight"])


if __name__ == "__main__":
    main()
