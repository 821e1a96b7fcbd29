"""DeepEyes-V2 speaks here: it thinks, then writes Python as into a notebook, and is told as a user.

It refuses to know engines, pixels and how code is run: conversations and replies in, conversations
and code out. Source: the wire format of DeepEyesV2-7B (Qwen2.5-VL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from speceyes.notebook import Notebook
from speceyes.protocols.answers import ANSWER_END, thought_chars
from speceyes.protocols.code import CODE_END, FENCED, Brought, coded, read_code
from speceyes.protocols.openings import opening, user_text
from speceyes.protocols.release import Release
from speceyes.protocols.turns import add_turn, add_words
from speceyes.types import (
    Budget,
    Conversation,
    Image,
    Malformed,
    Observation,
    Query,
    Reply,
    Text,
    View,
)

_BUDGET: Final = Budget(max_turns=10, max_tokens_per_turn=2048)
_NOTEBOOK: Final = Notebook(picture_name="image_{number}", collects="shown")

_SYSTEM: Final = f"""You are an agent: keep going until the user's question is answered for good.

Solve the problem step by step. Where the answer cannot be told from the image at once, write \
Python into a Jupyter notebook to get more out of the image: zoom in, rotate, raise the contrast, \
measure, single out a part. What the code writes to stdout and stderr comes back to you, with all \
images that it shows by `plt.show()`. Plan before each piece of code, and weigh what it brought.

The images are there as PIL images, in order: image_1 is the first, image_2 the second, and so on. \
All code runs in one notebook, so what one piece defines, the next one still knows. It must end \
within seconds and need not write files.

Write all code in this form:
{FENCED}"""
_INSTRUCTION: Final = (
    "Think step by step, and write Python if you need to see more. Keep strictly to this form: "
    "<think>...</think> <code>...</code> (only if code is needed) or "
    "<think>...</think> <answer>...</answer>"
)
_LAST_TURN: Final = "\nThis is the last turn: write no code, give your <answer>...</answer> now."


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepEyesV2(Release):
    """Speak with DeepEyesV2-7B and its kin. Implements `types.ToolProtocol`.

    Originals are variables of the code; it shows images by `plt.show()`. Its web search is not
    offered. Units: `min_px` and `max_px` are areas of what the model sees. `system_prompt` and
    `user_prompt` None: our own words.
    """

    name: ClassVar[str] = "deepeyes-v2"
    stop: ClassVar[tuple[str, ...]] = (CODE_END, ANSWER_END)

    budget: Budget = _BUDGET
    notebook: Notebook = _NOTEBOOK

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Say what the notebook holds, then show the pictures, the question and how to answer."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        return opening(system, views, user_text(query, self.user_prompt, instruction=_INSTRUCTION))

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:  # noqa: ARG002 - code has no box
        """Read a reply: whichever of code and answer comes first counts, after the thought."""
        return read_code(reply, thought=thought_chars(reply))

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - other protocols repeat the question
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add what the model said, and what its code wrote and showed, as the user's turn."""
        brought = Brought.of(outcome)
        words = (
            f"Code execution result:\nstdout:\n```\n{brought.printed}\n```\n\n"
            f"stderr:\n```\n{brought.error}\n```\n\nImages:\n"
        )
        said = coded(reply, outcome, thought=thought_chars(reply))
        return add_turn(conversation, said, (Text(words), *map(Image, brought.pictures)))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that no more code is run."""
        return add_words(conversation, _LAST_TURN)
