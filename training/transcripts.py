"""What the models are taught to say: captions, judgements, answers, the agent's turns and code.

Prompts come from the library itself, so the models learn the very words they will be asked with.
Words only; pictures are references into a pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from speceyes import prompts
from speceyes.builtin.pair import closer
from speceyes.builtin.questions import SIDE_WORDS, SPLITS, Asked, ask
from speceyes.builtin.scenes import COLOURS, SCENE_PX, VIEW_PX, Scene, Thing, draw_scene
from speceyes.builtin.zones import WHOLE_VIEW, ViewBox, grid_point, zoom_box
from speceyes.notebook import OUTPUT_FOLDER
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.thyme import Thyme
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
CODER = Thyme(min_px=_AREA_PX, max_px=_AREA_PX)
CLOSER = closer()
_PICTURE = Picture(b"placeholder", "image/png", VIEW_PX, VIEW_PX)
SCENE = Picture(b"placeholder", "image/png", SCENE_PX, SCENE_PX)
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


def render_prompt(conversation: Conversation) -> str:
    """Write a conversation down, up to where the model is to go on."""
    written = render_chat(conversation)
    if conversation[-1].role == "assistant":
        return written.removesuffix("<|im_end|>\n")
    return written + "<|im_start|>assistant\n"


def transcript(turns: list[tuple[Conversation, str]], pictures: tuple[int, ...]) -> Transcript:
    """Join turns, each (the whole conversation so far, the reply to learn), into one example.

    A turn of the model ends where the next one begins; one that is gone on with does not end.
    """
    pieces, said = [], ""
    for place, (conversation, reply) in enumerate(turns):
        prompt = render_prompt(conversation)
        if not prompt.startswith(said):
            raise ValueError("a turn rewrites what was said before")
        goes_on = place + 1 < len(turns) and turns[place + 1][0][-1].role == "assistant"
        whole = reply if goes_on else reply + "<|im_end|>"
        pieces.append(Piece(prompt[len(said) :], is_target=False))
        pieces.append(Piece(whole, is_target=True))
        said = prompt + whole
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


def screening_within(
    asked: Asked, protocol: DeepEyes | Thyme, *, picture: Picture | None = None
) -> Transcript:
    """Judge a question at the end of the agent's own opening."""
    opening = protocol.opening(_query(asked, picture or _PICTURE), (_WHOLE,))
    return transcript([(prompts.screen_within(opening), "yes" if asked.is_hard else "no")], (VIEW,))


def speculation(asked: Asked) -> Transcript:
    """Answer at once, from the first view."""
    return transcript([(prompts.speculate(_query(asked), (_WHOLE,)), asked.answer)], (VIEW,))


def looking_closer(
    asked: Asked, crops: tuple[tuple[Thing, ...], tuple[ViewBox, ...]], *, doubted: str, looks: int
) -> Transcript:
    """Look at what is asked about after an answer that was doubted, and answer again, each time.

    What was answered first is not learnt: it is what a model that is not sure may say.
    """
    query, turns, pictures, said = _query(asked), [], [VIEW], doubted
    conversation = prompts.speculate(query, (_WHOLE,))
    turns.append((conversation, doubted))
    for look in range(looks):
        thing = asked.targets[look % len(asked.targets)] if asked.targets else None
        place = None if thing is None else crops[0].index(thing)
        box = WHOLE_VIEW if place is None else crops[1][place]
        conversation = CLOSER.ask_where(conversation, said)
        turns.append((conversation, str(list(box))))
        instruction = prompts.answer_briefly(query)
        conversation = CLOSER.show(
            conversation, str(list(box)), part=_PICTURE, instruction=instruction
        )
        pictures.append(VIEW if place is None else place)
        said = asked.answer
        turns.append((conversation, said))
    whole = transcript(turns, tuple(pictures))
    first, unsure, *rest = whole.pieces
    return Transcript((first, Piece(unsure.text, is_target=False), *rest), whole.pictures)


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


