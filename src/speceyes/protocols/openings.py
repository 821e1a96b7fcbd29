"""An opening is put together here: what the system says, the pictures, the question, what to do.

The words are the protocol's own or, where given, a release's, taken as they are. It refuses to
know how replies are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from speceyes.errors import ConfigError
from speceyes.prompts import options_text, question_text
from speceyes.types import Conversation, Image, Message, Query, Text, View

_FIELDS: Final = ("question", "options")
# A brace that is no placeholder stands for itself, and {{word}} for {word}: releases write JSON.
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")


def check_user_prompt(template: str | None, *, more: tuple[str, ...] = ()) -> None:
    """Refuse a user prompt that cannot be filled in; `more` are placeholders of one's own.

    Raises: ConfigError naming the field.
    """
    if template is None:
        return
    found = [match[2] for match in _PLACEHOLDER.finditer(template) if match[2]]
    unknown = [name for name in found if name not in (*_FIELDS, *more)]
    if unknown:
        *others, last = (f"{{{name}}}" for name in (*_FIELDS, *more))
        raise ConfigError(
            "user_prompt",
            f"has a placeholder {{{unknown[0]}}}; there are {', '.join(others)} and {last} only "
            f"(write {{{{{unknown[0]}}}}} for the plain word in braces)",
        )
    if "question" not in found:
        raise ConfigError("user_prompt", "has no {question}; put it where the question belongs")


def user_text(
    query: Query,
    template: str | None,
    *,
    instruction: str,
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Ask the question: in a release's own words, or plainly, with the instruction after it.

    Options come with the question unless the template has a place of their own for them; what
    `more` says by name comes at the end, each in a line of its own, unless it has a place.
    """
    if template is None:
        return f"{question_text(query)}\n{instruction}" if instruction else question_text(query)
    names = [match[2] for match in _PLACEHOLDER.finditer(template)]
    apart = "options" in names
    filling = {
        "question": query.question.strip() if apart else question_text(query),
        "options": options_text(query),
        **more,
    }
    filled = _PLACEHOLDER.sub(
        lambda found: filling[found[2]] if found[2] else f"{{{found[1]}}}", template
    )
    return "\n".join((filled, *(text for name, text in more.items() if name not in names)))


def repeated(template: str | None, *, instruction: str) -> str:
    """Give what is said again after each observation: the user prompt from its question on."""
    if template is None:
        return instruction
    *_, last = (found for found in _PLACEHOLDER.finditer(template) if found[2])
    return _PLACEHOLDER.sub(lambda found: f"{{{found[1]}}}", template[last.end() :]).strip()


def opening(system: str, views: tuple[View, ...], text: str) -> Conversation:
    """Show the pictures, then ask; an empty system text is no message at all."""
    pictures = tuple(Image(view.picture) for view in views)
    user = Message("user", (*pictures, Text(text)))
    return (Message("system", (Text(system),)), user) if system else (user,)


def qwen_tools(*schemas: Mapping[str, Any]) -> str:
    """Show tools the way the chat template of Qwen2.5 and Qwen3-VL does."""
    listed = "\n".join(json.dumps(schema) for schema in schemas)
    return f"""# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{listed}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
