"""A streamed reply's events are written here, one by one, as the API has them.

It refuses to know when they are sent, and to whom.
"""

from __future__ import annotations

from typing import Final

import msgspec

from speceyes.errors import SpecEyesError
from speceyes.events import Answer, Event, FellBack, ToolFinished, TurnFinished
from speceyes.gateway.wire.errors import error_object
from speceyes.gateway.wire.reply import Json, Told, model_of, usage_object, way_of
from speceyes.types import Box, Malformed, ToolCall

DONE: Final = b"data: [DONE]\n\n"


def data(value: Json) -> bytes:
    """Write one event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def comment(text: str) -> bytes:
    """Write what clients pass over; each line on its own."""
    return "".join(f": {line}\n" for line in text.splitlines() or [""]).encode() + b"\n"


def role_chunk(told: Told, model: str) -> bytes:
    """Begin: who speaks."""
    return _chunk(told, model, {"role": "assistant", "content": ""})


def progress_chunk(told: Told, text: str) -> bytes:
    """Tell of the agent's work as what it thinks."""
    return _chunk(told, told.large_model, {"reasoning_content": text})


def ending(answer: Answer, told: Told, *, include_usage: bool) -> bytes:
    """Write the answer, why it ends there, its way, and on request what it cost."""
    model = model_of(answer, told)
    pieces = [
        _chunk(told, model, {"content": answer.text}),
        _chunk(told, model, {}, finish="stop", speceyes=way_of(answer, told)),
    ]
    if include_usage:
        counted = {**_head(told, model), "choices": [], "usage": usage_object(answer.usage)}
        pieces.append(data(counted))
    return b"".join([*pieces, DONE])


def failure(error: SpecEyesError) -> bytes:
    """End a stream that has begun with what went wrong."""
    return data({"error": error_object(error)})


def progress_of(event: Event) -> str | None:
    r"""Put into words what the agent did, if it did something; one line each.

    >>> from speceyes.types import Observation
    >>> seen = Observation("", (), (Box(10, 20, 110, 220),))
    >>> progress_of(ToolFinished("q", 1.0, 1, ToolCall("zoom", {}, ""), seen))
    'turn 1: zoom at [10, 20, 110, 220]\n'
    """
    match event:
        case FellBack(reason=reason):
            return f"the large model answers ({reason})\n"
        case TurnFinished(turn=turn, forced=True):
            return f"turn {turn}: asked for its answer\n"
        case ToolFinished(turn=turn, call=Malformed(reason=reason)):
            return f"turn {turn}: a call that cannot be read ({reason})\n"
        case ToolFinished(turn=turn, call=ToolCall() as call, observation=observation):
            places = "".join(f" at {_corners(box)}" for box in observation.boxes_px if box)
            failed = ", which failed" if observation.error is not None else ""
            return f"turn {turn}: {call.tool}{places}{failed}\n"
        case _:
            return None


def _corners(box: Box) -> list[int]:
    return [box.left_px, box.top_px, box.right_px, box.bottom_px]


def _chunk(
    told: Told, model: str, delta: Json, *, finish: str | None = None, speceyes: Json | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    more = {} if speceyes is None else {"speceyes": speceyes}
    return data({**_head(told, model), "choices": [choice], **more})


def _head(told: Told, model: str) -> Json:
    return {
        "id": told.completion_id,
        "object": "chat.completion.chunk",
        "created": told.created_s,
        "model": model,
    }
