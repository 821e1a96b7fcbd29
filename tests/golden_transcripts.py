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
    Message,
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
        before = conversation
        conversation, view = _look(protocol, query, conversation, reply, made)
        views += (view,)
        yield from _news(before, conversation)

    if speaker.writes_code:
        yield from _results(protocol, query, conversation, reply)

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
        if speaker.goes_on:
            yield from _news(conversation, told, said=reply)
        else:
            yield from _shown(told[len(conversation) + 1 :])

    yield "\n=== a tool that could not do it"
    failed = Observation(error="that part cannot be shown")
    reply = speaker.quarter(seen)
    told = protocol.proceed(query, conversation, reply=reply, outcome=failed)
    yield from _news(conversation, told) if speaker.goes_on else _shown(told[-1:])

    yield "\n=== the last turn"
    last = protocol.force_answer(query, conversation)
    if speaker.goes_on:
        yield from _news(conversation, last)
        yield "\n=== the last turn, when it is the first"
        conversation = protocol.opening(query, views[:2])
        yield from _news(conversation, protocol.force_answer(query, conversation))
    else:
        yield from _shown(last[len(conversation) - 1 :])


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


def _results(protocol, query, conversation, reply) -> Iterator[str]:
    """Show what else code may come to."""
    crops = tuple(_picture(f"made {n}", (300, 200)) for n in (1, 2))
    results = {
        "two images": Observation("one\ntwo\n", crops, (None, None)),
        "a result in words": Observation("7 red things\n"),
        "nothing at all": Observation(),
        "an error": Observation(error="NameError: name 'x' is not defined"),
        "an error after a result": Observation("7 red things\n", error="took longer than 10 s"),
        "an error after an image": Observation("one\n", crops[:1], (None,), "ValueError: no"),
    }
    for title, outcome in results.items():
        yield f"\n=== code that brings {title}"
        told = protocol.proceed(query, conversation, reply=reply, outcome=outcome)
        yield from _news(conversation, told, said=reply)


def _look(protocol, query, conversation, reply, made) -> tuple[Conversation, View]:
    size, box = made.arguments.get("size", (480, 270)), made.arguments.get("box")
    view = View(_picture("crop", size), box)
    observation = Observation(pictures=(view.picture,), boxes_px=(view.box_px,))
    return protocol.proceed(query, conversation, reply=reply, outcome=observation), view


def _picture(name: str, size: tuple[int, int]) -> Picture:
    return Picture(f"{name} at {size[0]}x{size[1]}".encode(), "image/png", *size)


def _shown(conversation: Conversation) -> Iterator[str]:
    for message in conversation:
        yield f"--- {message.role}"
        yield _written(message)


def _news(before: Conversation, after: Conversation, *, said: str | None = None) -> Iterator[str]:
    """Show what came in, the rest of a turn that goes on included; without what was `said`."""
    *_, last = before
    same = after[len(before) - 1]
    if same != last:
        more = _written(same).removeprefix(_written(last))
        yield f"--- {same.role}, going on"
        yield more if said is None else more.removeprefix(said)
        yield from _shown(after[len(before) :])
        return
    yield from _shown(after[len(before) + (said is not None) :])


def _written(message: Message) -> str:
    return "".join(
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
        case ToolCall(tool, arguments) if "code" in arguments:
            yield f"=> {tool}:{arguments['code']}"
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
