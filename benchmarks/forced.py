"""A forced engine runs a real architecture with random weights, and says what a script tells it to.

Every pass is made as the local engine makes it, batched and with its caches; only the words are
not the model's. Prompts have the length that a tokenizer would give them, a token for some four
letters, and pictures their real number of patches, of noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
import numpy as np
import torch
from anyio import get_cancelled_exc_class, to_thread
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig

from speceyes.engines.decode import Batch, Row
from speceyes.engines.patches import Patches
from speceyes.engines.prefixes import PrefixTree
from speceyes.engines.prompt import Prompt, lay_out
from speceyes.engines.sight import VisionTower
from speceyes.engines.stack import TextStack
from speceyes.engines.worker import LocalLimits, ModelThread, Tally, Ticket
from speceyes.errors import EngineUnavailable
from speceyes.load import Load
from speceyes.meter import note_lost
from speceyes.types import GenerateRequest, Generation, Image, Picture, Usage

LETTERS_A_TOKEN = 4
IMAGE, VIDEO, SEEN, SEEN_END, TURN, TURN_END = range(1, 7)
OWN_IDS = 16  # token ids below are marks
_MERGE = 2

Script = Callable[[GenerateRequest], Generation]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a model, by its make: "qwen2_5_vl" or "qwen3_vl"."""

    make: str
    text: dict[str, Any]
    vision: dict[str, Any]


QWEN2_5_VL_7B = Shape(
    make="qwen2_5_vl",
    text={
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
        "tie_word_embeddings": False,
    },
    vision={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "out_hidden_size": 3584,
    },
)
QWEN3_VL_2B = Shape(
    make="qwen3_vl",
    text={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
    },
    vision={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
        "out_hidden_size": 2048,
    },
)


def tiny(shape: Shape) -> Shape:
    """Make a shape small enough for a test: the same make, next to no weights."""
    sections = [4, 2, 2] if shape.make == "qwen3_vl" else [2, 3, 3]
    text = shape.text | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": shape.text["rope_parameters"] | {"mrope_section": sections},
    }
    vision = shape.vision | {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
    }
    if shape.make == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 36}
    else:
        vision |= {"fullatt_block_indexes": [1]}
    return replace(shape, text=text, vision=vision)


def random_model(shape: Shape, *, device: str, dtype: torch.dtype) -> Any:
    """Make a model of this shape, with random weights."""
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": SEEN,
        "vision_end_token_id": SEEN_END,
        "tie_word_embeddings": shape.text["tie_word_embeddings"],
    }
    text = shape.text | {"max_position_embeddings": 128_000, "pad_token_id": 0}
    kind = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}[shape.make]
    config = kind(text_config=text, vision_config=shape.vision, **ids)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return model.eval()


class Forced:
    """A transcript that takes down the tokens it was given, whatever is drawn."""

    def __init__(self, token_ids: list[int]) -> None:
        self._script = token_ids
        self.token_ids: list[int] = []
        self.finish: str | None = None
        self.drawn_tokens = 0
        self.max_tokens = len(token_ids)

    def add(self, _: int) -> bool:
        """Take the next one of the script; the last one ends it."""
        self.token_ids.append(self._script[self.drawn_tokens])
        self.drawn_tokens += 1
        if self.drawn_tokens == len(self._script):
            self.finish = "stop"
        return True


class ForcedEngine:
    """Generate what a script says at the price of a real model. Implements `types.Engine`."""

    def __init__(
        self, shape: Shape, script: Script, *, name: str, device: str, limits: LocalLimits
    ) -> None:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        model = random_model(shape, device=device, dtype=dtype)
        self._name = name
        self._script = script
        self._vocabulary = int(shape.text["vocab_size"])
        self._patch_px = int(shape.vision["patch_size"])
        self._noise = torch.rand(1, 3 * 2 * self._patch_px**2)
        self._tower = VisionTower(model, limit_bytes=limits.picture_bytes)
        self._batch = Batch(
            TextStack(model),
            self._tower,
            PrefixTree(limits.prefix_bytes),
            cache_bytes=limits.cache_bytes,
        )
        self._thread: ModelThread | None = ModelThread(
            self._batch, engine=name, threads=1 if device == "cpu" else None, limits=limits
        )
        self._tally = self._thread.tally

    @property
    def name(self) -> str:
        """The name given to it."""
        return self._name

    @property
    def tally(self) -> Tally:
        """What it has done since it was made."""
        return replace(self._tally)

    @property
    def present_load(self) -> Load:
        """How many requests are in the batch now, and how many wait."""
        return self._open().load

    async def generate(self, request: GenerateRequest) -> Generation:
        """Say what the script says, and spend what it costs."""
        said = self._script(request)
        prompt = await to_thread.run_sync(self.lay_out, request, abandon_on_cancel=True)
        spoken = Forced(self._ids(said.text)[: request.max_tokens])
        row: Row[Any] = Row(prompt, spoken, top_k=request.top_logprobs)  # type: ignore[arg-type]
        ticket = Ticket(row, reserved_tokens=len(prompt) + spoken.max_tokens)
        self._open().submit(ticket)

        def usage() -> Usage:
            pictures = len(prompt.pictures)
            return Usage(len(prompt), row.reused_tokens, spoken.drawn_tokens, pictures)

        try:
            await ticket.done.wait()
        except get_cancelled_exc_class():
            note_lost(usage() if ticket.is_taken else Usage.zero)
            raise
        finally:
            ticket.is_abandoned = True
        if ticket.error is not None:
            raise ticket.error
        return replace(said, usage=usage(), engine=self._name)

    def lay_out(self, request: GenerateRequest) -> Prompt:
        """Lay a conversation out, as a chat template and a tokenizer would."""
        ids, pictures = [], []
        for text in request.tools:
            ids += self._ids(text)
        for message in request.messages:
            ids += [TURN, *self._ids(message.role)]
            for part in message.parts:
                if isinstance(part, Image):
                    ids += [SEEN, IMAGE, SEEN_END]
                    pictures.append(self._patches(part.picture))
                else:
                    ids += self._ids(part.text)
            ids += [TURN_END]
        if request.continue_final_message:
            ids.pop()
        else:
            ids += [TURN, *self._ids("assistant")]
        return lay_out(np.array(ids), tuple(pictures), image_token_id=IMAGE)

    def forget(self) -> None:
        """Let go of kept pictures and prompts."""
        self._batch.forget()

    async def aclose(self) -> None:
        """End the model's thread."""
        opened, self._thread = self._thread, None
        thread = opened.close() if opened is not None else None
        if thread is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join)

    def _open(self) -> ModelThread:
        if self._thread is None:
            raise EngineUnavailable(self._name, "is closed; make another one")
        return self._thread

    def _ids(self, text: str) -> list[int]:
        chunks = (text[n : n + LETTERS_A_TOKEN] for n in range(0, len(text), LETTERS_A_TOKEN))
        span = self._vocabulary - OWN_IDS
        return [OWN_IDS + zlib.crc32(chunk.encode()) % span for chunk in chunks]

    def _patches(self, picture: Picture) -> Patches:
        side_px = _MERGE * self._patch_px
        rows, columns = (
            _MERGE * max(1, round(side / side_px)) for side in (picture.height_px, picture.width_px)
        )
        pixels = self._noise.expand(rows * columns, -1)
        return Patches(picture.digest, pixels, (1, rows, columns), _MERGE)
