"""Qwen3-VL speaks here: its chat template shows the tool, and tools answer in their own role.

Calls are text in a conversation, JSON between tags as the template writes them; an engine over
HTTP translates them to the server's own form and back. It refuses to know engines and pixels.
Source: the image zoom of Qwen-Agent for Qwen3-VL, and the chat template of Qwen3-VL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from speceyes.protocols.answers import ANSWER, read_plain, read_tagged, thought_chars
from speceyes.protocols.boxes import BoxLimits, clip, read_corners, to_original
from speceyes.protocols.calls import (
    CALL,
    CALL_END,
    ZOOM,
    Unreadable,
    brief,
    close_call,
    index_of,
    label_of,
    raw_call,
    read_arguments,
    read_json,
)
from speceyes.protocols.openings import opening, user_text
from speceyes.protocols.release import Release
from speceyes.protocols.resize import smart_resize
from speceyes.protocols.turns import add_turn, add_words, tell
from speceyes.types import (
    Budget,
    Conversation,
    Malformed,
    Observation,
    Part,
    Query,
    Reply,
    Role,
    Text,
    ToolCall,
    View,
)

_BUDGET: Final = Budget(max_turns=12, max_tokens_per_turn=2048)
_ARGUMENTS: Final = ("bbox_2d", "label", "img_idx")
_UNITS: Final = 1000  # both ways, whatever the image's shape
_FORM: Final = (
    f'{{"name": "{ZOOM}", "arguments": '
    '{"bbox_2d": [x1, y1, x2, y2], "label": "what it is", "img_idx": 0}}'
)

_SCHEMA: Final = {
    "type": "function",
    "function": {
        "name": ZOOM,
        "description": "Look closer at one part of an image: crop it to a box (bbox_2d), with a "
        "label of what is there.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The box to zoom into, as [x1, y1, x2, y2] from 0 to 1000: its "
                    "top-left corner (x1, y1), then its bottom-right corner (x2, y2).",
                },
                "label": {
                    "type": "string",
                    "description": "What the box holds.",
                },
                "img_idx": {
                    "type": "number",
                    "description": "Which image to zoom into, counted from 0.",
                },
            },
            "required": list(_ARGUMENTS),
        },
    },
}
_SYSTEM: Final = (
    "You answer questions about images. Look at the whole image first. Where a detail is too small "
    f"to be sure of, zoom in on it by {ZOOM}, as often as you need. Images are counted from 0 in "
    "the order in which you see them, those that the tool shows you included. Once you are sure, "
    "call no tool and give only the final answer."
)
_LAST_TURN: Final = "\nThis is the last turn: call no tool, give only the final answer now."


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3VL(Release):
    """Speak with Qwen3-VL of any size. Implements `types.ToolProtocol`.

    Boxes run from 0 to 1000 over the image that `img_idx` names, counted from 0 over all that was
    seen. A reply without a call is the answer. An error about a call that can be read is the
    tool's turn; about anything else the user's, as there is no call that it would answer.
    The release says nothing of turns and tokens: the budget is ours.
    Units: `min_px`, `max_px`, `crop_min_px` and `crop_max_px` are areas of what the model sees;
    `min_side_px` is in original pixels. `system_prompt` and `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "qwen3-vl"
    stop: ClassVar[tuple[str, ...]] = (CALL_END,)  # an answer ends by itself

    min_px: int = 64 * 32 * 32
    max_px: int = 16384 * 32 * 32
    crop_min_px: int = 256 * 32 * 32
    crop_max_px: int = 12544 * 32 * 32
    factor: int = 32
    min_side_px: int = 32
    max_aspect: float = 200.0
    budget: Budget = _BUDGET

    @property
    def tools(self) -> tuple[str, ...]:
        """The zoom tool's schema, for the chat template or the server to show."""
        return (json.dumps(_SCHEMA),)

    @property
    def form(self) -> str:
        """How a right call looks, for a model that wrote a wrong one."""
        return _FORM

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Say when to zoom, then show the pictures and ask the question."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        return opening(system, views, user_text(query, self.user_prompt, instruction=""))

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply: the first call, or else the answer; the template may open the thought."""
        said = reply[thought_chars(reply, is_opened=True) :]
        call_at, answer_at = said.find(CALL), said.find(ANSWER)
        if answer_at >= 0 and not 0 <= call_at < answer_at:
            return read_tagged(said[answer_at : call_at if call_at >= 0 else None])
        if call_at < 0:
            return read_plain(said)
        try:
            return self._read_call(said[call_at + len(CALL) :], views)
        except Unreadable as error:
            return error.malformed

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - other protocols repeat the question
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add what the model said, and the crop or the error as the tool's turn."""
        call_at = reply.find(CALL, thought_chars(reply, is_opened=True))
        words, images = tell(outcome)
        told: tuple[Part, ...] = (*images, Text(words)) if words or not images else images
        role: Role = "user"
        if call_at >= 0 and self._is_call(reply[call_at + len(CALL) :]):
            reply, role = close_call(reply, call_at, CALL_END), "tool"
        return add_turn(conversation, reply, told, role=role)

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Say, as the user, that the tool is no longer there."""
        return add_words(conversation, _LAST_TURN)

    def read_call(self, text: str) -> Mapping[str, Any]:
        """Read a call, as far as its closing tag, into name and arguments. Raises: Unreadable."""
        return read_json(text, end=CALL_END, form=self.form)

    def _is_call(self, text: str) -> bool:
        try:
            call = self.read_call(text)
        except Unreadable:
            return False
        return isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)

    def _read_call(self, text: str, views: tuple[View, ...]) -> ToolCall:
        arguments = read_arguments(self.read_call(text), name=ZOOM, form=self.form)
        missing = [name for name in _ARGUMENTS if arguments.get(name) is None]
        if missing:
            raise Unreadable("missing_argument", f"{missing[0]} is missing; write {self.form}")
        found = read_corners(arguments, form=self.form)
        index = index_of(arguments["img_idx"])
        if index is None or not 0 <= index < len(views):
            raise Unreadable(
                "bad_argument",
                f"img_idx is {brief(arguments['img_idx'])}; images go from 0 to {len(views) - 1}",
            )
        extent = (_UNITS, _UNITS)
        corners, was_clipped = clip(
            found, extent, image=f"the image, which goes from 0 to {_UNITS} both ways"
        )
        limits = BoxLimits(self.min_side_px, self.max_aspect)
        box = to_original(corners, extent, views[index], limits=limits)
        made = {
            "box": box,
            "size": smart_resize(
                box.size, factor=self.factor, min_px=self.crop_min_px, max_px=self.crop_max_px
            ),
            "label": label_of(arguments),
            "was_clipped": was_clipped,
        }
        return ToolCall(ZOOM, made, raw=raw_call(text, CALL_END))
