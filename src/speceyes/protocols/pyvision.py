"""PyVision speaks here: it writes Python, is told what came of it as a user, and boxes its answer.

It refuses to know engines, pixels and how code is run: conversations and replies in, conversations
and code out. Source: the wire format of PyVision, whose models are any that write code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from speceyes.notebook import Notebook
from speceyes.protocols.answers import ANSWER, ANSWER_END, BOXED, read_boxed, thought_chars
from speceyes.protocols.code import CODE, CODE_END, FENCED, Brought, coded, read_code
from speceyes.protocols.openings import user_text
from speceyes.protocols.release import Release
from speceyes.protocols.turns import add_turn, add_words, count_images
from speceyes.types import (
    Budget,
    Conversation,
    Image,
    Malformed,
    Message,
    Observation,
    Part,
    Picture,
    Query,
    Reply,
    Text,
    View,
)

_BUDGET: Final = Budget(max_turns=10, max_tokens_per_turn=2048)
_NOTEBOOK: Final = Notebook(picture_name="image_clue_{number}", first_number=0, collects="shown")

_FORM: Final = f"{ANSWER}\n\\boxed{{the final answer}}\n{ANSWER_END}"
_RULES: Final = f"""You are an agent: keep going until the user's question is answered for good.

Solve the problem step by step. You may write Python code, which is run in a sandbox. Use it to \
look at the images more closely or to change them wherever that helps: zoom in, rotate, raise the \
contrast, measure, single out a part. Plan before each piece of code, and weigh what it brought.

The images are there as PIL images: the global variable `image_clue_i` holds the i-th, counted \
from 0. Show images by plt.show(), without saving them; print() what you want to know. What comes \
back to you stands between <interpreter> and </interpreter>. What one piece of code defines, the \
next one still knows.

Write all code in this form:
{FENCED}
End with your answer in this form:
{_FORM}

*user question:*
"""
_INSTRUCTION: Final = f"\nRemember the form of the answer:\n{_FORM}"
_LAST_TURN: Final = f"\nThis is the last turn: write no code, give your answer now:\n{_FORM}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PyVision(Release):
    """Speak PyVision with any model that writes code. Implements `types.ToolProtocol`.

    Originals are variables of the code, counted from 0 as they are announced; what the code shows
    is announced on from there. There is no system message unless `system_prompt` is given, and a
    `user_prompt` replaces all our words but for the sizes. The release bounds neither turns nor
    views, so the budget is ours, and the views are those of Qwen2.5-VL.
    Units: `min_px` and `max_px` are areas of what the model sees.
    """

    name: ClassVar[str] = "pyvision"
    stop: ClassVar[tuple[str, ...]] = (CODE_END, ANSWER_END)

    budget: Budget = _BUDGET
    notebook: Notebook = _NOTEBOOK

    def opening(self, query: Query, views: tuple[View, ...]) -> Conversation:
        """Announce the pictures and their sizes, say how code is written, and ask."""
        sizes = "\n".join(
            f"width of image_clue_{place}: {picture.width_px}, "
            f"height of image_clue_{place}: {picture.height_px}"
            for place, picture in enumerate(query.pictures)
        )
        rules = _RULES if self.user_prompt is None else ""
        text = user_text(query, self.user_prompt, instruction=_INSTRUCTION)
        shown = _announced([view.picture for view in views], first=0)
        user = Message("user", (*shown, Text(f"\n\n*image resolution:*\n{sizes}\n\n{rules}{text}")))
        system = self.system_prompt
        return (Message("system", (Text(system),)), user) if system else (user,)

    def parse(self, reply: str, views: tuple[View, ...]) -> Reply:  # noqa: ARG002 - code has no box
        """Read a reply: whichever of code and answer comes first counts, after the thought."""
        said = reply[thought_chars(reply) :]
        if BOXED in said and not any(tag in said for tag in (CODE, ANSWER)):
            return read_boxed(said)
        return read_code(said)

    def proceed(
        self,
        query: Query,  # noqa: ARG002 - other protocols repeat the question
        conversation: Conversation,
        *,
        reply: str,
        outcome: Observation | Malformed,
    ) -> Conversation:
        """Add what the model said, and what its code printed and showed, as the user's turn."""
        said = coded(reply, outcome, thought=thought_chars(reply))
        told = _told(Brought.of(outcome), first=count_images(conversation))
        return add_turn(conversation, said, told)

    def force_answer(self, query: Query, conversation: Conversation) -> Conversation:  # noqa: ARG002
        """Add to the last user turn that no more code is run."""
        return add_words(conversation, _LAST_TURN)


def _told(brought: Brought, *, first: int) -> tuple[Part, ...]:
    words = "\n".join(filter(None, (brought.printed, brought.error)))
    if brought.error and not brought.pictures:
        return (Text(f"<interpreter>{words}</interpreter>\n"),)
    images = tuple(_announced(brought.pictures, first=first)) or (Text("None"),)
    opened = Text(f"<interpreter>\nText Result:\n{words or 'None'}\nImage Result:\n")
    return (opened, *images, Text("</interpreter>\n"))


def _announced(pictures: Iterable[Picture], *, first: int) -> Iterator[Part]:
    for number, picture in enumerate(pictures, first):
        yield Text(f"<image_clue_{number}>")
        yield Image(picture)
        yield Text(f"</image_clue_{number}>")
