"""Mini-o3 speaks here: it grounds a box in the original image or in any of its observations.

It refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the wire format of Mini-o3-7B (Qwen2.5-VL) and its published rollout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from speceyes.protocols.boxes import BoxLimits, clip, count_originals, read_corners, to_original
from speceyes.protocols.calls import ZOOM, Unreadable, brief, raw_call, read_json
from speceyes.protocols.openings import opening, user_text
from speceyes.protocols.release import Release
from speceyes.protocols.tagged import first_action, spoken
from speceyes.protocols.turns import add_turn, add_words, count_images, count_turns, tell
from speceyes.types import (
    Budget,
    Conversation,
    Malformed,
    Observation,
    Part,
    Query,
    Reply,
    Text,
    ToolCall,
    View,
)

GROUND, GROUND_END = "<grounding>", "</grounding>"
_ORIGINAL: Final = "original_image"
_OBSERVATION: Final = re.compile(r"observation_(\d{1,6})", re.ASCII)
# The release allows 6 turns in training and 12 in evaluation, of 8192 tokens in all.
_BUDGET: Final = Budget(max_turns=12, max_tokens_per_turn=2048)
_FORM: Final = f'{GROUND}{{"bbox_2d": [x0, y0, x1, y1], "source": "{_ORIGINAL}"}}{GROUND_END}'

_SYSTEM: Final = (
    "You are a helpful assistant. Answer the question about the image. Think within <think> and "
    "</think>. Where anything is unclear, zoom into a part of the image by writing "
    f"{_FORM}, where (x0, y0) is the part's top-left corner and (x1, y1) its bottom-right corner, "
    "the whole image being 1.0 wide and 1.0 high, and 'source' is the image to zoom into: "
    f"'{_ORIGINAL}', or 'observation_i' for the i-th part that you were shown. Once you are sure "
    "of the final answer, put it within <answer> and </answer>."
)
_GO_ON: Final = (
    "Go on thinking within <think> and </think>. If you need to see more, zoom into the original "
    f"image or any observation by {GROUND} and {GROUND_END}, as before. Once you are sure of the "
    "final answer, put it within <answer> and </answer>."
)
_LAST_TURN: Final = (
    "\nThis is the last turn: do not zoom, put your final answer within <answer> and </answer> now."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniO3(Release):
    """Speak with Mini-o3-7B. Implements `types.ToolProtocol`.

    Boxes run from 0 to 1 over the image that `source` names: the first original, or the i-th
    observation, counted from 1. Actions are counted from 0, as in the release.
    Units: `min_px` and `max_px` are areas of what the model sees; `min_side_px` is in original
    pixels. `system_prompt` and `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "mini-o3"
    stop: ClassVar[tuple[str, ...]] = (GROUND_END,)  # an answer ends by itself

    min_px: int = 40_000
    max_px: int = 2_000_000
    min_side_px: int = 1
    max_aspect: float = 200.0
    budget: Budget = _BUDGET

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Say how to zoom, then show the pictures and ask the question."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        return opening(system, views, user_text(query, self.user_prompt, instruction=""))

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:
        """Read a reply: whichever of call and answer comes first counts, after the thought."""
        action = first_action(reply, call=GROUND)
        if not isinstance(action, str):
            return action
        try:
            return self._read_call(action, views)
        except Unreadable as error:
            return error.malformed

    def proceed(
        self,
        query: Query,
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add what the model said, and the observation by its number, or the error."""
        said = spoken(reply, outcome, call=GROUND, end=GROUND_END, glue="")
        words, images = tell(outcome)
        if not images:
            return add_turn(conversation, said, (Text(f"{words}\n{_GO_ON}"),))
        action = count_turns(conversation)
        # Only what was shown has a number: an action that failed brought no observation.
        number = count_images(conversation) - len(query.pictures) + 1
        shown = f"After the above Action {action}, here is the zoom-in image (Observation {number})"
        after = "\n".join(filter(None, (words, _GO_ON)))
        told: tuple[Part, ...] = (Text(f"{shown}:\n"), *images, Text(f"\n{after}"))
        return add_turn(conversation, said, told)

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that zooming is over."""
        return add_words(conversation, _LAST_TURN)

    def _read_call(self, text: str, views: tuple[View, ...]) -> ToolCall:
        arguments = read_json(text, end=GROUND_END, form=_FORM)
        found = read_corners(arguments, form=_FORM)
        view = _source(arguments, views)
        corners, was_clipped = clip(
            found, (1, 1), image="the image, which goes from 0 to 1 both ways"
        )
        limits = BoxLimits(self.min_side_px, self.max_aspect)
        box = to_original(corners, (1, 1), view, limits=limits)
        made = {"box": box, "size": self.view_size(box.size), "was_clipped": was_clipped}
        return ToolCall(ZOOM, made, raw=raw_call(text, GROUND_END))


def _source(arguments: Mapping[str, Any], views: tuple[View, ...]) -> View:
    if "source" not in arguments:
        raise Unreadable("missing_argument", f"source is missing; write {_FORM}")
    source = arguments["source"]
    if source == _ORIGINAL:
        return views[0]
    observations = views[count_originals(views) :]
    number = _OBSERVATION.fullmatch(source) if isinstance(source, str) else None
    if number is not None and 1 <= int(number[1]) <= len(observations):
        return observations[int(number[1]) - 1]
    known = [_ORIGINAL, *(f"observation_{n}" for n in range(1, len(observations) + 1))]
    raise Unreadable(
        "bad_argument", f"there is no source {brief(source)}; there is {', '.join(known)}"
    )
