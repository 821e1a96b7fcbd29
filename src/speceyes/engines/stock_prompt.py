"""A stock prompt is a conversation as a checkpoint's own processor lays it out.

It refuses to know the model. Each conversation is laid out alone, once; prompts whose tensors fit
together are stacked, padded on the left, and any other one is read by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional

from speceyes.engines.rendering import Renderer
from speceyes.errors import ContextTooLong, EngineProtocolError
from speceyes.pictures import decode
from speceyes.types import GenerateRequest, Image, Picture

_TOKENS: Final = "input_ids"


@dataclass(frozen=True, slots=True, eq=False)
class StockPrompt:
    """Hold one conversation's tensors by name, among them `input_ids` (1, T)."""

    inputs: Mapping[str, Any]
    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return int(self.inputs[_TOKENS].shape[1])


class StockPromptWriter:
    """Write prompts with one checkpoint's processor; called from many threads at once.

    Raises: InputError naming the field; PictureError; ContextTooLong; EngineProtocolError if the
    chat template or the processor does not take the conversation.
    """

    def __init__(self, processor: Any, renderer: Renderer, *, engine: str, max_tokens: int) -> None:
        self._processor = processor
        self._renderer = renderer
        self._engine = engine
        self._max_tokens = max_tokens
        self._lock = threading.Lock()  # tokenizers change their own settings while at work

    def write(self, request: GenerateRequest) -> StockPrompt:
        """Render a conversation, and let the processor lay it out."""
        rendered = self._renderer.render(request)
        pictures = tuple(
            part.picture
            for message in request.messages
            for part in message.parts
            if isinstance(part, Image)
        )
        images = [decode(picture).convert("RGB") for picture in pictures]
        begins = self._processor.tokenizer.bos_token
        try:
            with self._lock:
                inputs = self._processor(
                    text=[rendered],
                    images=[images] if images else None,
                    return_tensors="pt",
                    # As transformers does: a template that writes the beginning says so itself.
                    add_special_tokens=not (begins and rendered.startswith(begins)),
                )
        except (ValueError, TypeError, IndexError) as error:
            raise EngineProtocolError(
                self._engine, f"its processor refuses the conversation: {error}"
            ) from error
        prompt = StockPrompt(dict(inputs), pictures)
        if not len(prompt):
            raise EngineProtocolError(self._engine, "its chat template makes nothing of it")
        if len(prompt) >= self._max_tokens:
            raise ContextTooLong(
                self._engine,
                f"the conversation has {len(prompt)} tokens, its context {self._max_tokens}, "
                "and the answer needs some too; send fewer or smaller pictures, or less text",
            )
        return prompt


def can_stack(one: StockPrompt, other: StockPrompt) -> bool:
    """Say if two prompts can be read together: the same tensors, of shapes that fit."""
    return one.inputs.keys() == other.inputs.keys() and all(
        _row_shape(one, name) is not None and _row_shape(one, name) == _row_shape(other, name)
        for name in one.inputs
    )


def stack(prompts: Sequence[StockPrompt], *, pad_id: int) -> dict[str, Any]:
    """Put prompts into one batch; all of them fit each other. One alone stays as it is.

    What has a value per token is padded on the left, with zeros but for the tokens; everything
    else counts pictures, or parts of them, along its first axis.
    """
    if len(prompts) == 1:
        return dict(prompts[0].inputs)
    longest = max(map(len, prompts))
    stacked = {}
    for name in prompts[0].inputs:
        rows = [prompt.inputs[name] for prompt in prompts]
        if _is_per_token(prompts[0], name):
            fill = pad_id if name == _TOKENS else 0
            rows = [_pad_left(row, longest, fill) for row in rows]
        stacked[name] = torch.cat(rows)
    return stacked


def _is_per_token(prompt: StockPrompt, name: str) -> bool:
    return tuple(prompt.inputs[name].shape[:2]) == (1, len(prompt))


def _row_shape(prompt: StockPrompt, name: str) -> tuple[object, ...] | None:
    """What two tensors must agree in; None for what is no tensor."""
    value = prompt.inputs[name]
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return None
    is_per_token = _is_per_token(prompt, name)
    return (is_per_token, value.dtype, *value.shape[2 if is_per_token else 1 :])


def _pad_left(values: torch.Tensor, length: int, fill: int) -> torch.Tensor:
    after = [0, 0] * (values.dim() - 2)  # torch counts axes from the last one
    return functional.pad(values, [*after, length - values.shape[1], 0], value=fill)
