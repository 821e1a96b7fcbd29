"""Write what each protocol says to its model as text, to be read and compared.

    python -m tests.golden_transcripts    # renews tests/golden/*.txt; read the difference

A transcript shows the opening, a good call and its observation, calls that are odd but made, every
kind of bad reply with what the model is told of it, and the last turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from speceyes.protocols import PROTOCOLS, make_protocol
from speceyes.types import (
    Box,
    Conversation,
    FinalAnswer,
    Image,
    Malformed,
    Observation,
    Picture,
    Query,
    Reply,
    Text,
    ToolCall,
    View,
)
from tests.speakers import SPEAKERS

FOLDER = Path(__file__).parent / "golden"
SIZES = ((1920, 1080), (600, 400))
LONGEST = 240  # characters of one reply that are shown
# What is wrong with JSON is put in other words by every other Python.
PYTHONS_WORDS = re.compile(r"is not JSON \(.*?\); write")


def main() -> None:
    """Write all transcripts anew."""
    FOLDER.mkdir(exist_ok=True)
    for name in PROTOCOLS:
        (FOLDER / f"{name}.txt").write_text(transcript(name), encoding="utf-8")


def transcript(name: str) -> str:
    """Let a model speak one protocol."""
    text = "\n".join(_lines(name)) + "\n"
    return PYTHONS_WORDS.sub("is not JSON (and why); write", text)


def _lines(name: str) -> Iterator[str]:
    protocol, speaker = make_protocol(name), SPEAKERS[name]
    originals = tuple(
        Picture(f"original {n}".encode(), "image/png", *s) for n, s in enumerate(SIZES)
    )
    query = Query("What shape is the red object?", originals, ("disc", "star"), query_id="golden")
    views = tuple(
        View(_picture(f"original {n}", protocol.view_size(size)), Box(0, 0, *size, n))
        for n, size in enumerate(SIZES)
    )
    yield from _facts(protocol)
    conversation = protocol.opening(query, views)
    yield "\n=== the opening"
    yield from _shown(conversation)

    seen = views[0].picture.size
    places = [("a call", 0), ("a call into what that brought", 2)][: 1 + speaker.nests]
    for title, index in places:
        yield f"\n=== {title}"
        reply = speaker.quarter(seen, index)
        made = protocol.parse(reply, views)
        yield from _read(made)
        before, conversation, view = (
            len(conversation),
            *_look(protocol, query, conversation, reply, made),
        )
        views += (view,)
        yield from _shown(conversation[before:])

    yield "\n=== an answer"
    reply = speaker.answer("star")
    yield from _shown_reply(reply)
    yield from _read(protocol.parse(reply, views))

    for title, reply in speaker.odd.items():
        yield f"\n=== an odd call: {title}"
        yield from _shown_reply(reply)
        yield from _read(protocol.parse(reply, views[:2]))

    for title, (reply, _) in speaker.bad.items():
        yield f"\n=== a bad reply: {title}"
        wrong = protocol.parse(reply, views[:2])
        yield from _shown_reply(reply)
        yield from _read(wrong)
        told = protocol.proceed(query, conversation, reply=reply, outcome=wrong)
        yield from _shown(told[len(conversation) + 1 :])

    yield "\n=== a tool that could not do it"
    failed = Observation(error="that part cannot be shown")
    told = protocol.proceed(query, conversation, reply=speaker.quarter(seen), outcome=failed)
    yield from _shown(told[-1:])

    yield "\n=== the last turn"
    yield from _shown(protocol.force_answer(query, conversation)[len(conversation) - 1 :])


def _facts(protocol) -> Iterator[str]:
    yield f"protocol: {protocol.name}"
    budget = protocol.budget
    yield f"budget: {budget.max_turns} turns of {budget.max_tokens_per_turn} tokens"
    yield f"stops: {' '.join(protocol.stop) or '-'}"
    for size in ((1920, 1080), (7680, 4320), (300, 200), (1, 1)):
        yield "a picture of {}x{} is seen at {}x{}".format(*size, *protocol.view_size(size))
    for schema in protocol.tools:
        yield "a tool for the chat template to show:"
        yield json.dumps(json.loads(schema), indent=2)


def _look(protocol, query, conversation, reply, made) -> tuple[Conversation, View]:
    view = View(_picture("crop", made.arguments["size"]), made.arguments["box"])
    observation = Observation(pictures=(view.picture,), boxes_px=(view.box_px,))
    return protocol.proceed(query, conversation, reply=reply, outcome=observation), view


def _picture(name: str, size: tuple[int, int]) -> Picture:
    return Picture(f"{name} at {size[0]}x{size[1]}".encode(), "image/png", *size)


def _shown(conversation: Conversation) -> Iterator[str]:
    for message in conversation:
        yield f"--- {message.role}"
        yield "".join(
            part.text if isinstance(part, Text) else f"[{part.picture.data.decode()}]"
            for part in message.parts
            if isinstance(part, Text | Image)
        )


def _shown_reply(reply: str) -> Iterator[str]:
    yield "--- assistant"
    yield reply if len(reply) <= LONGEST else f"{reply[:LONGEST]} ... ({len(reply)} characters)"


def _read(reply: Reply) -> Iterator[str]:
    match reply:
        case FinalAnswer(text, is_open):
            yield f"=> the answer: {text}{' (if the model itself ended there)' if is_open else ''}"
        case ToolCall(tool, arguments):
            box, more = arguments["box"], {**arguments}
            width, height = more.pop("size")
            part = f"({box.left_px}, {box.top_px}) to ({box.right_px}, {box.bottom_px})"
            shown = f"picture {box.picture_index}, {part}, shown at {width}x{height}"
            del more["box"]
            noted = "".join(f", {key} {value!r}" for key, value in more.items())
            yield f"=> {tool}: {shown}{noted}"
        case Malformed(reason, detail):
            yield f"=> {reason}: {detail}"


if __name__ == "__main__":
    main()
