"""The built-in suite as one of the suites: the same items as ever, in the same order."""

from __future__ import annotations

import hashlib

import pytest

from speceyes.bench.suites import builtin
from speceyes.bench.suites.opening import open_suite
from speceyes.builtin.suite import draw_items
from speceyes.errors import ConfigError


def told(items):
    """Give all of an item that counts, without the bytes of its picture."""
    return [
        (i.item_id, i.query.question, i.query.options, i.answer, i.kind, i.targets_px)
        for i in items
    ]


def test_items_come_as_they_are_drawn():
    assert list(open_suite("builtin", seed=7, per_split=2).entries()) == list(draw_items(6, seed=7))


def test_a_choice_of_splits_leaves_the_others_out():
    found = open_suite("builtin", seed=7, per_split=2, splits=("existence",)).entries()
    whole = [item for item in draw_items(6, seed=7) if item.split == "existence"]
    assert list(found) == whole


def test_a_number_in_the_suite_string_counts_all_items():
    suite = open_suite("builtin:4", seed=7)
    assert list(suite.entries()) == list(draw_items(4, seed=7))
    assert suite.facts.counts == {"attribute": 2, "position": 1, "existence": 1}
    part = open_suite("builtin:4", seed=7, splits=("attribute",))
    assert [item.split for item in part.entries()] == ["attribute"] * part.facts.total


def test_a_number_in_the_suite_string_goes_without_a_bound():
    with pytest.raises(ConfigError, match="per_split: builtin:4 has its number"):
        open_suite("builtin:4", per_split=2)


def test_facts_need_no_drawing(monkeypatch):
    monkeypatch.setattr(builtin, "draw_item", None)
    facts = open_suite("builtin", splits=("position", "attribute")).facts
    assert facts.counts == {"attribute": 40, "position": 40}
    assert (facts.released, facts.files, facts.deviations) == ({}, {}, {})


def test_whatever_decides_the_items_changes_the_checksum(monkeypatch):
    asked = [{}, {"seed": 1}, {"per_split": 2}, {"splits": ("position",)}]  # and 40 by default
    made = {open_suite("builtin", **more).facts.checksum for more in asked}
    assert open_suite("builtin", per_split=40).facts.checksum in made
    monkeypatch.setattr(builtin, "GENERATOR_VERSION", builtin.GENERATOR_VERSION + 1)
    made.add(open_suite("builtin").facts.checksum)
    assert len(made) == len(asked) + 1


def test_an_unknown_split_is_refused_and_the_known_are_named():
    with pytest.raises(ConfigError, match="'4k' is unknown; builtin has attribute, position"):
        open_suite("builtin", splits=("4k",))


def test_the_generator_s_version_goes_with_its_items():
    """If this fails, items are others than before: raise GENERATOR_VERSION and write both anew."""
    digest = hashlib.sha256(repr(told(draw_items(12, seed=3))).encode()).hexdigest()
    assert (builtin.GENERATOR_VERSION, digest[:16]) == (1, "570f3f975d5eeced")
