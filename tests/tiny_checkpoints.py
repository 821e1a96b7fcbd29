"""Tiny checkpoints with random weights, one per architecture, and local engines on them.

They are real folders with all files. The weights are drawn wide enough that the logits of two
tokens hardly ever come close: what is compared token by token here must not hang on rounding.
Their answers do not end by themselves.
"""

from __future__ import annotations

import atexit
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig
from transformers.utils import logging

from speceyes.engines.checkpoint import Checkpoint, load_checkpoint
from speceyes.engines.local import LocalEngine
from speceyes.engines.stack import TextStack
from speceyes.engines.worker import LocalLimits
from speceyes.pictures import encode_png
from speceyes.types import GenerateRequest, Generation, Image, Message, Part, Picture, Size, Text

torch.set_num_threads(1)  # these models are too small to share

ARCHITECTURES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
HEAD_DIM = 16
PATCH_PX = 8
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<tool_call>", "</tool_call>", "<answer>", "</answer>")
CORPUS = (
    "Is the answer yes or no? Yes. no. What shape is the red object, and where is its dot?",
    "You are a helpful assistant. system user assistant",
    "Quelle forme a l'objet rouge ? Où est-il ?  这个红色的东西是什么形状？ 🦊🐙",
)
# The wording of the Qwen releases, for messages whose content is a list.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@cache
def checkpoint_folder(architecture: str) -> Path:
    """Make the default checkpoint of an architecture, once per process."""
    root = tempfile.TemporaryDirectory(prefix="speceyes-tiny-")
    atexit.register(root.cleanup)
    return write_checkpoint(Path(root.name) / architecture, architecture)


def write_checkpoint(
    folder: Path,
    architecture: str,
    *,
    layers: int = 3,
    hidden: int = 64,
    seed: int = 0,
    max_positions: int = 512,
    vocabulary: int = 384,
    text_settings: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint with random weights; the same bytes for the same arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, vocabulary)
    text = {
        "vocab_size": tokenizer.get_vocab_size() + 8,  # real models have rows to spare, too
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": max(1, hidden // HEAD_DIM // 2),
        "head_dim": HEAD_DIM,
        "max_position_embeddings": max_positions,
        "rope_parameters": rope(architecture),
        "tie_word_embeddings": architecture != "qwen2_5_vl",
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "bos_token_id": None,
    }
    config = config_of(architecture, text | (text_settings or {}), tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    spread(model)
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    bytes_alone = [n for word, n in tokenizer.get_vocab().items() if len(word) == 1 and word > "~"]
    with torch.no_grad():  # logits of zero are never the highest: answers go on, and can be read
        model.lm_head.weight[ends + bytes_alone] = 0
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = tokenizer.token_to_id("<|endoftext|>")
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor_settings()))
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """Train a byte-level tokenizer on next to nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words = (f"{n:x}{n * n:x}" for n in range(vocabulary))
    tokenizer.train_from_iterator([*CORPUS * 50, *words], trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer


def rope(architecture: str) -> dict[str, Any]:
    """Rotary settings whose sections fit the head."""
    shared = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    if architecture == "qwen3_vl":
        return shared | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    return shared


def config_of(architecture: str, text: dict[str, Any], tokenizer: Tokenizer) -> Any:
    ids = {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    width = text["hidden_size"]
    vision = {"depth": 3, "num_heads": 2, "patch_size": PATCH_PX}
    if architecture == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": width, "mlp_ratio": 2}
        return Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    vision |= {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": width}
    if architecture == "qwen2_5_vl":
        vision |= {"window_size": 4 * PATCH_PX, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    vision |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **ids)


def spread(model: nn.Module) -> None:
    """Draw weights wide: fan-in for linear maps, one for embeddings, norms and biases around."""
    for parameter_name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.dim() > 1 and "embed" not in parameter_name:
                gain = 4.0 if "lm_head" in parameter_name else 1.5
                parameter.normal_(std=gain * parameter[0].numel() ** -0.5)
            elif parameter.dim() > 1:
                parameter.normal_(std=0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def processor_settings() -> dict[str, Any]:
    """Pictures of 4 to 36 tokens, by their shape."""
    token_px = (2 * PATCH_PX) ** 2
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 4 * token_px, "longest_edge": 36 * token_px},
        "patch_size": PATCH_PX,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }


def noise(size: Size, *, seed: int) -> Picture:
    """Make a picture of random pixels."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode_png(Pillow.fromarray(pixels))


def ask(*parts: str | Picture, tokens: int = 12, k: int = 0, **more: Any) -> GenerateRequest:
    """Make a request of one user message."""
    made: tuple[Part, ...] = tuple(Text(p) if isinstance(p, str) else Image(p) for p in parts)
    system = Message("system", (Text("You are a helpful assistant."),))
    return GenerateRequest(
        (system, Message("user", made)), max_tokens=tokens, top_logprobs=k, **more
    )


PICTURE, OTHER = noise((64, 48), seed=3), noise((32, 80), seed=2)
SHORT = ask(PICTURE, "What is it?", tokens=12, k=4)
ENDLESS = ask(OTHER, "And this?", tokens=400)


@cache
def loaded(folder: Path) -> Checkpoint:
    """Load a checkpoint once; engines on it may follow one another, or share it."""
    return load_checkpoint(folder, engine="tiny")


@asynccontextmanager
async def opened(
    folder: Path | str = "qwen3_vl", *, limits: LocalLimits | None = None
) -> AsyncIterator[LocalEngine]:
    """Open an engine on a folder, or on the tiny one of an architecture, and close it."""
    source = folder if isinstance(folder, Path) else checkpoint_folder(folder)
    engine = LocalEngine(loaded(source), name="tiny", threads=1, limits=limits or LocalLimits())
    try:
        yield engine
    finally:
        await engine.aclose()


async def together(
    engine: LocalEngine, requests: Sequence[GenerateRequest], *, hold: bool = True
) -> list[Generation]:
    """Have all requests under way at once; answers in the order of the requests.

    With `hold` the engine admits none before all of them wait, however slow the machine.
    """
    if hold:
        hold_until_waiting(engine, len(requests))
    answers: dict[int, Generation] = {}

    async def one(number: int, request: GenerateRequest) -> None:
        answers[number] = await engine.generate(request)

    async with anyio.create_task_group() as tasks:
        for number, request in enumerate(requests):
            tasks.start_soon(one, number, request)
    return [answers[number] for number in range(len(requests))]


def hold_until_waiting(engine: LocalEngine, count: int) -> None:
    """Let the engine's thread admit nobody until so many requests wait."""
    thread = engine._open().thread
    admit = thread._admit_waiting

    def held() -> None:
        for _ in range(5000):
            if len(thread._waiting) >= count:
                break
            time.sleep(0.002)
        thread._admit_waiting = admit
        admit()

    thread._admit_waiting = held


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not is_so():  # noqa: ASYNC110 - counters of a thread ring no bell
            await anyio.sleep(0.002)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a step take at least 5 ms, so that there is time to do something meanwhile."""
    decode = TextStack.decode

    def slowed(*args, **kwargs):
        time.sleep(0.005)
        return decode(*args, **kwargs)

    monkeypatch.setattr(TextStack, "decode", slowed)