def coder(
    scene: Scene,
    asked: Asked,
    crops: tuple[tuple[Thing, ...], tuple[ViewBox, ...]] | None = None,
    *,
    picture: Picture = SCENE,
) -> Transcript:
    """Think as `agent` does, and cut out by code of one's own: the same turn goes on with the crop.

    The code knows the picture's own pixels only, so it scales the view's box; what the first piece
    has opened, the second still has.
    """
    query, turns, pictures = _query(asked, picture), [], [VIEW]
    conversation = CODER.opening(query, (_WHOLE,))
    said = f"<think>{_sought(asked)} {_survey(scene)}"
    for place, thing in enumerate(asked.targets or (None,)):
        found, box, _ = _found(asked, thing)
        pictures.append(VIEW if thing is None or crops is None else crops[0].index(thing))
        path = CODER.notebook.path_of(0, picture)
        reply = f"{said} {found}\n{_fenced(crop_code(path, box, place))}"
        turns.append((conversation, reply))
        outcome = Observation(pictures=(_PICTURE,), boxes_px=(None,))
        conversation = CODER.proceed(query, conversation, reply=reply, outcome=outcome)
        said = f"\n{_sought(asked)} Now I see {_described(asked, thing)}."
    reply = f"{said} {_conclusion(asked)}</think>\n<answer>{asked.answer}</answer>"
    turns.append((conversation, reply))
    return transcript(turns, tuple(pictures))


def crop_code(path: str, box: ViewBox, place: int) -> str:
    """Write the code that cuts a box of the view out of the picture in a file."""
    opened = (
        f'from PIL import Image\nimage = Image.open("{path}")\nscale = image.width / {VIEW_PX}\n'
    )
    return f"""{opened if place == 0 else ""}box = [v * scale for v in {box}]
path = "{OUTPUT_FOLDER}/crop_{place + 1}.png"
image.crop(box).save(path)
print(path)"""


def drill(scene: Scene, asked: Asked, *, by_code: bool = False) -> Transcript:
    """Conclude from what has been seen, in words alone: cheap practice in comparing and recalling.

    The question and what was seen are given; learnt are where each thing is, and the conclusion.
    With `by_code` the code is learnt as well, in which a place becomes a box.
    """
    options = f"\n{' '.join(asked.options)}" if asked.options else ""
    path = CODER.notebook.path_of(0, SCENE)
    said = (
        f"<|im_start|>user\n{asked.question}{options}{f' {path}' if by_code else ''}<|im_end|>\n"
        f"<|im_start|>assistant\n<think>{_sought(asked)} {_survey(scene)}"
    )
    pieces = []
    for place, thing in enumerate(asked.targets or (None,)):
        there, box, _ = _found(asked, thing)
        found = f" {there}</think><|im_end|>"
        again = "\n<|im_start|>assistant\n<think>"
        if by_code:
            found = f" {there}\n{_fenced(crop_code(path, box, place))}"
            again = "<sandbox_output></sandbox_output>\n"
        pieces += [Piece(said, is_target=False), Piece(found, is_target=True)]
        said = f"{again}{_sought(asked)} Now I see {_described(asked, thing)}."
    reply = f" {_conclusion(asked)}</think>\n<answer>{asked.answer}</answer><|im_end|>"
    pieces += [Piece(said, is_target=False), Piece(reply, is_target=True)]
    return Transcript(tuple(pieces), ())


def corpus(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Yield texts for the tokenizer: every kind of example, with every number and word in it."""
    for i in range(count):
        scene = draw_scene(rng, large=3, tiny=3)
        asked = ask(rng, scene, SPLITS[i % 3])
        kinds = [agent(scene, asked), screening(asked), speculation(asked), list_view(rng, scene)]
        kinds.append(coder(scene, asked))
        for example in kinds:
            yield "".join(piece.text for piece in example.pieces)
        numbers = rng.permutation(VIEW_PX + 1)
        yield " ".join(map(str, numbers)) + "," + ",".join(map(str, numbers))


def _fenced(code: str) -> str:
    return f"<code>\n```python\n{code}\n```\n</code>"


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


def _query(asked: Asked, picture: Picture = _PICTURE) -> Query:
    return Query(asked.question, (picture,), asked.options, query_id="training")
