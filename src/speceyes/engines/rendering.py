"""Rendering turns a conversation into text with the checkpoint's own chat template.

It refuses to know tokens and pixels. What stands in a message is data: a special token spelled out
there is marked, so that it will be read as plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

from jinja2 import TemplateError

from speceyes.errors import EngineProtocolError, InputError
from speceyes.types import Conversation, GenerateRequest, Message, Part, Text

# Two noncharacters of Unicode, which no text may hold: one for whoever marks, one of its own.
APART: Final = "\ufdd0"
_END: Final = "\ufdd1"
_NO_CHARACTER: Final = re.compile("[\ud800-\udfff\ufdd0\ufdd1]")  # these, and lone surrogates


class Renderer:
    """Render conversations with a tokenizer's or a processor's chat template.

    `special` are the tokens that mean something to the model; `apart` goes behind the first letter
    of one that a message spells out.
    Raises: InputError naming the field; EngineProtocolError if the template refuses.
    """

    def __init__(self, templated: Any, *, special: Iterable[str], apart: str, engine: str) -> None:
        self._templated = templated
        self._apart = apart
        self._engine = engine
        longest_first = sorted((s for s in special if len(s) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def render(self, request: GenerateRequest) -> str:
        """Write a conversation down, up to where the model is to go on."""
        messages = request.messages
        for part in (part for message in messages for part in message.parts):
            if isinstance(part, Text) and (found := _NO_CHARACTER.search(part.text)):
                raise InputError("messages", f"hold U+{ord(found[0]):04X}, which is no character")
        if request.continue_final_message:
            last = messages[-1]
            messages = (*messages[:-1], Message(last.role, (*last.parts, Text(_END))))
        goes_on = request.continue_final_message
        rendered = self._apply(messages, _schemas(request.tools), goes_on=goes_on)
        if request.tools and rendered == self._apply(messages, [], goes_on=goes_on):
            raise EngineProtocolError(
                self._engine,
                "its chat template shows no tools, so the model would not know of them; choose a "
                "protocol that words its tools itself",
            )
        if not goes_on:
            return rendered
        if _END not in rendered:
            raise EngineProtocolError(
                self._engine, f"its chat template leaves out the last message ({messages[-1].role})"
            )
        return rendered[: rendered.rindex(_END)]

    def _apply(self, messages: Conversation, tools: list[dict[str, Any]], *, goes_on: bool) -> str:
        try:
            rendered: str = self._templated.apply_chat_template(
                self._as_template_takes_it(messages),
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=not goes_on,
            )
        except TemplateError as error:  # templates refuse what their model was not trained for
            raise EngineProtocolError(
                self._engine, f"its chat template refuses the conversation: {error}"
            ) from error
        return rendered

    def _as_template_takes_it(self, messages: Conversation) -> list[dict[str, Any]]:
        return [
            {
                "role": message.role,
                "content": [
                    entry
                    for is_text, parts in groupby(message.parts, lambda p: isinstance(p, Text))
                    for entry in (self._text_entry(parts) if is_text else _image_entries(parts))
                ],
            }
            for message in messages
        ]

    def _text_entry(self, parts: Iterable[Any]) -> list[dict[str, str]]:
        # Neighbours are joined first: together they might spell a special token.
        text = "".join(part.text for part in parts)
        plain = self._special.sub(lambda found: found[0][0] + self._apart + found[0][1:], text)
        return [{"type": "text", "text": plain}]


def _schemas(tools: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        schemas = [json.loads(text) for text in tools]
    except (ValueError, RecursionError) as error:
        raise InputError("tools", f"hold a schema that is not JSON: {error}") from error
    if not all(isinstance(schema, dict) for schema in schemas):
        raise InputError("tools", "hold a schema that is no JSON object")
    return schemas


def _image_entries(parts: Iterable[Part]) -> list[dict[str, str]]:
    return [{"type": "image"} for _ in parts]
