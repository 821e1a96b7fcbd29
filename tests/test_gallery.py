"""The gallery: which items are shown, with their pictures, or with the reason why not."""

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow

from speceyes.bench.comparison import compare
from speceyes.bench.items import Spoiled
from speceyes.bench.page import thumbnails
from speceyes.bench.page.gallery import cards, choose, passages
from speceyes.bench.page.report import render
from speceyes.bench.page.thumbnails import CROP_PX, SCENE_PX, make_small
from speceyes.errors import SuiteError
from speceyes.pictures import decode, open_picture
from speceyes.types import Box
from tests.pages import ALL, crowded, drawn, looking, only, tiny
from tests.scripted_pair import ListSuite, tiny_items, tiny_run


def decoded(uri):
    head, data = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return Pillow.open(io.BytesIO(base64.b64decode(data)))


def jpeg(width, height, *, colours=((200, 30, 30), (30, 30, 200)), rotation=None):
    """Make a JPEG whose left half has one colour and whose right half another."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = colours
    buffer = io.BytesIO()
    exif = Pillow.Exif()
    if rotation is not None:
        exif[0x0112] = rotation
    Pillow.fromarray(pixels).save(buffer, "JPEG", quality=90, exif=exif)
    return open_picture(buffer.getvalue())


def entrants(*methods):
    return compare([only(tiny_run(60, methods=ALL), *methods)])[0].entrants


def test_mistakes_are_shown_first_but_not_alone():
    taken = tiny()[0].entrants
    by = {entrant.method: {r.item_id: r for r in entrant.records} for entrant in taken}
    pair = by["baseline"], by["speceyes"]
    wrong = {item for item in pair[0] if not all(records[item].is_right for records in pair)}
    shown = choose(taken, 12)
    assert len(shown) == len(set(shown)) == 12
    assert 0 < len(wrong) < 60
    assert set(shown[: min(4, len(wrong))]) <= wrong
    ours = [by["speceyes"][item] for item in shown]
    assert {record.split for record in ours} == {"attribute", "position", "existence"}
    assert {record.route for record in ours} == {"speculative", "agentic"}


def test_the_gallery_is_about_whoever_is_there():
    for methods, label in (
        (("baseline", "speceyes"), "SpecEyes"),
        (("baseline", "specreason"), "SpecReason"),
        (("small",), "small alone"),
    ):
        shown = cards(entrants(*methods), None, count=3)
        assert [card.ours.label for card in shown] == [label] * 3
        assert all(len(card.others) == len(methods) - 1 for card in shown)


def test_an_item_whose_suite_is_gone_is_shown_without_its_picture():
    shown = cards(tiny()[0].entrants, None, absent="data/vstar is no folder here", count=3)
    assert [card.scenes for card in shown] == [()] * 3
    assert {card.absent for card in shown} == {"data/vstar is no folder here"}


def test_an_item_that_the_suite_no_longer_has_says_so():
    shown = cards(tiny()[0].entrants, ListSuite(tiny_items(1)), count=60)
    here = {card.ours.record.item_id for card in shown if card.absent is None}
    assert here == {"tiny-0"}
    assert {card.absent for card in shown} == {None, "the suite no longer has it"}


def test_a_picture_is_not_shown_for_another_question():
    items = [replace(item, answer="ring") for item in tiny_items(60) if item.answer == "star"]
    shown = cards(tiny()[0].entrants, ListSuite(items), count=60)
    assert not any(card.scenes for card in shown)
    assert "the suite asks something else under this name now" in {card.absent for card in shown}


def test_a_row_that_is_spoiled_now_says_why():
    error = SuiteError("a.tsv, row 2", "has no picture")
    shown = cards(tiny()[0].entrants, ListSuite([Spoiled("tiny-0", "attribute", error)]), count=60)
    assert "a.tsv, row 2: has no picture" in {card.absent for card in shown}


def test_a_suite_that_breaks_on_the_way_leaves_the_rest_without_pictures():
    class Breaking(ListSuite):
        def entries(self):
            yield from super().entries()
            raise SuiteError("b.tsv", "cannot be read: it is gone")

    shown = cards(tiny()[0].entrants, Breaking(tiny_items(1)), count=60)
    assert {card.absent for card in shown} == {None, "b.tsv: cannot be read: it is gone"}


def test_no_more_of_a_suite_is_read_than_is_shown():
    class Counting(ListSuite):
        given = 0

        def entries(self):
            for entry in super().entries():
                self.given += 1
                yield entry

    suite = Counting(tiny_items(60))
    wanted = choose(tiny()[0].entrants, 1)
    cards(tiny()[0].entrants, suite, count=1)
    assert suite.given == int(wanted[0].removeprefix("tiny-")) + 1


def test_a_card_has_its_picture_and_what_the_agent_was_shown():
    (comparison,), suites = drawn()
    shown = cards(comparison.entrants, suites[comparison.suite.checksum])
    for card in shown:
        (scene,) = card.scenes
        assert max(decoded(scene.uri).size) == SCENE_PX
        for telling in (card.ours, *card.others):
            for look in telling.looks:
                assert len(look.crops) == len(look.turn.boxes_px)
    assert any(look.crops for card in shown for look in card.ours.looks)


def test_boxes_are_those_of_another_where_ours_needed_none():
    (comparison,), _ = drawn()
    for card in cards(comparison.entrants, None):
        zoomed = any(turn.boxes_px for turn in card.ours.record.turns)
        assert (card.boxed is card.ours) is zoomed


def test_boxes_of_a_second_picture_are_drawn_and_cut_there():
    run, (item,) = with_zoom_in_the_second_picture()
    comparison = compare([run])
    (card,) = cards(comparison[0].entrants, ListSuite([item]))
    crop = np.asarray(decoded(card.ours.looks[0].crops[0]).convert("RGB")).mean(axis=(0, 1))
    assert crop.argmax() == 1  # green is only in the second
    page = render(comparison, {run.manifest.suite.checksum: ListSuite([item])})
    first, second = page.split('<svg class="scene"')[1:]
    assert 'class="zoom line"' not in first
    assert 'class="zoom line"' in second


def with_zoom_in_the_second_picture():
    item = tiny_items(1)[0]
    pictures = (jpeg(100, 60), jpeg(300, 200, colours=((0, 200, 0), (0, 0, 0))))
    item = replace(item, query=replace(item.query, pictures=pictures), targets_px=())
    (record,) = [r for r in tiny_run().records if (r.method, r.item_id) == ("baseline", "tiny-0")]
    turns = (replace(record.turns[0], boxes_px=(Box(0, 0, 40, 40, 1),)), *record.turns[1:])
    run = replace(tiny_run(), records=(replace(record, turns=turns, targets_px=()),))
    return run, [item]


def test_a_crop_is_cut_from_where_the_box_is_however_small_the_picture_is_made():
    picture = jpeg(7680, 4320)
    small = make_small(picture, [Box(100, 100, 3000, 2000), Box(4000, 100, 7000, 2000)])
    left, right = (np.asarray(decoded(crop).convert("RGB")) for crop in small.crops)
    assert left.mean(axis=(0, 1)).argmax() == 0
    assert right.mean(axis=(0, 1)).argmax() == 2
    assert max(left.shape[:2]) <= CROP_PX
    assert max(decoded(small.whole).size) == SCENE_PX


def test_of_a_large_jpeg_no_more_is_decoded_than_its_thumbnails_need(monkeypatch):
    sizes = []

    def watched(picture, **more):
        image = decode(picture, **more)
        sizes.append(image.size)
        return image

    monkeypatch.setattr(thumbnails, "decode", watched)
    picture = jpeg(4096, 2048)
    make_small(picture, [])
    make_small(picture, [Box(0, 0, 400, 400)])
    make_small(picture, [Box(0, 0, 90, 90)])  # needs every pixel it can get
    assert sizes == [(512, 256), (2048, 1024), (4096, 2048)]


def test_a_picture_that_was_turned_by_its_camera_is_made_small_upright():
    picture = jpeg(2000, 1000, rotation=6)  # to be turned clockwise: the left half goes up
    assert picture.size == (1000, 2000)
    small = make_small(picture, [Box(0, 0, 1000, 800)])
    assert decoded(small.whole).size == (SCENE_PX // 2, SCENE_PX)
    top = np.asarray(decoded(small.crops[0]).convert("RGB")).mean(axis=(0, 1))
    assert top.argmax() == 0


def test_words_outside_tags_are_kept():
    parts = passages("Well. <think>hm <b>x</b></think> and <answer>star")
    assert [(p.tag, p.text) for p in parts] == [
        (None, "Well."),
        ("think", "hm <b>x</b>"),
        (None, "and <answer>star"),
    ]


def test_of_several_entrants_of_one_method_the_first_is_on_the_cards():
    comparison = crowded()[0][0]
    assert len(comparison.entrants) == 8
    for card in cards(comparison.entrants, None, count=3):
        assert card.ours.label == "SpecEyes (concurrency 1)"
        labels = [other.label for other in card.others]
        assert labels == ["agent alone (concurrency 1)", "SpecReason", "small alone"]


def test_a_card_has_what_the_small_model_saw_when_it_looked_closer():
    (comparison,), suites = looking()
    shown = cards(comparison.entrants, suites[comparison.suite.checksum])
    closer = [each for card in shown for each in card.ours.closer]
    assert closer
    assert all(max(decoded(each.crop).size) <= CROP_PX for each in closer)
    assert all(card.boxed is card.ours for card in shown if card.ours.closer)
    assert all(not other.closer for card in shown for other in card.others)
