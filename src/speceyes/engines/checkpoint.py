"""A checkpoint is a model as it lies in a folder or on the hub: weights, tokenizer, processor.

It refuses to know requests and batches. Loading is all it does, and refusing what it cannot run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from speceyes.engines.transcript import spelling_of
from speceyes.errors import ConfigError, EngineUnavailable

# Their language models are built alike; stack.py runs them. They share one image processor, too;
# the Pillow one of transformers needs no torchvision, which its Auto classes ask for.
SUPPORTED: Final = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
_DTYPES: Final = ("float32", "bfloat16", "float16")
_MOST_SAID: Final = 500  # letters; transformers may list all its models
_HUB_ADVICE: Final = (
    "; it is no folder here, so it was taken for a name on the hub: check the spelling, log in if "
    "it is gated (`hf auth login`), or fetch it where there is a network (`hf download`) and give "
    "its folder"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Say where a model runs, and in which precision."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str | None, dtype: str | None) -> Place:
        """Fill in what is not asked for.

        CUDA in bfloat16 if there is a GPU, otherwise the CPU in float32 (without AVX512 bfloat16
        is some 50 times slower there). Raises: ConfigError.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        named = dtype or ("bfloat16" if place.type == "cuda" else "float32")
        if named not in _DTYPES:
            raise ConfigError("dtype", f"{named!r} is none of {', '.join(_DTYPES)}")
        return cls(place, getattr(torch, named))


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

    See `Place` for where it runs by default. FlashAttention 2 is used on CUDA where installed.
    Raises: ConfigError; EngineUnavailable if it cannot be loaded or is of another kind.
    """
    place = Place.of(device, dtype)
    with loading(source, engine=engine):
        config = AutoConfig.from_pretrained(source)
        check_kind(config, engine=engine)
        tokenizer = AutoTokenizer.from_pretrained(source)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(source)
        model = load_model(source, config, place)
    if not tokenizer.chat_template:
        raise EngineUnavailable(engine, f"{source} has no chat template")
    if spelling_of(tokenizer) is None:
        raise EngineUnavailable(engine, f"{source} has no byte-level tokenizer, as Qwen's are")
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        device=place.device,
        image_token_id=int(model.config.image_token_id),
        merge=int(model.config.vision_config.spatial_merge_size),
        end_ids=end_ids_of(model, tokenizer),
        max_positions=int(config.text_config.max_position_embeddings),
    )


def load_model(source: str | PathLike[str], config: Any, place: Place) -> Any:
    """Load the weights to where they will run, in the precision they will run in."""
    has_flash = place.device.type == "cuda" and place.dtype is not torch.float32
    model = AutoModelForImageTextToText.from_pretrained(
        source,
        config=config,
        dtype=place.dtype,
        attn_implementation="flash_attention_2"
        if has_flash and is_flash_attn_2_available()
        else "sdpa",
    )
    return model.to(place.device).eval()


def fault_of(config: Any) -> str | None:
    """Say what keeps stack.py from running a model of this kind; None if nothing does."""
    text = getattr(config, "text_config", None)
    if config.model_type not in SUPPORTED or text is None:
        return f"is of kind {config.model_type!r}, not {', '.join(sorted(SUPPORTED))}"
    if text.hidden_act != "silu":
        return f"has the activation {text.hidden_act!r}, not silu"
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        return "has sliding-window layers"
    if text.rope_parameters["rope_type"] in {"dynamic", "longrope"}:
        return f"has rotary positions of type {text.rope_parameters['rope_type']!r}"
    if getattr(config, "quantization_config", None) is not None:
        return "is quantized"
    return None


def check_kind(config: Any, *, engine: str) -> None:
    """Refuse what stack.py would run wrongly. Raises: EngineUnavailable."""
    fault = fault_of(config)
    if fault is not None:
        raise EngineUnavailable(
            engine, f"the checkpoint {fault}; `LocalEngine.load` or an HTTP server may run it"
        )


@contextmanager
def loading(source: str | PathLike[str], *, engine: str) -> Iterator[None]:
    """Name what goes wrong while loading, and keep progress bars off. Raises: EngineUnavailable."""
    try:
        with _without_progress():
            yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        advice = "" if Path(source).is_dir() else _HUB_ADVICE
        said = " ".join(str(error).split())[:_MOST_SAID]
        raise EngineUnavailable(engine, f"{source} cannot be loaded: {said}{advice}") from error


def end_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Say which tokens end an answer: those of the model's settings, and the tokenizer's own."""
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
