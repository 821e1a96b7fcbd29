"""DeepEyes speaks here: it thinks, asks to zoom by a tagged JSON call, and answers in tags.

It refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the wire format of DeepEyes-7B (Qwen2.5-VL); the tool block is Qwen's chat template's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from speceyes.prompts import question_text
from speceyes.protocols.resize import enlarge_box, smart_resize
from speceyes.types import (
    Box,
    Budget,
    Conversation,
    FinalAnswer,
    Image,
    Malformed,
    MalformedReason,
    Message,
    Observation,
    Query,
    Reply,
    Size,
    Text,
    ToolCall,
    View,
)

ZOOM: Final = "image_zoom_in_tool"
_BUDGET: Final = Budget(max_turns=6, max_tokens_per_turn=512)
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_ANSWER, _ANSWER_END = "<answer>", "</answer>"
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

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{json.dumps(_SCHEMA)}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

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
class DeepEyes:
    """Speak with DeepEyes-7B and its kin. Implements `types.ToolProtocol`.

    Boxes are read in pixels of the first view, also after a zoom, and mapped to its original.
    A call's arguments: `box` to cut out, the `size` at which the model will see it, `label` or
    None, and `was_clipped` if the model's box reached beyond the picture.
    Units: `min_px` and `max_px` are areas of what the model sees; `min_side_px` is in original
    pixels, for the crop is cut from there.
    """

    min_px: int = 4 * 28 * 28
    max_px: int = 16384 * 28 * 28
    factor: int = 28
    min_side_px: int = 28
    max_aspect: float = 100.0
    budget: Budget = _BUDGET

    @property
    def name(self) -> str:
        """The protocol's name in settings and records."""
        return "deepeyes"

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a turn."""
        return (_CALL_END, _ANSWER_END)

    @property
    def tools(self) -> tuple[str, ...]:
        """None for the chat template: the opening words them itself."""
        return ()

    def view_size(self, size: Size) -> Size:
        """Give the size at which the model sees a picture of this size."""
        return smart_resize(size, factor=self.factor, min_px=self.min_px, max_px=self.max_px)

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Show the tool, then the pictures, the question and how to answer."""
        pictures = tuple(Image(view.picture) for view in views)
        asked = Text(f"{question_text(query)}\n{_INSTRUCTION}")
        return (Message("system", (Text(_SYSTEM),)), Message("user", (*pictures, asked)))

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply: whichever of call and answer comes first counts.

        A stop string would have ended the turn there, and what follows a call was said without
        having seen what it brings. Tags inside a thought that has ended are only thought of.
        """
        said = reply[_thought_chars(reply) :]
        call_at, answer_at = said.find(_CALL), said.find(_ANSWER)
        if call_at < 0 and answer_at < 0:
            return Malformed(
                "no_answer_no_call",
                f"the reply has neither {_CALL} nor {_ANSWER}; give one of them, with its tags",
            )
        if call_at < 0 or 0 <= answer_at < call_at:
            return _read_answer(said[answer_at : call_at if call_at >= 0 else None])
        return self._read_call(said[call_at + len(_CALL) :], views[0])

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - other protocols repeat the question
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add what the model said, as its own words, and what came of it, as the user's."""
        words = reply if isinstance(outcome, Malformed) else _up_to_call(reply)
        said = Message("assistant", (Text(words),))
        return (*conversation, said, Message("user", _response(outcome)))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that the tool is no longer there."""
        *before, last = conversation
        return (*before, Message(last.role, (*last.parts, Text(_LAST_TURN))))

    def _read_call(self, text: str, view: View) -> Reply:
        try:
            arguments = _arguments(_decode(text))
            corners, was_clipped = _corners(arguments, view.picture.size)
        except _Unreadable as error:
            return error.malformed
        box = self._to_original(corners, view)
        label = arguments.get("label")
        made = {
            "box": box,
            "size": self.view_size(box.size),
            "label": label if isinstance(label, str) else None,
            "was_clipped": was_clipped,
        }
        return ToolCall(ZOOM, made, raw=text.partition(_CALL_END)[0].strip())

    def _to_original(self, corners: tuple[float, ...], view: View) -> Box:
        whole = view.box_px
        box = enlarge_box(
            _outwards(corners, view.picture.size, whole.size),
            whole.size,
            min_side_px=self.min_side_px,
            max_aspect=self.max_aspect,
        )
        return Box(
            whole.left_px + box.left_px,
            whole.top_px + box.top_px,
            whole.left_px + box.right_px,
            whole.top_px + box.bottom_px,
            whole.picture_index,
        )


class _Unreadable(Exception):  # noqa: N818 - never leaves this file
    """A call that cannot be made, and what the model is told of it."""

    def __init__(self, reason: MalformedReason, detail: str) -> None:
        super().__init__(detail)
        self.malformed = Malformed(reason, detail)


def _response(outcome: Observation | Malformed) -> tuple[Text | Image, ...]:
    again = Text(f"\n{_INSTRUCTION}</tool_response>")
    if isinstance(outcome, Malformed):
        return (Text(f"<tool_response>Error: {outcome.detail}"), again)
    words = outcome.text if outcome.error is None else f"Error: {outcome.error}"
    return (Text(f"<tool_response>{words}"), *map(Image, outcome.pictures), again)


def _thought_chars(reply: str) -> int:
    """Count the characters of a leading thought that has an end."""
    if not reply.lstrip().startswith("<think>"):
        return 0
    thought, end, _ = reply.partition("</think>")
    return len(thought + end) if end else 0


def _up_to_call(reply: str) -> str:
    """Cut off what follows the call, and close its tag if an engine swallowed that."""
    call_at = reply.find(_CALL, _thought_chars(reply))
    if call_at < 0:
        return reply
    words, end, _ = reply[call_at:].partition(_CALL_END)
    return reply[:call_at] + (words if end else words.rstrip() + "\n") + _CALL_END


def _read_answer(text: str) -> FinalAnswer | Malformed:
    closed = text.rpartition(_ANSWER_END)[0] or text
    answer = closed.rpartition(_ANSWER)[2].partition(_ANSWER_END)[0]
    answer = _unbox(answer).strip()
    if not answer:
        return Malformed("empty_answer", f"there is nothing inside {_ANSWER}; say the answer there")
    return FinalAnswer(answer)


def _unbox(answer: str) -> str:
    """Take what stands in the last LaTeX box, whose braces may nest."""
    _, mark, rest = answer.rpartition("\\boxed{")
    if not mark:
        return answer
    depth = 1
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place]
    return rest


def _decode(text: str) -> dict[str, Any]:
    body, end, _ = text.partition(_CALL_END)
    # From the first brace on: code fences around it, and words after it, do no harm.
    _, brace, rest = body.partition("{")
    try:
        return dict(json.JSONDecoder().raw_decode(brace + rest)[0])
    except (ValueError, RecursionError) as error:
        is_whole = end or body.rstrip().endswith(("}", "```"))
        reason: MalformedReason = "bad_json" if is_whole else "truncated"
        detail = f"is not JSON ({error})" if is_whole else "breaks off"
    raise _Unreadable(reason, f"the call {detail}; write {_FORM}")


def _arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    name = call.get("name", call.get("function"))
    if name != ZOOM:
        raise _Unreadable("unknown_tool", f"there is no tool {_brief(name)}; there is {ZOOM} only")
    arguments = call.get("arguments")
    if isinstance(arguments, str):  # some chat templates quote them once more
        arguments = _decode(arguments + _CALL_END)
    if arguments is None:
        raise _Unreadable("missing_argument", f"the call has no arguments; write {_FORM}")
    if not isinstance(arguments, dict):
        raise _Unreadable("bad_argument", f"the arguments are not an object; write {_FORM}")
    return arguments


def _corners(arguments: Mapping[str, Any], seen: Size) -> tuple[tuple[float, ...], bool]:
    """Read the box in pixels of the view, clipped to it; say whether that changed it."""
    # The release's schema requires an argument "bbox" that it does not have.
    found = arguments.get("bbox_2d", arguments.get("bbox"))
    if found is None:
        raise _Unreadable("missing_argument", f"bbox_2d is missing; write {_FORM}")
    if not isinstance(found, list) or len(found) != 4 or not all(map(_is_finite, found)):
        raise _Unreadable(
            "bad_argument", f"bbox_2d is {_brief(found)}; it must be four numbers [x1, y1, x2, y2]"
        )
    x1, y1, x2, y2 = found
    if x1 >= x2 or y1 >= y2:
        raise _Unreadable("bad_box", f"bbox_2d {_brief(found)} must have x1 < x2 and y1 < y2")
    width_px, height_px = seen
    if x1 >= width_px or y1 >= height_px or x2 <= 0 or y2 <= 0:
        raise _Unreadable(
            "bad_box",
            f"bbox_2d {_brief(found)} is outside the image, which is {width_px}x{height_px} pixels",
        )
    clipped = [max(x1, 0), max(y1, 0), min(x2, width_px), min(y2, height_px)]
    return tuple(clipped), clipped != found


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _outwards(corners: tuple[float, ...], seen: Size, size: Size) -> Box:
    """Map a box from what was seen to its original size, outwards to whole pixels."""
    left_px, top_px = (
        min(math.floor(start * length_px / seen_px), length_px - 1)
        for start, seen_px, length_px in zip(corners[:2], seen, size, strict=True)
    )
    right_px, bottom_px = (
        min(math.ceil(end * length_px / seen_px), length_px)
        for end, seen_px, length_px in zip(corners[2:], seen, size, strict=True)
    )
    return Box(left_px, top_px, max(right_px, left_px + 1), max(bottom_px, top_px + 1))


def _brief(value: object, chars: int = 60) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:  # a little less deep than what could not be read at all
        return "nested too deep"
    return text if len(text) <= chars else f"{text[:chars]}..."
