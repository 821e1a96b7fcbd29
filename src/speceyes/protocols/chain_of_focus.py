"""Chain-of-Focus speaks here: it calls as DeepEyes does, and is shown more than it asked for.

A box is enlarged by half about its centre, the crop by two; a bad box brings the whole image. It
refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the wire format of CoF-7B (Qwen2.5-VL) and its published inference loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from speceyes.protocols.answers import ANSWER_END
from speceyes.protocols.boxes import BoxLimits, Corners, read_corners, shown_part, to_original
from speceyes.protocols.calls import (
    CALL,
    CALL_END,
    ZOOM,
    Unreadable,
    brief,
    label_of,
    raw_call,
    read_arguments,
    read_json,
)
from speceyes.protocols.openings import (
    opening,
    qwen_tools,
    repeated,
    user_text,
)
from speceyes.protocols.release import Release
from speceyes.protocols.tagged import first_action, spoken
from speceyes.protocols.turns import add_turn, add_words, tell
from speceyes.types import (
    Box,
    Budget,
    Conversation,
    Malformed,
    Observation,
    Query,
    Reply,
    Size,
    Text,
    ToolCall,
    View,
)

_BUDGET: Final = Budget(max_turns=6, max_tokens_per_turn=512)
_FORM: Final = f'{{"name": "{ZOOM}", "arguments": {{"bbox_2d": [x1, y1, x2, y2]}}}}'
_MAX_ASPECT: Final = 100.0

_SCHEMA: Final = {
    "type": "function",
    "function": {
        "name": ZOOM,
        "description": "Look closer at one part of the image: crop it to a box (bbox_2d), perhaps "
        "with a label of what is there.",
        "parameters": {
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The box to zoom into, as [x1, y1, x2, y2]: its top-left "
                    "corner (x1, y1), then its bottom-right corner (x2, y2).",
                },
                "label": {
                    "type": "string",
                    "description": "What the box holds (optional).",
                },
            },
            "required": ["bbox_2d"],
            "type": "object",
        },
        "args_format": "Format the arguments as a JSON object.",
    },
}
_SYSTEM: Final = f"You are a helpful assistant.\n\n{qwen_tools(_SCHEMA)}"
_INSTRUCTION: Final = (
    "Think first, then either call a tool, as often as you need to see more, or give the final "
    "answer. Keep strictly to this form: <think>...</think> <tool_call>...</tool_call> (if a tool "
    "is needed) or <answer>...</answer> (if none is)"
)
_LAST_TURN: Final = "\nThis is the last turn: call no tool, give your <answer>...</answer> now."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOfFocus(Release):
    """Speak with CoF-7B and its kin. Implements `types.ToolProtocol`.

    Boxes are read in pixels of the first view, also after a zoom. One that is no box, or reaches
    beyond the view, brings the whole image, as in the release; the call's `mistake` then says what
    was wrong with it. `size` is what the box measures in the view, times `crop_scale`.
    Units: `min_px` and `max_px` are areas of what the model sees; `min_side_px` is in original
    pixels. `system_prompt` and `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "chain-of-focus"
    stop: ClassVar[tuple[str, ...]] = (CALL_END, ANSWER_END)

    min_px: int = 112 * 112
    max_px: int = 3840 * 3840
    box_scale: float = 1.5
    crop_scale: float = 2.0
    min_side_px: int = 1
    budget: Budget = _BUDGET

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Show the tool, then the pictures, the question and how to answer."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        if self.user_prompt is not None:
            return opening(system, views, user_text(query, self.user_prompt, instruction=""))
        asked = user_text(query, None, instruction=_INSTRUCTION)
        return opening(system, views, f"Question: {asked}")

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply: whichever of call and answer comes first counts, after the thought."""
        action = first_action(reply, call=CALL)
        if not isinstance(action, str):
            return action
        try:
            return self._read_call(action, views[0])
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
        """Add what the model said, then the crop or the error, and the instruction again."""
        said = spoken(reply, outcome, call=CALL, end=CALL_END)
        words, images = tell(outcome)
        instruction = repeated(self.user_prompt, instruction=_INSTRUCTION)
        text = "\n".join(filter(None, (words, instruction)))
        return add_turn(conversation, said, (*images, Text(f"\n{text}" if images else text)))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that the tool is no longer there."""
        return add_words(conversation, _LAST_TURN)

    def _read_call(self, text: str, view: View) -> ToolCall:
        call = read_json(text, end=CALL_END, form=_FORM)
        arguments = read_arguments(call, name=ZOOM, form=_FORM)
        mistake, box = None, shown_part(view)
        try:
            corners = _within(read_corners(arguments, form=_FORM), view.picture.size)
        except Unreadable as error:
            if error.malformed.reason == "missing_argument":
                raise
            mistake = error.malformed.detail
        else:
            limits = BoxLimits(self.min_side_px, _MAX_ASPECT)
            corners = _scale(corners, self.box_scale, view.picture.size)
            box = to_original(corners, view.picture.size, view, limits=limits)
        made = {
            "box": box,
            "size": self._crop_size(box, view),
            "label": label_of(arguments),
            "mistake": mistake,
        }
        return ToolCall(ZOOM, made, raw=raw_call(text, CALL_END))

    def _crop_size(self, box: Box, view: View) -> Size:
        width_px, height_px = (
            max(1, round(self.crop_scale * length_px * seen_px / whole_px))
            for length_px, seen_px, whole_px in zip(
                box.size, view.picture.size, shown_part(view).size, strict=True
            )
        )
        # A view is not quite of its picture's aspect, and a thin box may become a thinner crop.
        thinnest = int(_MAX_ASPECT)
        return self.view_size(
            (max(width_px, -(-height_px // thinnest)), max(height_px, -(-width_px // thinnest)))
        )


def _within(corners: Corners, seen: Size) -> Corners:
    """Refuse a box that is not wholly inside the view. Raises: Unreadable."""
    x1, y1, x2, y2 = corners
    if x1 >= 0 and y1 >= 0 and x2 <= seen[0] and y2 <= seen[1]:
        return corners
    raise Unreadable(
        "bad_box",
        f"bbox_2d {brief(list(corners))} is not inside the image, which is "
        f"{seen[0]}x{seen[1]} pixels",
    )


def _scale(corners: Corners, scale: float, seen: Size) -> Corners:
    x1, y1, x2, y2 = corners
    more_x, more_y = (x2 - x1) * (scale - 1) / 2, (y2 - y1) * (scale - 1) / 2
    return (
        max(0, x1 - more_x),
        max(0, y1 - more_y),
        min(seen[0], x2 + more_x),
        min(seen[1], y2 + more_y),
    )
