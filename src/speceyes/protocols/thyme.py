"""Thyme speaks here: it writes Python in the middle of its thought and reads what came of it there.

It refuses to know engines, pixels and how code is run: conversations and replies in, conversations
and code out. Source: the wire format of Thyme-RL and Thyme-SFT (Qwen2.5-VL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from speceyes.notebook import OUTPUT_FOLDER, Notebook
from speceyes.protocols.answers import ANSWER, ANSWER_END
from speceyes.protocols.code import CODE_END, FENCED, Brought, coded, read_code
from speceyes.protocols.openings import opening, user_text
from speceyes.protocols.release import Release
from speceyes.protocols.turns import add_words
from speceyes.types import (
    Budget,
    Conversation,
    Image,
    Malformed,
    Message,
    Observation,
    Part,
    Query,
    Reply,
    Text,
    View,
)

_BUDGET: Final = Budget(max_turns=5, max_tokens_per_turn=2048)
_OUTPUT, _OUTPUT_END = "<sandbox_output>", "</sandbox_output>"
_NOTEBOOK: Final = Notebook(collects="printed")

_SYSTEM: Final = f"""You are a helpful assistant.

Solve the problem step by step. You may write Python code that works on the image (crop, resize, \
rotate, enhance) or calculates. It is run in a sandbox, and what it brings, an image or a result, \
comes back to you between {_OUTPUT} and {_OUTPUT_END}.

Write all code in this form:
{FENCED}
Save images in {OUTPUT_FOLDER}/. End the code by printing the path of the image it \
made, or the result. What one piece of code defines, the next one still knows."""
_FIELDS: Final = ("files",)
_USER: Final = """{question}

{files}

### **Output Format (keep strictly to it):**

<think>All your reasoning goes here, with the code if you write any.</think>
<answer>Your final answer goes here.</answer>"""

_LAST_TURN: Final = "\nThis is the last turn: write no code, give your <answer>...</answer> now."
_NOTHING: Final = "The code ran, but printed nothing: no path of an image, no result."
_LAST_WORDS: Final = "\nI can run no more code, so I answer from what I have seen."


@dataclass(frozen=True, slots=True, kw_only=True)
class Thyme(Release):
    """Speak with Thyme-RL, Thyme-SFT and their kin. Implements `types.ToolProtocol`.

    The code sees the originals, in their own pixels; the model sees the first views. What code
    brings stands in the model's own turn, which then goes on: images if there are any, or else
    what was printed, or how it failed. On the last turn the answer is opened for the model.
    Units: `min_px` and `max_px` are areas of what the model sees. `system_prompt` and
    `user_prompt` None: our own words; in a user prompt {files} is where paths and sizes belong.
    """

    name: ClassVar[str] = "thyme"
    stop: ClassVar[tuple[str, ...]] = (CODE_END, ANSWER_END)
    placeholders: ClassVar[tuple[str, ...]] = _FIELDS

    budget: Budget = _BUDGET
    notebook: Notebook = _NOTEBOOK

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Say how code is written, then show the pictures, ask, and say where their files are."""
        system = _SYSTEM if self.system_prompt is None else self.system_prompt
        template = _USER if self.user_prompt is None else self.user_prompt
        text = user_text(query, template, instruction="", more={"files": self._files(query)})
        return opening(system, views, text)

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:  # noqa: ARG002 - code has no box
        """Read a reply: whichever of code and answer comes first counts."""
        return read_code(reply)

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - other protocols repeat the question
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add to the model's turn what it said and what came of it; it goes on from there."""
        said = Text(f"{coded(reply, outcome)}{_OUTPUT}")
        return _go_on(conversation, (said, *_shown(Brought.of(outcome)), Text(_OUTPUT_END)))

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Close the thought and open the answer, as code would come to nothing."""
        if conversation[-1].role != "assistant":
            return add_words(conversation, _LAST_TURN)
        return _go_on(conversation, (Text(f"{_LAST_WORDS}</think>\n{ANSWER}"),))

    def _files(self, query: Query) -> str:
        return "\n".join(
            f'### User Image Path:** "{self.notebook.path_of(index, picture)}"\n'
            f'### User Image Size:** "{picture.width_px}x{picture.height_px}"'
            for index, picture in enumerate(query.pictures)
        )


def _shown(brought: Brought) -> tuple[Part, ...]:
    images = tuple(map(Image, brought.pictures))
    if images and not brought.error:
        return images  # what was printed are their paths
    error = f"Error: {brought.error}" if brought.error else ""
    words = "\n".join(filter(None, (brought.printed, error)))
    return (*images, Text(words or _NOTHING))


def _go_on(conversation: Conversation, parts: tuple[Part, ...]) -> Conversation:
    """Add to the model's own turn, or begin it; neighbouring words become one stretch."""
    *before, last = conversation
    if last.role == "assistant":
        conversation, parts = tuple(before), (*last.parts, *parts)
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return (*conversation, Message("assistant", tuple(joined)))
