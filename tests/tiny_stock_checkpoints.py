"""Tiny checkpoints of other makes, with random weights, which only transformers' own loop runs.

One tokenizer is sentencepiece's kind: spaces are marked, rare characters are spelled as bytes.
"""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Idefics3Config,
    InternVLConfig,
    LlavaConfig,
)
from transformers.utils import logging

from speceyes.engines.local import LocalEngine
from speceyes.engines.stock_checkpoint import StockCheckpoint, load_stock_checkpoint
from speceyes.engines.worker import LocalLimits
from tests.tiny_checkpoints import CORPUS, TAGS, spread

MAKES = ("llava", "idefics3", "gemma3", "internvl")
SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<start_of_image>",
    "<end_of_image>",
    "<video>",
)
CORNERS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
# What stands for a picture in the text, before the processor spells it out.
MARKS = {"gemma3": "<start_of_image>"}
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for tool in tools or [] -%}
{{- 'Tool: ' + tool.name + '\\n' -}}
{%- endfor -%}
{%- for message in messages -%}
{{- message.role + ': ' -}}
{%- for part in message.content -%}
{{- 'MARK' if part.type == 'image' else part.text -}}
{%- endfor -%}
{%- if not loop.last or add_generation_prompt -%}{{- '</s>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}
"""
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
LOOK = {
    "do_convert_rgb": True,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
LOOKS: dict[str, dict[str, Any]] = {
    "llava": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
    },
    "idefics3": {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        "do_image_splitting": True,
        "do_pad": True,
    },
    "gemma3": {
        "image_processor_type": "Gemma3ImageProcessor",
        "size": {"height": 32, "width": 32},
        "do_pan_and_scan": False,
    },
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": {"height": 32, "width": 32},
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 4,
    },
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "llava": {
        "processor_class": "LlavaProcessor",
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
    "idefics3": {"processor_class": "Idefics3Processor", "image_seq_len": 4},
    "gemma3": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    "internvl": {"processor_class": "InternVLProcessor", "image_seq_length": 4},
}


@cache
def stock_folder(make: str) -> Path:
    """Write the default checkpoint of a make, once per process."""
    root = tempfile.TemporaryDirectory(prefix="speceyes-stock-")
    atexit.register(root.cleanup)
    return write_stock_checkpoint(Path(root.name) / make, make)


def write_stock_checkpoint(folder: Path, make: str, *, max_positions: int = 1024) -> Path:
    """Write a checkpoint with random weights; the same bytes for the same arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_marked_tokenizer(folder)
    config = config_of(make, tokenizer, max_positions)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    spread(model)
    known = tokenizer.get_vocab()
    mute = [n for word, n in known.items() if word in SPECIAL or word.startswith("<0x")]
    with torch.no_grad():  # logits of zero are never the highest: answers go on, and can be read
        model.get_output_embeddings().weight[mute] = 0
    model.generation_config.eos_token_id = known["</s>"]
    model.generation_config.pad_token_id = known["<pad>"]
    # As releases set it; our decoding is greedy all the same.
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 1.5
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    for name, settings in {
        "preprocessor_config": LOOK | LOOKS[make],
        "processor_config": PROCESSORS[make],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(settings))
    template = CHAT_TEMPLATE.replace("MARK", MARKS.get(make, "<image>"))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def write_marked_tokenizer(folder: Path) -> Tokenizer:
    """Train a tokenizer that marks spaces, and give it bytes to fall back on."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, special_tokens=[*SPECIAL, *CORNERS]
    )
    tokenizer.train_from_iterator([*CORPUS[:2] * 50, "0123456789.,:!{}"], trainer)
    made = json.loads(tokenizer.to_str())
    vocabulary = made["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    made["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_tokens(list(TAGS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {
            "image_token": "<image>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "start_image_token": "<start_of_image>",
            "end_image_token": "<end_of_image>",
            "context_image_token": "<image>",
            "video_token": "<video>",
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def config_of(make: str, tokenizer: Tokenizer, max_positions: int) -> Any:
    """Make a tiny configuration of the make."""
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": tokenizer.get_vocab_size() + 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": False,
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
        "pad_token_id": ids["<pad>"],
    }
    if make == "llava":
        return LlavaConfig(
            vision_config=VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
            text_config=text | {"model_type": "llama"},
            image_token_index=ids["<image>"],
            tie_word_embeddings=False,
        )
    if make == "idefics3":
        return Idefics3Config(
            vision_config=VISION,
            text_config=text | {"model_type": "llama"},
            image_token_id=ids["<image>"],
            scale_factor=2,
            pad_token_id=ids["<pad>"],
            tie_word_embeddings=False,
        )
    if make == "gemma3":
        return Gemma3Config(
            vision_config=VISION | {"model_type": "siglip_vision_model"},
            text_config=text | {"sliding_window": 16, "query_pre_attn_scalar": 16},
            mm_tokens_per_image=4,
            boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"],
            image_token_index=ids["<image>"],
            tie_word_embeddings=False,
        )
    return InternVLConfig(
        vision_config=VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
        text_config=text | {"model_type": "qwen2"},
        image_token_id=ids["<image>"],
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


@cache
def stock_loaded(folder: Path) -> StockCheckpoint:
    """Load a checkpoint once; engines on it may follow one another."""
    return load_stock_checkpoint(folder, engine="stock")


@asynccontextmanager
async def stock_opened(
    folder: Path | str = "llava", *, limits: LocalLimits | None = None
) -> AsyncIterator[LocalEngine]:
    """Open an engine on a folder, or on the tiny one of a make, and close it."""
    source = folder if isinstance(folder, Path) else stock_folder(folder)
    engine = LocalEngine(
        stock_loaded(source), name="stock", threads=1, limits=limits or LocalLimits()
    )
    try:
        yield engine
    finally:
        await engine.aclose()
