"""A stock checkpoint is any that transformers itself can load for pictures and text, and run.

It refuses to know requests and batches. Loading is all it does, and refusing what cannot be asked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from speceyes.engines.checkpoint import Place, end_ids_of, load_model, loading
from speceyes.engines.transcript import spelling_of
from speceyes.errors import EngineUnavailable

_VIDEO: Final = "video_processor"
_MOST_POSITIONS: Final = 1_000_000  # a tokenizer without a limit says some 1e30


@dataclass(frozen=True, slots=True, eq=False)
class StockCheckpoint:
    """Hold a loaded model with its processor; `special` are the tokens that steer it."""

    model: Any
    processor: Any
    device: torch.device
    special: frozenset[str]
    pad_id: int
    end_ids: frozenset[int]
    max_positions: int

    @property
    def tokenizer(self) -> Any:
        """The processor's own."""
        return self.processor.tokenizer


def load_stock_checkpoint(
    source: str | PathLike[str],
    *,
    engine: str,
    device: str | None = None,
    dtype: str | None = None,
) -> StockCheckpoint:
    """Load what `AutoModelForImageTextToText` loads, from a folder or the hub.

    See `Place` for where it runs by default. FlashAttention 2 is used on CUDA where installed.
    Raises: ConfigError; EngineUnavailable if it cannot be loaded, or cannot be asked in turns.
    """
    place = Place.of(device, dtype)
    with loading(source, engine=engine):
        config = AutoConfig.from_pretrained(source)
        processor = load_processor(source, config)
        model = load_model(source, config, place)
    tokenizer = getattr(processor, "tokenizer", None)
    if config.is_encoder_decoder:
        raise EngineUnavailable(engine, f"{source} reads and writes apart; it cannot go on a text")
    if tokenizer is None or spelling_of(tokenizer) is None:
        raise EngineUnavailable(engine, f"{source} has no tokenizer whose entries read as bytes")
    if not (processor.chat_template or tokenizer.chat_template):
        raise EngineUnavailable(engine, f"{source} has no chat template")
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    tokenizer.padding_side = "left"
    end_ids = end_ids_of(model, tokenizer)
    # Greedy and nothing else: no penalties, and no end of its own, as rows end one by one.
    model.generation_config = GenerationConfig(do_sample=False)
    return StockCheckpoint(
        model=model,
        processor=processor,
        device=place.device,
        special=_special_of(processor),
        pad_id=next((n for n in (tokenizer.pad_token_id, *end_ids) if n is not None), 0),
        end_ids=end_ids,
        max_positions=_positions_of(config, tokenizer),
    )


def load_processor(source: str | PathLike[str], config: Any) -> Any:
    """Load a checkpoint's processor; without torchvision one that takes pictures, but no videos.

    Raises: ImportError or ValueError if there is none, or it needs what is not installed.
    """
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or kind is None or _VIDEO not in kind.get_attributes():
        return AutoProcessor.from_pretrained(source)
    still: Any = type(kind.__name__, (_Still, kind), {"__init__": kind.__init__})
    loaders = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
    parts = [
        loaders[name].from_pretrained(source) if name in loaders else None
        for name in kind.get_attributes()
    ]
    settings, _ = kind.get_processor_dict(source)
    return still.from_args_and_dict(parts, settings)


class _Still:
    """A processor whose part for videos, which needs torchvision, is left out."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == _VIDEO:
            return type(argument)
        parent: Any = super()
        return parent.check_argument_for_proper_class(argument_name, argument)


def _special_of(processor: Any) -> frozenset[str]:
    # Processors look for the marks of pictures in the text, special to the tokenizer or not.
    tokenizer = processor.tokenizer
    steering = {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    marks = {
        getattr(processor, name, None)
        for name in ("image_token", "video_token", "audio_token", "boi_token", "eoi_token")
    }
    return frozenset(steering | {mark for mark in marks if isinstance(mark, str)})


def _positions_of(config: Any, tokenizer: Any) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions or min(tokenizer.model_max_length, _MOST_POSITIONS, sys.maxsize))
