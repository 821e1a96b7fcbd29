"""One example of any kind about any scene of the pool: a question drawn for it, and what is said.

It refuses to know tokens and weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from speceyes.builtin.questions import SPLITS, Asked, ask, ask_relation, ask_whether
from speceyes.builtin.scenes import SHAPES
from speceyes.types import Picture
from training import transcripts
from training.pool import CROPS, Pool
from training.transcripts import Transcript

PNG_SHARE = 0.75
TWICE_SHARE = 0.3
Maker = Callable[[np.random.Generator, Pool, int], Transcript]
Asker = Callable[[np.random.Generator, Pool, int], Asked]


def _asked(rng: np.random.Generator, pool: Pool, i: int) -> Asked:
    split = SPLITS[int(rng.integers(3))]
    return ask(rng, pool.scenes[i], split, candidates=pool.crop_things[i])


def _single(rng: np.random.Generator, pool: Pool, i: int) -> Asked:
    while (asked := _asked(rng, pool, i)).kind == "relation":
        pass
    return asked


def _existence(rng: np.random.Generator, pool: Pool, i: int) -> Asked:
    while True:
        asked = ask(rng, pool.scenes[i], "existence", candidates=pool.crop_things[i])
        # As many no as yes, and few of those about a colour that is nowhere: they are easy.
        keep = 1.0 if asked.targets and asked.answer == "no" else 0.5
        if rng.random() < keep:
            return asked


def _agent(ask_about: Asker) -> Maker:
    return lambda rng, pool, i: _zooming(pool, i, ask_about(rng, pool, i))


def _coder(ask_about: Asker) -> Maker:
    def make(rng: np.random.Generator, pool: Pool, i: int) -> Transcript:
        asked, crops = ask_about(rng, pool, i), (pool.crop_things[i], pool.crop_boxes[i])
        return transcripts.coder(pool.scenes[i], asked, crops, picture=_file(rng))

    return make


def _first(make: Maker) -> Maker:
    def cut(rng: np.random.Generator, pool: Pool, i: int) -> Transcript:
        whole = make(rng, pool, i)
        return Transcript(whole.pieces[:2], whole.pictures[:1])

    return cut


def _file(rng: np.random.Generator) -> Picture:
    # The path must be read from the prompt, not learnt by heart; the size is of no use.
    if rng.random() < PNG_SHARE:
        return transcripts.SCENE
    kind = str(rng.choice(["image/png", "image/jpeg", "image/webp"]))
    side_px = int(rng.choice([672, 1000, 1344, 2048]))
    return Picture(b"placeholder", kind, side_px, side_px)


def _drill(*, by_code: bool) -> Maker:
    def make(rng: np.random.Generator, pool: Pool, i: int) -> Transcript:
        scene, things = pool.scenes[i], pool.crop_things[i]
        if rng.random() < 0.5:
            return transcripts.drill(scene, _relation(rng, pool, i), by_code=by_code)
        thing = things[int(rng.integers(len(things)))]
        shape = thing.shape if rng.random() < 0.5 else str(rng.choice(SHAPES))
        return transcripts.drill(scene, ask_whether(thing, shape), by_code=by_code)

    return make


def _zooming(pool: Pool, i: int, asked: Asked) -> Transcript:
    return transcripts.agent(pool.scenes[i], asked, (pool.crop_things[i], pool.crop_boxes[i]))


def _relation(rng: np.random.Generator, pool: Pool, i: int) -> Asked:
    return ask_relation(rng, pool.crop_things[i]) or _asked(rng, pool, i)


def _closer(ask_about: Asker) -> Maker:
    def make(rng: np.random.Generator, pool: Pool, i: int) -> Transcript:
        asked, crops = ask_about(rng, pool, i), (pool.crop_things[i], pool.crop_boxes[i])
        # Whatever was said first: it must not be copied, nor taken for wrong.
        doubted = str(rng.choice(asked.options or ("yes", "no")))
        looks = 2 if rng.random() < TWICE_SHARE else 1
        return transcripts.looking_closer(asked, crops, doubted=doubted, looks=looks)

    return make


MAKERS: dict[str, Maker] = {
    "list": lambda rng, pool, i: transcripts.list_view(rng, pool.scenes[i]),
    "places": lambda rng, pool, i: transcripts.list_view(rng, pool.scenes[i], looks=False),
    "list_crop": lambda rng, pool, i: transcripts.list_crop(
        rng, pool.crop_things[i], int(rng.integers(CROPS))
    ),
    "screen": lambda rng, pool, i: transcripts.screening(_asked(rng, pool, i)),
    "agent_screen": lambda rng, pool, i: transcripts.screening_within(
        _asked(rng, pool, i), transcripts.PROTOCOL
    ),
    "coder_screen": lambda rng, pool, i: transcripts.screening_within(
        _asked(rng, pool, i), transcripts.CODER, picture=_file(rng)
    ),
    "relation": lambda rng, pool, i: transcripts.speculation(_relation(rng, pool, i)),
    "answer": lambda rng, pool, i: transcripts.speculation(_asked(rng, pool, i)),
    "answer_existence": lambda rng, pool, i: transcripts.speculation(_existence(rng, pool, i)),
    "closer": _closer(_asked),
    "closer_existence": _closer(_existence),
    "agent": _agent(_single),
    "agent_existence": _agent(_existence),
    "agent_first": _first(_agent(_asked)),
    "agent_pair": _agent(_relation),
    "coder": _coder(_single),
    "coder_existence": _coder(_existence),
    "coder_first": _first(_coder(_asked)),
    "coder_pair": _coder(_relation),
    "drill": _drill(by_code=False),
    "drill_code": _drill(by_code=True),
}
