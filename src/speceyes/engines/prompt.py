"""A prompt is a conversation as the language model takes it: token ids, pictures, positions.

It refuses to know the weights. The chat template is the checkpoint's own; what stands in a message
is data: a special token spelled out there is read as plain text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speceyes.engines.patches import PatchCutter, Patches
from speceyes.engines.prefixes import Marks, picture_mark, text_marks
from speceyes.engines.rendering import APART, Renderer
from speceyes.errors import ContextTooLong, EngineProtocolError, InputError
from speceyes.types import GenerateRequest, Image


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Hold one conversation, laid out in tokens.

    Shapes: `token_ids` (T,), an image token for every place of a picture; `image_places` (M,),
    where those are; `positions` (3, T): frame, row and column of each token in rotary units;
    `marks` (T, 2): what tells tokens apart, pictures included.
    """

    token_ids: npt.NDArray[np.int64]
    image_places: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    next_position: int
    marks: Marks
    pictures: tuple[Patches, ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    def pictures_after(self, past: int) -> Iterator[tuple[Patches, npt.NDArray[np.int64], int]]:
        """Give each picture with tokens from there on: it, their places, how many lie before."""
        done = 0
        for picture in self.pictures:
            places = self.image_places[done : done + picture.token_count]
            done += picture.token_count
            skipped = int(np.searchsorted(places, past))
            if skipped < len(places):
                yield picture, places[skipped:], skipped


class PromptWriter:
    """Write prompts for one checkpoint; called from many threads at once.

    Raises: InputError naming the field; PictureError; ContextTooLong; EngineProtocolError if the
    chat template leaves out what the conversation holds.
    """

    def __init__(
        self,
        tokenizer: Any,
        cutter: PatchCutter,
        *,
        engine: str,
        image_token_id: int,
        max_tokens: int,
    ) -> None:
        self._encoder = tokenizer.backend_tokenizer
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self._cutter = cutter
        self._engine = engine
        self._image_token_id = image_token_id
        self._max_tokens = max_tokens
        self._renderer = Renderer(
            tokenizer,
            special=[str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special],
            apart=APART,
            engine=engine,
        )

    def write(self, request: GenerateRequest) -> Prompt:
        """Render, tokenise and lay out a conversation, and cut its pictures into patches."""
        pieces = self._renderer.render(request).split(APART)
        token_ids = [
            token_id
            for piece in pieces
            for token_id in self._encoder.encode(piece, add_special_tokens=False).ids
        ]
        if not token_ids:
            raise EngineProtocolError(self._engine, "its chat template makes nothing of it")
        images = [p.picture for m in request.messages for p in m.parts if isinstance(p, Image)]
        shown = token_ids.count(self._image_token_id)
        if shown != len(images):
            raise EngineProtocolError(
                self._engine,
                f"its chat template shows {shown} of {len(images)} pictures; "
                "does it take pictures in every role used?",
            )
        self._check_length(len(token_ids))
        pictures = tuple(self._cutter.cut(picture) for picture in images)
        self._check_length(len(token_ids) + sum(p.token_count - 1 for p in pictures))
        ids = np.array(token_ids, dtype=np.int64)
        return lay_out(ids, pictures, image_token_id=self._image_token_id)

    def _check_length(self, count: int) -> None:
        if count >= self._max_tokens:
            raise ContextTooLong(
                self._engine,
                f"the conversation has {count} tokens or more, its context {self._max_tokens}, "
                "and the answer needs some too; send fewer or smaller pictures, or less text",
            )


def lay_out(
    token_ids: npt.NDArray[np.int64], pictures: tuple[Patches, ...], *, image_token_id: int
) -> Prompt:
    """Give every picture its places, and every token its position.

    Text counts on by one, on all three axes alike. A picture's tokens share its start, plus their
    frame, row and column; text goes on after its longer side.
    Shapes: token_ids (T0,) with one image token per picture.
    Source: arXiv 2409.12191 section 2.1 (M-RoPE); transformers Qwen2VLModel.get_rope_index.
    """
    ids, positions, places, marks = [], [], [], []
    start = length = done = 0
    found = np.flatnonzero(token_ids == image_token_id).tolist()
    for at, picture in zip(found, pictures, strict=True):
        grid, count = picture.token_grid, picture.token_count
        ids.append(token_ids[done:at])
        marks.append(text_marks(token_ids[done:at]))
        positions.append(_text_positions(start, at - done))
        start, length, done = start + at - done, length + at - done, at + 1
        ids.append(np.full(count, image_token_id, dtype=np.int64))
        marks.append(picture_mark(picture.digest).repeat(count, axis=0))
        positions.append(np.indices(grid).reshape(3, count) + start)
        places.append(np.arange(length, length + count))
        start, length = start + max(grid[1:]), length + count
    ids.append(token_ids[done:])
    marks.append(text_marks(token_ids[done:]))
    positions.append(_text_positions(start, len(token_ids) - done))
    return Prompt(
        token_ids=np.concatenate(ids),
        image_places=np.concatenate([np.empty(0, dtype=np.int64), *places]),
        positions=np.concatenate(positions, axis=1),
        next_position=start + len(token_ids) - done,
        marks=np.concatenate(marks),
        pictures=pictures,
    )


def check_request(request: GenerateRequest) -> None:
    """Refuse what no engine could do. Raises: InputError naming the field."""
    if not request.messages:
        raise InputError("messages", "is empty; there is nothing to go on with")
    if request.max_tokens < 1:
        raise InputError("max_tokens", f"{request.max_tokens} is below 1")
    if request.top_logprobs < 0:
        raise InputError("top_logprobs", f"{request.top_logprobs} is below 0")
    if not all(request.stop):
        raise InputError("stop", "has an empty string, which would stop everything")
    if request.continue_final_message and request.messages[-1].role != "assistant":
        raise InputError("continue_final_message", "asks for a last message of the assistant")


def _text_positions(start: int, count: int) -> npt.NDArray[np.int64]:
    return np.broadcast_to(np.arange(start, start + count), (3, count))
