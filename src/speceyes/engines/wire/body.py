"""A request becomes the JSON body of the chat-completions API here.

It refuses to know servers and sockets; pictures come in as the URLs and names they are shown by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec

from speceyes.engines.wire.hermes import unfold_calls
from speceyes.engines.wire.terms import Terms
from speceyes.errors import ConfigError
from speceyes.types import GenerateRequest, Image, Message, Picture, Text

Json: TypeAlias = dict[str, Any]
_CALL_ID: Final = "call{:05d}"  # nine letters and digits: what the strictest templates take


@dataclass(frozen=True, slots=True)
class Shown:
    """How a picture is shown: by its URL, by a name that the server knows it by, or by both."""

    url: str | None
    name: str | None = None


def pictures_of(request: GenerateRequest) -> tuple[Picture, ...]:
    """Give the pictures of a conversation, in order, as often as they stand there."""
    return tuple(
        part.picture
        for message in request.messages
        for part in message.parts
        if isinstance(part, Image)
    )


def chat_body(
    request: GenerateRequest,
    terms: Terms,
    *,
    model: str,
    shown: Mapping[str, Shown],
    stream: bool,
) -> Json:
    """Word a request. `shown` says how each picture is shown, by its digest.

    Raises: ConfigError if a tool's schema is not a JSON object.
    """
    body: Json = {
        "model": model,
        "messages": _messages(request, shown),
        "max_tokens": request.max_tokens,
        "temperature": 0,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if terms.no_penalty:
        body["repetition_penalty"] = 1.0
    if terms.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": terms.top_logprobs}
    if terms.choose:
        body["structured_outputs"] = {"choice": list(request.choices)}
    if request.tools:
        body |= {"tools": [_tool(schema) for schema in request.tools]}
        body["tool_choice"] = terms.tool_choice
    if request.continue_final_message:
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _messages(request: GenerateRequest, shown: Mapping[str, Shown]) -> list[Json]:
    ids = map(_CALL_ID.format, count())
    waiting: list[str] = []  # calls that no tool has answered yet
    messages = []
    for place, message in enumerate(request.messages):
        content = _content(message, shown)
        worded: Json = {"role": message.role, "content": content}
        is_continued = request.continue_final_message and place == len(request.messages) - 1
        if message.role == "tool":
            worded["tool_call_id"] = waiting.pop(0) if waiting else next(ids)
        elif request.tools and message.role == "assistant" and not is_continued:
            words, calls = unfold_calls(content) if isinstance(content, str) else ("", ())
            if calls:
                waiting = [next(ids) for _ in calls]
                worded["content"] = words
                worded["tool_calls"] = [
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for call_id, call in zip(waiting, calls, strict=True)
                ]
        messages.append(worded)
    return messages


def _content(message: Message, shown: Mapping[str, Shown]) -> str | list[Json]:
    if all(isinstance(part, Text) for part in message.parts):
        return "".join(part.text for part in message.parts if isinstance(part, Text))
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else _picture(shown[part.picture.digest])
        for part in message.parts
    ]


def _picture(shown: Shown) -> Json:
    link = None if shown.url is None else {"url": shown.url}
    return {"type": "image_url", "image_url": link, **({"uuid": shown.name} if shown.name else {})}


def _tool(schema: str) -> Json:
    try:
        tool = msgspec.json.decode(schema, type=dict[str, Any])
    except ValueError as error:
        raise ConfigError("tools", f"a tool's schema is no JSON object: {error}") from error
    return tool if "function" in tool else {"type": "function", "function": tool}
