"""What the models are taught to say: captions, judgements, answers and the agent's zooming turns.

Prompts come from the library itself, so the models learn the very words they will be asked with.
Words only; pictures are references into a pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from speceyes import prompts
from speceyes.builtin.questions import SIDE_WORDS, SPLITS, Asked, ask
from speceyes.builtin.scenes import COLOURS, VIEW_PX, Scene, Thing, draw_scene
from speceyes.builtin.zones import WHOLE_VIEW, ViewBox, grid_point, zoom_box
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.types import (
    Box,
    Conversation,
    Observation,
    Picture,
    Query,
    Text,
    View,
)

VIEW_TEXT = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"
LIST_PROMPT = "List what you see."
VIEW = -1  # picture reference: the scene's first view; 0..3 are its crops
_AREA_PX = VIEW_PX * VIEW_PX
PROTOCOL = DeepEyes(min_px=_AREA_PX, max_px=_AREA_PX)
_PICTURE = Picture(b"placeholder", "image/png", VIEW_PX, VIEW_PX)
_WHOLE = View(_PICTURE, Box(0, 0, VIEW_PX, VIEW_PX))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; `is_target`: the model is taught to say it."""

    text: str
    is_target: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """One training example: text pieces in order, and the pictures whose pads stand in them."""

    pieces: tuple[Piece, ...]
    pictures: tuple[int, ...]


def render_chat(conversation: Conversation) -> str:
    """Write a conversation as the chat template does, each picture as its 16 pads."""
    turns = []
    for message in conversation:
        parts = [p.text if isinstance(p, Text) else VIEW_TEXT for p in message.parts]
        turns.append(f"<|im_start|>{message.role}\n{''.join(parts)}<|im_end|>\n")
    return "".join(turns)


def transcript(turns: list[tuple[Conversation, str]], pictures: tuple[int, ...]) -> Transcript:
    """Join turns, each (the whole conversation so far, the reply to learn), into one example."""
    pieces, said = [], ""
    for conversation, reply in turns:
        prompt = render_chat(conversation) + "<|im_start|>assistant\n"
        if not prompt.startswith(said):
            raise ValueError("a turn rewrites what was said before")
        pieces.append(Piece(prompt[len(said) :], is_target=False))
        pieces.append(Piece(reply + "<|im_end|>", is_target=True))
        said = prompt + reply + "<|im_end|>"
    return Transcript(tuple(pieces), pictures)


def list_view(rng: np.random.Generator, scene: Scene, *, looks: bool = True) -> Transcript:
    """List all colours in random order with size, place and, for large things, shape and dot."""
    entries = []
    for colour in rng.permutation(list(COLOURS)):
        thing = scene.find(str(colour))
        if thing is None:
            entries.append((str(colour), " none"))
            continue
        x, y = grid_point(thing.x_px, thing.y_px)
        seen = _looks(thing) if looks and thing.size == "large" else ""
        entries.append((thing.colour, f" {thing.size} {x} {y}{seen}"))
    return _listing(entries, VIEW)


def list_crop(rng: np.random.Generator, things: tuple[Thing, ...], crop: int) -> Transcript:
    """List the thing a crop is of, among colours that are not in the crop."""
    thing = things[crop]
    # Neighbours may show in the crop: only colours of no thing in the scene count as absent.
    entries = [(thing.colour, f" seen{_looks(thing)}")]
    absent = [c for c in COLOURS if c not in {t.colour for t in things}]
    entries += [(str(c), " none") for c in rng.permutation(absent)[:2]]
    order = rng.permutation(len(entries))
    return _listing([entries[i] for i in order], crop)


def screening(asked: Asked) -> Transcript:
    """Judge a question: does it need the tool?"""
    query = _query(asked)
    return transcript(
        [(prompts.screen(query, (_WHOLE,)), "yes" if asked.is_hard else "no")], (VIEW,)
    )


def speculation(asked: Asked) -> Transcript:
    """Answer at once, from the first view."""
    return transcript([(prompts.speculate(_query(asked), (_WHOLE,)), asked.answer)], (VIEW,))


def agent(
    scene: Scene,
    asked: Asked,
    crops: tuple[tuple[Thing, ...], tuple[ViewBox, ...]] | None = None,
) -> Transcript:
    """Say what is sought and what is where, zoom at what is asked about, one thing a turn, answer.

    `crops` gives the things and boxes of the pool's crops; without it boxes are exact and the
    pictures stand for nothing (for the tokenizer's corpus).
    """
    query, turns, pictures = _query(asked), [], [VIEW]
    conversation = PROTOCOL.opening(query, (_WHOLE,))
    thought = f"{_sought(asked)} {_survey(scene)}"
    for thing in asked.targets or (None,):
        found, box, label = _found(asked, thing)
        if thing is not None and crops is not None:
            pictures.append(crops[0].index(thing))
        elif thing is None:
            pictures.append(VIEW)
        arguments = {"bbox_2d": list(box), "label": label}
        call = json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})
        reply = f"<think>{thought} {found}</think>\n<tool_call>\n{call}\n</tool_call>"
        turns.append((conversation, reply))
        outcome = Observation(pictures=(_PICTURE,), boxes_px=(Box(*box),))
        conversation = PROTOCOL.proceed(query, conversation, reply=reply, outcome=outcome)
        thought = f"{_sought(asked)} Now I see {_described(asked, thing)}."
    reply = f"<think>{thought} {_conclusion(asked)}</think>\n<answer>{asked.answer}</answer>"
    turns.append((conversation, reply))
    return transcript(turns, tuple(pictures))


