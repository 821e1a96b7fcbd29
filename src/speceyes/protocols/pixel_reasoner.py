"""Pixel-Reasoner speaks here: it crops any image it has seen by number, and boxes its answer.

It refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the wire format of PixelReasoner-7B (Qwen2.5-VL) and its published rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from speceyes.protocols.answers import BOXED, read_boxed
from speceyes.protocols.boxes import BoxLimits, Corners, clip, read_corners, to_original
from speceyes.protocols.calls import (
    CALL,
    CALL_END,
    ZOOM,
    Unreadable,
    brief,
    close_call,
    index_of,
    raw_call,
    read_arguments,
    read_json,
)
from speceyes.protocols.openings import opening, qwen_tools, user_text
from speceyes.protocols.release import Release
from speceyes.protocols.resize import smart_resize
from speceyes.protocols.turns import add_turn, add_words, tell
from speceyes.types import (
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

CROP: Final = "crop_image_normalized"
# The release runs the calls of four turns, and takes the fifth for the last.
_BUDGET: Final = Budget(max_turns=5, max_tokens_per_turn=2048)
_FORM: Final = (
    f'{{"name": "{CROP}", "arguments": {{"bbox_2d": [x1, y1, x2, y2], "target_image": 1}}}}'
)

_SCHEMA: Final = {
    "type": "function",
    "function": {
        "name": CROP,
        "description": "Zoom into a part of an image, given by a box. Of use where an object or a "
        "text in the image is too small to be seen.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "description": "The box to zoom into, as [x1, y1, x2, y2]: its top-left "
                    "corner, then its bottom-right corner. Values should be within [0.0,1.0].",
                    "items": {"type": "number"},
                },
                "target_image": {
                    "type": "number",
                    "description": "Which image to crop, counted from 1 to the number of images; "
                    "1 is the original image.",
                },
            },
            "required": ["bbox_2d", "target_image"],
        },
    },
}
_SYSTEM: Final = f"You are a helpful assistant.\n\n{qwen_tools(_SCHEMA)}"
_INSTRUCTION: Final = (
    "\nGuidelines: Understand the image and the question. Decide whether the tool is of use here: "
    f"look closer at an image by `{CROP}`. Reason with what you see step by step, and put your "
    "final answer within \\boxed{}."
)
_LAST_TURN: Final = (
    "\nThis is the last turn: call no tool, put your final answer within \\boxed{} now."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelReasoner(Release):
    """Speak with PixelReasoner-7B. Implements `types.ToolProtocol`.

    Boxes run from 0 to 1 over the image that `target_image` names, counted from 1 over all that
    was seen; with a number above 1 among them, they are pixels of that image as the model saw it.
    Then `pad` of the whole image is added on each side.
    The release reads pixels from 1 on; but all numbers up to 1 are no box of pixels, so an edge at
    exactly 1 is here the image's.
    Units: `min_px`, `max_px` and `crop_min_px` are areas of what the model sees; `min_side_px` is
    in original pixels. `system_prompt` and `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "pixel-reasoner"
    stop: ClassVar[tuple[str, ...]] = ()  # of several calls the last counts: it ends turns itself

    min_px: int = 512 * 28 * 28
    max_px: int = 5120 * 28 * 28
    crop_min_px: int = 256 * 28 * 28
    pad: float = 0.1
    min_side_px: int = 28
    max_aspect: float = 200.0
    budget: Budget = _BUDGET

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Show the tool, then the pictures, the question and the guidelines."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        return opening(system, views, user_text(query, self.user_prompt, instruction=_INSTRUCTION))

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply: of calls and boxed answers the last one counts."""
        call_at, answer_at = reply.rfind(CALL), reply.rfind(BOXED)
        if call_at < 0 and answer_at < 0:
            return Malformed(
                "no_answer_no_call",
                f"the reply has neither {CALL} nor \\boxed{{}}; give one of them",
            )
        if answer_at > call_at:
            return read_boxed(reply)
        try:
            return self._read_call(reply[call_at + len(CALL) :], views)
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
        """Add what the model said, and the crop with its size, or the error."""
        call_at = reply.rfind(CALL)
        is_call = call_at >= 0 and not isinstance(outcome, Malformed)
        said = close_call(reply, call_at, CALL_END) if is_call else reply
        words, images = tell(outcome, mark="Execution Error: ")
        if images and not words:
            width_px, height_px = images[0].picture.size
            words = f"Here is the cropped image (Image Size: {width_px}x{height_px}):"
        return add_turn(conversation, said, (Text(f"\n{words}"), *images))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that the tool is no longer there."""
        return add_words(conversation, _LAST_TURN)

    def _read_call(self, text: str, views: tuple[View, ...]) -> ToolCall:
        call = read_json(text, end=CALL_END, form=_FORM)
        arguments = read_arguments(call, name=CROP, form=_FORM)
        found = read_corners(arguments, form=_FORM)
        view = _target(arguments, views)
        corners, was_clipped = _normalized(found, view.picture.size)
        limits = BoxLimits(self.min_side_px, self.max_aspect)
        box = to_original(_pad(corners, self.pad), (1, 1), view, limits=limits)
        size = smart_resize(
            box.size, factor=self.factor, min_px=self.crop_min_px, max_px=self.max_px
        )
        made = {"box": box, "size": size, "was_clipped": was_clipped}
        return ToolCall(ZOOM, made, raw=raw_call(text, CALL_END))


def _target(arguments: Mapping[str, Any], views: tuple[View, ...]) -> View:
    if "target_image" not in arguments:
        raise Unreadable("missing_argument", f"target_image is missing; write {_FORM}")
    number = index_of(arguments["target_image"])
    if number is None or not 1 <= number <= len(views):
        raise Unreadable(
            "bad_argument",
            f"target_image is {brief(arguments['target_image'])}; "
            f"it must be within [1, {len(views)}]",
        )
    return views[number - 1]


def _normalized(corners: Corners, seen: Size) -> tuple[Corners, bool]:
    if max(corners) <= 1:
        return clip(corners, (1, 1), image="the image, which goes from 0 to 1 both ways")
    width_px, height_px = seen
    image = f"the image, which is {width_px}x{height_px} pixels"
    (x1, y1, x2, y2), was_clipped = clip(corners, seen, image=image)
    return (x1 / width_px, y1 / height_px, x2 / width_px, y2 / height_px), was_clipped


def _pad(corners: Corners, pad: float) -> Corners:
    x1, y1, x2, y2 = corners
    return (max(x1 - pad, 0), max(y1 - pad, 0), min(x2 + pad, 1), min(y2 + pad, 1))
