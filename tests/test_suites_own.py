"""A user's own file: what its keys mean, and that a wrong line is named, never lost."""

from __future__ import annotations

import json

import pytest

from speceyes.bench.items import Item, Spoiled
from speceyes.bench.suites.opening import open_suite
from speceyes.errors import ConfigError, SuiteError
from tests.suite_folders import a_jpeg, make_jsonl

LINE = {"image": "dog.jpg", "question": "Which?", "answer": "star", "options": ["disc", "star"]}


def entries(root, *lines, **more):
    return list(open_suite(f"jsonl:{make_jsonl(root, *lines)}", **more).entries())


def the_spoiled(root, line):
    """Give what becomes of a line between two sound ones."""
    sound = {key: LINE[key] for key in ("image", "question", "answer")}
    first, spoiled, last = entries(root, sound, line, sound)
    assert isinstance(first, Item)
    assert isinstance(last, Item)
    assert isinstance(spoiled, Spoiled)
    assert spoiled.error.field == "mine.jsonl, line 2"
    assert spoiled.item_id == "jsonl@line 2"
    return spoiled.error.message


def test_an_item_is_what_its_line_says(tmp_path):
    (item,) = entries(tmp_path, LINE | {"id": "q7", "split": "mine"})
    assert item.item_id == item.query.query_id == "jsonl-mine-q7"
    assert item.split == "mine"
    assert (item.query.question, item.query.options) == ("Which?", ("disc", "star"))
    assert item.answer == "star"
    assert item.query.pictures[0].data == a_jpeg()


def test_without_id_and_split_the_line_s_number_names_it(tmp_path):
    assert [entry.item_id for entry in entries(tmp_path, LINE, "", LINE)] == [
        "jsonl-all-1", "jsonl-all-3",
    ]  # fmt: skip


def test_several_pictures_come_in_their_order(tmp_path):
    tmp_path.joinpath("cat.jpg").write_bytes(a_jpeg(5))
    (item,) = entries(tmp_path, LINE | {"image": ["cat.jpg", "dog.jpg"]})
    assert [picture.data for picture in item.query.pictures] == [a_jpeg(5), a_jpeg()]


def test_a_path_may_be_absolute(tmp_path):
    (item,) = entries(tmp_path, LINE | {"image": str(tmp_path / "dog.jpg")})
    assert item.query.pictures[0].data == a_jpeg()


@pytest.mark.parametrize(
    ("options", "said", "answer"),
    [
        (["disc", "star"], "star", "star"),
        (["disc", "star"], "B", "star"),
        (["B", "A"], "a", None),  # a letter is a capital
        (["B", "A"], "A", None),  # one option's text and another's letter
        (["A", "B"], "A", "A"),
        (["disc", "star"], "C", None),
        (["disc", "star"], "Star", None),
        (["disc", "star"], "1", None),
        ([], "a brown dog", "a brown dog"),
        ([], "yes", "yes"),
    ],
)
def test_an_answer_is_an_option_word_for_word_or_its_letter(tmp_path, options, said, answer):
    (entry,) = entries(tmp_path, LINE | {"options": options, "answer": said})
    if answer is None:
        assert "answer" in entry.error.message
    else:
        assert entry.answer == answer


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (LINE | {"anwser": "star"}, "key 'anwser' is unknown; known are image, question, answer"),
        ({"image": "dog.jpg", "question": "Which?"}, "has no answer"),
        (LINE | {"question": 7}, "question is to be text, not 7"),
        (LINE | {"answer": 1}, "answer is to be text, not 1"),
        (LINE | {"answer": " "}, "answer is to be text"),
        (LINE | {"image": []}, "image is to be a path or a list of them"),
        (LINE | {"image": ["dog.jpg", 3]}, "image is to be a path"),
        (LINE | {"image": "lost.jpg"}, "lost.jpg cannot be read"),
        (LINE | {"image": "."}, "cannot be read"),
        (LINE | {"image": "a\0b.jpg"}, "cannot be read"),
        (LINE | {"image": "mine.jsonl"}, "picture: is none of"),
        (LINE | {"options": "disc, star"}, "options is to be a list of texts"),
        (LINE | {"options": ["star"]}, "options: has a single entry"),
        (LINE | {"options": ["star", ""]}, "options: entry 1 is empty"),
        (LINE | {"options": ["star", "STAR"]}, "stands there more than once"),
        (LINE | {"question": "half \ud800?"}, "holds half of a surrogate pair"),
        (LINE | {"id": "\udcff"}, "holds half of a surrogate pair"),
        (LINE | {"id": None}, "id is to be text or a whole number"),
        (LINE | {"id": True}, "id is to be text or a whole number"),
        (LINE | {"id": 1}, "id 'jsonl-all-1' stands further up"),
        (LINE | {"split": 3}, "split is to be a name, not 3"),
        (LINE | {"split": ""}, "split is to be a name, not ''"),
        (LINE | {"split": "unreadable"}, "split is to be a name, not 'unreadable'"),
        ("{'image': 1}", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1]", "is no JSON object"),
        (json.dumps(LINE | {"question": "x" * 2**20}), "is longer than 1048576 bytes"),
    ],
)
def test_a_line_that_cannot_be_asked_is_spoiled(tmp_path, line, told):
    assert told in the_spoiled(tmp_path, line)