def drill(scene: Scene, asked: Asked) -> Transcript:
    """Conclude from what has been seen, in words alone: cheap practice in comparing and recalling.

    The question and what was seen are given; learnt are where each thing is, and the conclusion.
    """
    options = f"\n{' '.join(asked.options)}" if asked.options else ""
    said = (
        f"<|im_start|>user\n{asked.question}{options}<|im_end|>\n<|im_start|>assistant\n"
        f"<think>{_sought(asked)} {_survey(scene)}"
    )
    pieces = []
    for thing in asked.targets or (None,):
        found = f" {_found(asked, thing)[0]}</think><|im_end|>"
        pieces += [Piece(said, is_target=False), Piece(found, is_target=True)]
        said = (
            f"\n<|im_start|>assistant\n<think>{_sought(asked)} "
            f"Now I see {_described(asked, thing)}."
        )
    reply = f" {_conclusion(asked)}</think>\n<answer>{asked.answer}</answer><|im_end|>"
    pieces += [Piece(said, is_target=False), Piece(reply, is_target=True)]
    return Transcript(tuple(pieces), ())


def corpus(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Yield texts for the tokenizer: every kind of example, with every number and word in it."""
    for i in range(count):
        scene = draw_scene(rng, large=3, tiny=3)
        asked = ask(rng, scene, SPLITS[i % 3])
        kinds = [agent(scene, asked), screening(asked), speculation(asked), list_view(rng, scene)]
        for example in kinds:
            yield "".join(piece.text for piece in example.pieces)
        numbers = rng.permutation(VIEW_PX + 1)
        yield " ".join(map(str, numbers)) + "," + ",".join(map(str, numbers))


def _listing(entries: list[tuple[str, str]], picture: int) -> Transcript:
    # The colour is given, what follows it is learnt.
    asked = f"<|im_start|>user\n{VIEW_TEXT}{LIST_PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    pieces = [Piece(asked, is_target=False)]
    for colour, rest in entries:
        pieces.append(Piece(f" {colour}", is_target=False))
        pieces.append(Piece(f"{rest};", is_target=True))
    return Transcript(tuple(pieces), (picture,))


def _looks(thing: Thing) -> str:
    return f" {thing.shape} {thing.tone} {SIDE_WORDS[thing.side]}"


def _described(asked: Asked, thing: Thing | None) -> str:
    if thing is None:
        return f"no {asked.colours[0]} object"
    return f"a {thing.colour} {thing.shape} with a {thing.tone} dot {SIDE_WORDS[thing.side]}"


def _sought(asked: Asked) -> str:
    # Said before anything is seen: said after it, the model copies what it has just named.
    named = " and ".join(f"the {colour} object" for colour in asked.colours)
    match asked.kind:
        case "existence":
            colour, shape = asked.question.split()[3:5]
            return f"I look for a {colour} {shape}."
        case "shape":
            return f"The question is about the shape of {named}."
        case "tone":
            return f"The question is about the colour of the dot on {named}."
        case "side":
            return f"The question is about where on {named} the dot is."
        case "relation":
            return f"The question is about {named}."


def _survey(scene: Scene) -> str:
    # In one fixed order, so that each place is the answer to a colour that is there.
    seen = []
    for colour in COLOURS:
        thing = scene.find(colour)
        if thing is not None:
            x, y = grid_point(thing.x_px, thing.y_px)
            seen.append(f" {colour} {thing.size} {x} {y}")
    return f"I see:{';'.join(seen)}."


def _found(asked: Asked, thing: Thing | None) -> tuple[str, ViewBox, str]:
    if thing is None:
        there = f"I find no {asked.colours[0]} object."
        return f"{there} I look at the whole picture.", WHOLE_VIEW, "whole picture"
    point = x, y = grid_point(thing.x_px, thing.y_px)
    there = f"The {thing.colour} object is {thing.size}, near {x} {y}."
    box = zoom_box(thing.size, point)
    return f"{there} I zoom in to see it well.", box, f"{thing.colour} object"


def _conclusion(asked: Asked) -> str:
    so = f"So the answer is {asked.answer}."
    if asked.options:
        so = f"I can say {' or '.join(asked.options)}. {so}"
    if asked.kind == "relation":
        points = [(t.colour, grid_point(t.x_px, t.y_px)) for t in asked.targets]
        so = "".join(f"The {colour} object is near {x} {y}. " for colour, (x, y) in points) + so
    if asked.kind == "existence" and asked.targets:
        # Side by side right before the verdict: from further apart they are not compared.
        sought, seen = asked.question.split()[4], asked.targets[0].shape
        so = f"It is a {seen}, I look for a {sought}: {asked.answer}. {so}"
    return so


def _query(asked: Asked) -> Query:
    return Query(asked.question, (_PICTURE,), asked.options, query_id="training")
