"""V* as released: what is read, what is shuffled, and what is broken is told, not lost."""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.grade import grade
from speceyes.bench.items import Item, Spoiled
from speceyes.bench.suites.choice import option_order
from speceyes.bench.suites.opening import open_suite
from speceyes.errors import ConfigError, SuiteError
from speceyes.types import Box
from tests.suite_folders import a_jpeg, make_vstar, write_vstar


def entries(root, **more):
    return list(open_suite(f"vstar:{root}", **more).entries())


def the_spoiled(root):
    """Give the one spoiled entry of a folder; every other is an item."""
    found = entries(root, splits=("direct_attributes",))
    (spoiled,) = [entry for entry in found if isinstance(entry, Spoiled)]
    assert len(found) == 3
    return spoiled


def test_an_item_is_what_the_release_says(tmp_path):
    write_vstar(make_vstar(tmp_path), "direct_attributes", "sa_1", shade=7)
    item = entries(tmp_path)[1]
    assert item.item_id == item.query.query_id == "vstar-direct_attributes-sa_1"
    assert (item.split, item.query.question) == ("direct_attributes", "What about sa_1?")
    assert item.query.pictures[0].data == a_jpeg(7)
    assert item.answer == "right"
    assert sorted(item.query.options) == ["odd", "off", "right", "wrong"]
    assert item.targets_px == (Box(10, 12, 18, 18),)


def test_splits_follow_each_other_and_files_their_names(tmp_path):
    found = entries(make_vstar(tmp_path))
    names = [
        f"vstar-{split}-sa_{n}"
        for split in ("direct_attributes", "relative_position")
        for n in range(3)
    ]
    assert [entry.item_id for entry in found] == names


def test_defect_vstar_right_option_is_not_always_first(tmp_path):
    """The reference code shows the right option first always, so a bias for A counts as skill."""
    found = entries(make_vstar(tmp_path, count=60))
    always_a = sum(grade("A", item.answer, item.query.options).is_right for item in found)
    assert 15 <= always_a <= 45  # 120 items of 4 options: 30 expected
    released = entries(tmp_path, as_released=True)
    assert all(grade("A", item.answer, item.query.options).is_right for item in released)


def test_as_released_moves_nothing(tmp_path):
    item = entries(make_vstar(tmp_path), as_released=True)[0]
    assert item.query.options == ("right", "wrong", "odd", "off")
    assert item.released_order == ()


def test_the_order_tells_where_each_option_stood(tmp_path):
    released = ("right", "wrong", "odd", "off")
    for item in entries(make_vstar(tmp_path, count=8), seed=5):
        assert tuple(released[i] for i in item.released_order) == item.query.options


def test_the_same_seed_shows_the_same_order_and_another_another(tmp_path):
    make_vstar(tmp_path, count=12)
    shown = [[item.query.options for item in entries(tmp_path, seed=seed)] for seed in (0, 0, 1)]
    assert shown[0] == shown[1] != shown[2]


def test_an_order_does_not_depend_on_which_other_items_come(tmp_path):
    make_vstar(tmp_path, count=5)
    whole = {item.item_id: item.query.options for item in entries(tmp_path)}
    part = entries(tmp_path, splits=("relative_position",), per_split=2)
    assert [item.query.options for item in part] == [whole[item.item_id] for item in part]


@given(st.text(min_size=1), st.integers(1, 8), st.integers(0, 2**40))
def test_an_order_holds_every_place_once_and_is_always_the_same(item_id, count, seed):
    order = option_order(item_id, count, seed=seed)
    assert sorted(order) == list(range(count))
    assert order == option_order(item_id, count, seed=seed)


@pytest.mark.parametrize("count", [2, 4])
def test_the_right_option_stands_everywhere_about_as_often(count):
    places = Counter(
        option_order(f"vstar-direct_attributes-sa_{n}", count, seed=seed).index(0)
        for n in range(200)
        for seed in range(10)
    )
    expected = 2000 / count
    for place in range(count):
        assert abs(places[place] - expected) < 4.5 * (expected * (1 - 1 / count)) ** 0.5


def test_orders_do_not_change_with_versions():
    """Results rely on them: this is the order of one item, written down once."""
    assert option_order("vstar-direct_attributes-sa_4690", 4, seed=0) == (0, 2, 1, 3)


@pytest.mark.parametrize(
    ("bbox", "targets"),
    [
        ([[1.5, 2.5, 3, 3]], (Box(1, 2, 5, 6),)),
        ([[60, 40, 30, 30]], (Box(60, 40, 64, 48),)),  # cut to the picture
        ([[-5, -1, 8, 3]], (Box(0, 0, 3, 2),)),
        ([[1, 1, 2, 2], [4, 4, 2, 2]], (Box(1, 1, 3, 3), Box(4, 4, 6, 6))),
        ([[1, 1, 2, 2], [70, 1, 2, 2]], ()),  # one outside: none is trusted
        ([[1, 1, 0, 2]], ()),
        ([[1, 1, 2]], ()),
        ([[1, 1, 2, "2"]], ()),
        ([[1, 1, 1e308, float("inf")]], ()),
        ([[1, 1, True, 2]], ()),
        ("none", ()),
        (None, ()),
    ],
)
def test_boxes_are_targets_only_if_all_are_sound(tmp_path, bbox, targets):
    write_vstar(make_vstar(tmp_path, count=1), "direct_attributes", "sa_0", bbox=bbox)
    assert entries(tmp_path)[0].targets_px == targets


