"""A checkpoint is a model as it lies in a folder or on the hub: weights, tokenizer, processor.

It refuses to know requests and batches. Loading is all it does, and refusing what it cannot run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

import torch
from safetensors import SafetensorError
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from speceyes.errors import ConfigError, EngineUnavailable

# Their language models are built alike; stack.py runs them. They share one image processor, too;
# the Pillow one of transformers needs no torchvision, which its Auto classes ask for.
SUPPORTED: Final = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
_DTYPES: Final = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Hold a loaded model with what belongs to it.

    `image_token_id` stands for a picture in a prompt; `merge` x `merge` patches are one token;
    `end_ids` end an answer; `max_positions` bounds prompt and answer together, in tokens.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    device: torch.device
    image_token_id: int
    merge: int
    end_ids: frozenset[int]
    max_positions: int


def load_checkpoint(
    source: str | PathLike[str],
    *,
    engine: str,
    device: str | None = None,
    dtype: str | None = None,
) -> Checkpoint:
    """Load a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint, from a folder or the hub.

    By default on CUDA in bfloat16 if there is a GPU, otherwise on the CPU in float32 (without
    AVX512 bfloat16 is some 50 times slower there). FlashAttention 2 is used where installed.
    Raises: ConfigError; EngineUnavailable if it cannot be loaded or is of another kind.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or ("bfloat16" if place.type == "cuda" else "float32")
    if dtype not in _DTYPES:
        raise ConfigError("dtype", f"{dtype!r} is none of {', '.join(_DTYPES)}")
    has_flash = place.type == "cuda" and dtype != "float32" and is_flash_attn_2_available()
    try:
        config = AutoConfig.from_pretrained(source)
        check_kind(config, engine=engine)
        with _without_progress():
            tokenizer = AutoTokenizer.from_pretrained(source)
            image_processor = Qwen2VLImageProcessorPil.from_pretrained(source)
            model = AutoModelForImageTextToText.from_pretrained(
                source,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation="flash_attention_2" if has_flash else "sdpa",
            )
        model = model.to(place).eval()
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EngineUnavailable(engine, f"{source} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise EngineUnavailable(engine, f"{source} has no chat template")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, ByteLevel):
        raise EngineUnavailable(engine, f"{source} has no byte-level tokenizer, as Qwen's are")
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        device=place,
        image_token_id=int(model.config.image_token_id),
        merge=int(model.config.vision_config.spatial_merge_size),
        end_ids=_end_ids(model, tokenizer),
        max_positions=int(config.text_config.max_position_embeddings),
    )


def check_kind(config: Any, *, engine: str) -> None:
    """Refuse what stack.py would run wrongly. Raises: EngineUnavailable."""
    text = getattr(config, "text_config", None)
    fault = None
    if config.model_type not in SUPPORTED or text is None:
        fault = f"is of kind {config.model_type!r}; this engine runs {', '.join(sorted(SUPPORTED))}"
    elif text.hidden_act != "silu":
        fault = f"has the activation {text.hidden_act!r}, not silu"
    elif "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        fault = "has sliding-window layers"
    elif text.rope_parameters["rope_type"] in {"dynamic", "longrope"}:
        fault = f"has rotary positions of type {text.rope_parameters['rope_type']!r}"
    elif getattr(config, "quantization_config", None) is not None:
        fault = "is quantized"
    if fault is not None:
        raise EngineUnavailable(engine, f"the checkpoint {fault}; serve it over HTTP instead")


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(int(n) for n in (*listed, tokenizer.eos_token_id) if n is not None)


@contextmanager
def _without_progress() -> Iterator[None]:
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
