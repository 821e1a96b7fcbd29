"""The built-in suite: any number of items, streams that cannot meet, answers that are right."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
from PIL import Image

from speceyes.builtin.questions import SIDE_WORDS, SPLITS, Asked, ask
from speceyes.builtin.scenes import SCENE_PX, Scene, draw_scene
from speceyes.builtin.suite import draw_item, draw_items


def questions(count: int) -> list[tuple[Scene, Asked]]:
    rng = np.random.default_rng(4)
    drawn = []
    for i in range(count):
        scene = draw_scene(rng, large=2, tiny=2)
        drawn.append((scene, ask(rng, scene, SPLITS[i % 3])))
    return drawn


def test_an_item_depends_on_its_index_seed_and_stream_alone() -> None:
    alone, among = draw_item(4, seed=7), list(draw_items(6, seed=7))[4]
    assert (alone.query.question, alone.answer) == (among.query.question, among.answer)
    assert alone.query.pictures == among.query.pictures
    assert draw_item(4, seed=8).query.pictures != alone.query.pictures


def test_the_streams_of_one_seed_share_no_picture() -> None:
    digests = [
        item.query.pictures[0].digest
        for stream in ("train", "calibration", "test")
        for item in draw_items(6, seed=0, stream=stream)  # type: ignore[arg-type]
    ]
    assert len(set(digests)) == len(digests)


def test_the_splits_take_turns_and_ids_are_unique() -> None:
    items = list(draw_items(9, seed=1))
    assert [item.split for item in items] == list(SPLITS) * 3
    assert len({item.item_id for item in items}) == 9


def test_the_picture_is_a_sound_png_of_full_size() -> None:
    picture = draw_item(0, seed=2).query.pictures[0]
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.size == (SCENE_PX, SCENE_PX) == picture.size
        assert image.mode == "RGB"


def test_the_answer_is_one_of_the_options_and_its_place_is_random() -> None:
    places: Counter[int] = Counter()
    for _, asked in questions(1200):
        if asked.options:
            assert asked.options.count(asked.answer) == 1
            if len(asked.options) == 4:
                places[asked.options.index(asked.answer)] += 1
        else:
            assert asked.answer in ("yes", "no")
    share = np.array([places[i] for i in range(4)]) / sum(places.values())
    assert np.all(np.abs(share - 0.25) < 0.06)


def test_a_question_is_hard_when_it_is_about_a_tiny_thing() -> None:
    hard = Counter()
    for scene, asked in questions(1200):
        assert asked.is_hard == any(thing.size == "tiny" for thing in asked.targets)
        assert all(thing in scene.things for thing in asked.targets)
        hard[asked.is_hard] += 1
    assert 0.35 < hard[True] / 1200 < 0.55


def test_answers_agree_with_the_scene() -> None:
    for scene, asked in questions(900):
        match asked.kind:
            case "shape":
                assert asked.answer == asked.targets[0].shape
            case "tone":
                assert asked.answer == asked.targets[0].tone
            case "side":
                assert asked.answer == SIDE_WORDS[asked.targets[0].side]
            case "existence":
                colour, shape = asked.question.split()[3:5]
                thing = scene.find(colour)
                there = thing is not None and thing.shape == shape
                assert asked.answer == ("yes" if there else "no")
            case "relation":
                a, b = asked.targets
                words = asked.answer.split()[-1]
                truth = {
                    "left": a.x_px < b.x_px,
                    "right": a.x_px > b.x_px,
                    "above": a.y_px < b.y_px,
                    "below": a.y_px > b.y_px,
                }
                assert truth[words]