BROKEN = {
    "a missing picture": (lambda f: (f / "sa_1.jpg").unlink(), "has no picture beside it"),
    "a missing JSON": (lambda f: (f / "sa_1.json").unlink(), "is missing; its picture is there"),
    "two pictures": (
        lambda f: (f / "sa_1.png").write_bytes(a_jpeg()), "more than one picture beside it",
    ),
    "JSON that is none": (lambda f: (f / "sa_1.json").write_text("{'question': 1}"), "is no JSON"),
    "JSON without end": (lambda f: (f / "sa_1.json").write_text("[" * 100_000), "is no JSON"),
    "a list": (lambda f: (f / "sa_1.json").write_text("[]"), "is no JSON object"),
    "Latin-1": (lambda f: (f / "sa_1.json").write_bytes(b'{"question": "\xe9"}'), "is not UTF-8"),
    "a damaged header": (
        lambda f: (f / "sa_1.jpg").write_bytes(a_jpeg()[:11]), "its picture sa_1.jpg: ",
    ),
    "an empty picture": (lambda f: (f / "sa_1.jpg").write_bytes(b""), "sa_1.jpg: has no bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_question_is_spoiled_and_names_its_file(tmp_path, case):
    breaks, told = BROKEN[case]
    breaks(make_vstar(tmp_path) / "direct_attributes")
    spoiled = the_spoiled(tmp_path)
    assert spoiled.item_id == "vstar-direct_attributes-sa_1"
    assert isinstance(spoiled.error, SuiteError)
    assert spoiled.error.field == "direct_attributes/sa_1.json"
    assert told in spoiled.error.message


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"question": "  "}, "question: is empty"),
        ({"question": None}, "has no question"),
        ({"options": ["right"]}, "has no list of two options or more"),
        ({"options": "right"}, "has no list of two options or more"),
        ({"options": ["right", 2]}, "has no list of two options or more"),
        ({"options": ["right", " "]}, "options: entry 1 is empty"),
        ({"options": ["right", "odd", "Right "]}, "'right' stands there more than once"),
    ],
)
def test_a_question_that_cannot_be_asked_is_spoiled(tmp_path, more, told):
    write_vstar(make_vstar(tmp_path), "direct_attributes", "sa_1", **more)
    assert told in the_spoiled(tmp_path).error.message


def test_facts_count_what_will_come_spoiled_or_not(tmp_path):
    (make_vstar(tmp_path) / "direct_attributes" / "sa_1.jpg").unlink()
    suite = open_suite(f"vstar:{tmp_path}")
    assert suite.facts.counts == {"direct_attributes": 3, "relative_position": 3}
    assert suite.facts.total == len(list(suite.entries()))
    assert suite.facts.released == {"direct_attributes": 115, "relative_position": 76}
    assert suite.facts.deviations["relative_position"] == (3, 76)


def test_facts_hold_the_digest_of_every_file_that_is_read(tmp_path):
    facts = open_suite(f"vstar:{make_vstar(tmp_path)}", per_split=1).facts
    kinds = [f"{split}/sa_0.{kind}" for split in facts.counts for kind in ("jpg", "json")]
    assert sorted(facts.files) == sorted(kinds)


def test_a_file_that_cannot_be_read_spoils_its_own_question_and_no_more(tmp_path):
    path = make_vstar(tmp_path) / "direct_attributes" / "sa_1.jpg"
    path.unlink()
    path.mkdir()
    assert "sa_1.jpg: " in the_spoiled(tmp_path).error.message
    facts = open_suite(f"vstar:{tmp_path}").facts
    assert "direct_attributes/sa_1.jpg" not in facts.files
    assert facts.total == 6


def test_a_bound_is_no_deviation(tmp_path):
    facts = open_suite(f"vstar:{make_vstar(tmp_path)}", per_split=2).facts
    assert facts.counts == {"direct_attributes": 2, "relative_position": 2}
    assert facts.deviations == {}


def test_whatever_decides_the_items_changes_the_checksum(tmp_path):
    make_vstar(tmp_path)
    asked = [
        {},
        {"seed": 1},
        {"as_released": True},
        {"per_split": 2},
        {"splits": ("relative_position",)},
    ]
    before = [open_suite(f"vstar:{tmp_path}", **more).facts.checksum for more in asked]
    write_vstar(tmp_path, "relative_position", "sa_2", question="Which?")
    after = open_suite(f"vstar:{tmp_path}").facts.checksum
    assert len({*before, after}) == len(asked) + 1


def test_hidden_and_foreign_files_are_no_questions(tmp_path):
    folder = make_vstar(tmp_path) / "direct_attributes"
    for name in ("._sa_1.jpg", ".DS_Store", "README.md"):
        (folder / name).write_bytes(b"x")
    assert all(isinstance(entry, Item) for entry in entries(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_file_may_have_any_name(tmp_path):
    write_vstar(tmp_path, "direct_attributes", os.fsdecode(b"sa_\xff"))
    (item,) = entries(tmp_path, splits=("direct_attributes",))
    assert item.item_id == "vstar-direct_attributes-sa_\\udcff"


def test_an_unknown_split_is_refused_and_the_known_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"OCR.*direct_attributes, relative_position"):
        open_suite(f"vstar:{make_vstar(tmp_path)}", splits=("OCR",))


def test_a_missing_split_is_refused_unless_left_out(tmp_path):
    make_vstar(tmp_path, splits=("direct_attributes",))
    with pytest.raises(SuiteError, match=r"relative_position.*leave it out"):
        open_suite(f"vstar:{tmp_path}")
    assert len(entries(tmp_path, splits=("direct_attributes",))) == 3
