"""What is asked about a scene: shape, dot, sides, places and whether a thing is there.

A question is hard when its answer does not survive downsampling: it is about a tiny thing's shape
or dot. This file is pure; it knows scenes and words, no pixels and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from speceyes.builtin.scenes import COLOURS, SCENE_PX, SHAPES, SIDES, TONES, Scene, Thing

Split: TypeAlias = Literal["attribute", "position", "existence"]
Kind: TypeAlias = Literal["shape", "tone", "side", "relation", "existence"]

SPLITS: tuple[Split, ...] = ("attribute", "position", "existence")
SIDE_WORDS = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
}  # fmt: skip
_ACROSS = ("to the left", "to the right")
_UP = ("above", "below")
_CLEARLY_APART_PX = SCENE_PX / 6
_P_RELATION, _P_SIDE_HARD, _P_ATTRIBUTE_HARD = 0.3, 0.6, 0.5
_P_ABSENT, _P_THERE_HARD, _P_YES = 0.25, 0.55, 0.62
_SHAPE_OPTIONS = 4


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer, and the things one must look at to know it.

    `colours` are those the question names, whether the scene has them or not. `options` is empty
    for yes/no questions.
    """

    kind: Kind
    question: str
    options: tuple[str, ...]
    answer: str
    colours: tuple[str, ...]
    targets: tuple[Thing, ...]
    is_hard: bool


def ask(
    rng: np.random.Generator,
    scene: Scene,
    split: Split,
    *,
    candidates: Sequence[Thing] | None = None,
) -> Asked:
    """Draw one question of a split about a scene; targets come from `candidates` (default: all)."""
    things = list(scene.things if candidates is None else candidates)
    match split:
        case "attribute":
            thing = _pick(rng, things, _P_ATTRIBUTE_HARD)
            return ask_shape(rng, thing) if rng.random() < 0.6 else ask_tone(rng, thing)
        case "position":
            if rng.random() < _P_RELATION:
                relation = ask_relation(rng, things)
                if relation is not None:
                    return relation
            return ask_side(rng, _pick(rng, things, _P_SIDE_HARD))
        case "existence":
            return ask_existence(rng, scene, _pick(rng, things, _P_THERE_HARD))


def ask_shape(rng: np.random.Generator, thing: Thing) -> Asked:
    """Ask which shape a thing has, with four shapes to choose from."""
    others = [shape for shape in SHAPES if shape != thing.shape]
    drawn = [str(s) for s in rng.permutation(others)[: _SHAPE_OPTIONS - 1]]
    question = f"What is the shape of the {thing.colour} object?"
    options = _shuffled(rng, [thing.shape, *drawn])
    return _about(thing, "shape", question, options=options, answer=thing.shape)


def ask_tone(rng: np.random.Generator, thing: Thing) -> Asked:
    """Ask which colour a thing's dot has."""
    question = f"What is the colour of the dot on the {thing.colour} object?"
    return _about(thing, "tone", question, options=_shuffled(rng, TONES), answer=thing.tone)


def ask_side(rng: np.random.Generator, thing: Thing) -> Asked:
    """Ask on which side of a thing its dot is."""
    options = _shuffled(rng, [SIDE_WORDS[side] for side in SIDES])
    question = f"Where on the {thing.colour} object is its dot?"
    return _about(thing, "side", question, options=options, answer=SIDE_WORDS[thing.side])


def ask_relation(rng: np.random.Generator, things: Sequence[Thing]) -> Asked | None:
    """Ask how two large things lie to each other; None if no two are clearly apart."""
    large = [thing for thing in things if thing.size == "large"]
    pairs = [
        (a, b, axis)
        for a in large
        for b in large
        for axis in (0, 1)
        if a is not b and abs(_offset_px(a, b, axis)) > _CLEARLY_APART_PX
    ]
    if not pairs:
        return None
    a, b, axis = pairs[int(rng.integers(len(pairs)))]
    words, way = (_UP, "above or below") if axis else (_ACROSS, "to the left or to the right of")
    question = f"Is the {a.colour} object {way} the {b.colour} object?"
    answer = words[0] if _offset_px(a, b, axis) < 0 else words[1]
    options = _shuffled(rng, words)
    return Asked("relation", question, options, answer, (a.colour, b.colour), (a, b), is_hard=False)


def ask_existence(rng: np.random.Generator, scene: Scene, thing: Thing) -> Asked:
    """Ask whether a thing of some colour and shape is there; a quarter names an absent colour."""
    if rng.random() < _P_ABSENT:
        present = {other.colour for other in scene.things}
        colour = str(rng.choice([c for c in COLOURS if c not in present]))
        question = _existence_question(colour, str(rng.choice(SHAPES)))
        return Asked("existence", question, (), "no", (colour,), (), is_hard=False)
    shape = thing.shape
    if rng.random() >= _P_YES:
        shape = str(rng.choice([s for s in SHAPES if s != thing.shape]))
    return ask_whether(thing, shape)


def ask_whether(thing: Thing, shape: str) -> Asked:
    """Ask whether a thing of this colour has this shape."""
    question = _existence_question(thing.colour, shape)
    answer = "yes" if shape == thing.shape else "no"
    return _about(thing, "existence", question, options=(), answer=answer)


def _existence_question(colour: str, shape: str) -> str:
    return f"Is there a {colour} {shape} in the picture? Answer yes or no."


def _about(
    thing: Thing, kind: Kind, question: str, *, options: tuple[str, ...], answer: str
) -> Asked:
    hard = thing.size == "tiny"
    return Asked(kind, question, options, answer, (thing.colour,), (thing,), is_hard=hard)


def _pick(rng: np.random.Generator, things: Sequence[Thing], p_tiny: float) -> Thing:
    size = "tiny" if rng.random() < p_tiny else "large"
    pool = [thing for thing in things if thing.size == size]
    return pool[int(rng.integers(len(pool)))]


def _offset_px(a: Thing, b: Thing, axis: int) -> float:
    return a.y_px - b.y_px if axis else a.x_px - b.x_px


def _shuffled(rng: np.random.Generator, options: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(option) for option in rng.permutation(list(options)))
