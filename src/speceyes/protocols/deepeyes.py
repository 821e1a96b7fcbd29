"""DeepEyes speaks here: it thinks, asks to zoom by a tagged JSON call, and answers in tags.

It refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the wire format of DeepEyes-7B (Qwen2.5-VL); the tool block is Qwen's chat template's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Final

from speceyes.protocols.answers import ANSWER_END
from speceyes.protocols.boxes import BoxLimits, clip, read_corners, to_original
from speceyes.protocols.calls import (
    CALL,
    CALL_END,
    ZOOM,
    Unreadable,
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
    Budget,
    Conversation,
    Image,
    Malformed,
    Observation,
    Query,
    Reply,
    Text,
    ToolCall,
    View,
)

_BUDGET: Final = Budget(max_turns=6, max_tokens_per_turn=512)
_FORM: Final = f'{{"name": "{ZOOM}", "arguments": {{"bbox_2d": [x1, y1, x2, y2]}}}}'

_SCHEMA: Final = {
    "type": "function",
    "function": {
        "name": ZOOM,
        "description": "Look closer at one part of the image: crop it to a box, perhaps with a "
        "label of what is there.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The box to zoom into, as [x1, y1, x2, y2] in pixels of the "
                    "first image: its top-left corner, then its bottom-right corner.",
                },
                "label": {
                    "type": "string",
                    "description": "What the box holds (optional).",
                },
            },
            "required": ["bbox_2d"],
        },
    },
}
_EXAMPLE: Final = {
    "name": ZOOM,
    "arguments": {"bbox_2d": [40, 60, 160, 220], "label": "the cup on the table"},
}
_SYSTEM: Final = f"""You are a helpful assistant.

{qwen_tools(_SCHEMA)}

For example:
<tool_call>
{json.dumps(_EXAMPLE)}
</tool_call>"""
_INSTRUCTION: Final = (
    f"Think first, call {ZOOM} if you need to see more, then answer. Keep strictly to this form: "
    "<think>...</think> <tool_call>...</tool_call> (only if the tool is needed) "
    "<answer>...</answer>"
)
_LAST_TURN: Final = "\nThis is the last turn: call no tool, give your <answer>...</answer> now."


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepEyes(Release):
    """Speak with DeepEyes-7B and its kin. Implements `types.ToolProtocol`.

    Boxes are read in pixels of the first view, also after a zoom, and mapped to its original.
    A call's arguments: `box` to cut out, the `size` at which the model will see it, `label` or
    None, and `was_clipped` if the model's box reached beyond the picture.
    Units: `min_px` and `max_px` are areas of what the model sees; `min_side_px` is in original
    pixels, for the crop is cut from there. `system_prompt` and `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "deepeyes"
    stop: ClassVar[tuple[str, ...]] = (CALL_END, ANSWER_END)

    min_side_px: int = 28
    max_aspect: float = 100.0
    budget: Budget = _BUDGET

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Show the tool, then the pictures, the question and how to answer."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        return opening(system, views, user_text(query, self.user_prompt, instruction=_INSTRUCTION))

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
        """Add what the model said, as its own words, and what came of it, as the user's."""
        said = spoken(reply, outcome, call=CALL, end=CALL_END)
        return add_turn(conversation, said, self._response(outcome))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that the tool is no longer there."""
        return add_words(conversation, _LAST_TURN)

    def _read_call(self, text: str, view: View) -> ToolCall:
        call = read_json(text, end=CALL_END, form=_FORM)
        arguments = read_arguments(call, name=ZOOM, form=_FORM)
        # The release's schema requires an argument "bbox" that it does not have.
        found = read_corners(arguments, form=_FORM, names=("bbox_2d", "bbox"))
        width_px, height_px = seen = view.picture.size
        image = f"the image, which is {width_px}x{height_px} pixels"
        corners, was_clipped = clip(found, seen, image=image)
        limits = BoxLimits(self.min_side_px, self.max_aspect)
        box = to_original(corners, seen, view, limits=limits)
        made = {
            "box": box,
            "size": self.view_size(box.size),
            "label": label_of(arguments),
            "was_clipped": was_clipped,
        }
        return ToolCall(ZOOM, made, raw=raw_call(text, CALL_END))

    def _response(self, outcome: Observation | Malformed) -> tuple[Text | Image, ...]:
        instruction = repeated(self.user_prompt, instruction=_INSTRUCTION)
        words, images = tell(outcome)
        return (
            Text(f"<tool_response>{words}"),
            *images,
            Text(f"\n{instruction}</tool_response>"),
        )