def test_a_line_that_is_not_utf8_is_spoiled(tmp_path):
    path = make_jsonl(tmp_path, LINE, LINE)
    path.write_bytes(path.read_bytes().replace(b"Which", b"Wh\xffch", 1))
    spoiled, item = open_suite(f"jsonl:{path}").entries()
    assert "is not UTF-8" in spoiled.error.message
    assert isinstance(item, Item)


def test_lines_keep_their_order_and_splits_are_counted(tmp_path):
    lines = [LINE | {"split": split} for split in "bab"]
    suite = open_suite(f"jsonl:{make_jsonl(tmp_path, *lines)}")
    assert [entry.split for entry in suite.entries()] == ["b", "a", "b"]
    assert suite.facts.counts == {"b": 2, "a": 1}


def test_splits_and_bound_choose_among_the_lines(tmp_path):
    lines = [LINE | {"split": split, "id": n} for n, split in enumerate("abababc")]
    found = entries(tmp_path, *lines, splits=("b", "a"), per_split=2)
    assert [entry.item_id for entry in found] == [f"jsonl-{s}-{n}" for n, s in enumerate("abab")]


def test_a_line_without_a_readable_split_is_in_every_choice(tmp_path):
    lines = (LINE | {"split": "a"}, "no JSON", LINE | {"split": "b"})
    suite = open_suite(f"jsonl:{make_jsonl(tmp_path, *lines)}", splits=("a",))
    assert [entry.split for entry in suite.entries()] == ["a", "unreadable"]
    assert suite.facts.counts == {"a": 1, "unreadable": 1}


def test_an_unknown_split_is_refused_and_the_known_are_named(tmp_path):
    path = make_jsonl(tmp_path, LINE | {"split": "mine"})
    with pytest.raises(ConfigError, match=r"'yours' is unknown; jsonl:.* has mine"):
        open_suite(f"jsonl:{path}", splits=("yours",))


def test_facts_hold_the_digest_of_every_picture(tmp_path):
    path = make_jsonl(tmp_path, LINE, LINE | {"image": "lost.jpg"}, LINE | {"image": "a\0b.jpg"})
    before = open_suite(f"jsonl:{path}").facts
    assert set(before.files) == {"mine.jsonl", "dog.jpg"}
    (tmp_path / "dog.jpg").write_bytes(a_jpeg(1))
    assert open_suite(f"jsonl:{path}").facts.checksum != before.checksum


def test_no_file_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(SuiteError, match=r"lost.jsonl: cannot be read: No such file"):
        open_suite(f"jsonl:{tmp_path / 'lost.jsonl'}")
    with pytest.raises(SuiteError, match="holds no line"):
        open_suite(f"jsonl:{make_jsonl(tmp_path)}")
