"""What the examples stand on, without any harness: how text is read, and what is installed."""

from __future__ import annotations

import subprocess
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.speceyes_questions import read_query
from speceyes.builtin.suite import draw_items
from speceyes.errors import QueryError
from speceyes.prompts import question_text
from speceyes.types import Picture, Query
from tests.e2e.pinned_env import HARNESS, ROOT, PinnedEnvironment

PICTURES = (Picture(b"any", "image/png", 1, 1),)
WORDS = st.text("abc D?.(é", min_size=1, max_size=30).map(str.strip).filter(bool)
PIECES = st.sampled_from(["\n(A) ", " (B) ", "\n(B) ", "(C) ", "star", "?", "\n", " "])


@given(
    question=st.lists(WORDS, min_size=1, max_size=3).map("\n".join),
    options=st.lists(WORDS, min_size=2, max_size=26, unique_by=str.casefold).map(tuple),
)
def test_options_are_read_back(question, options):
    read = read_query(question_text(Query(question, PICTURES, options)), PICTURES)
    assert (read.question, read.options) == (question, options)


@given(st.lists(WORDS | PIECES, min_size=1).map("".join).filter(str.strip))
def test_no_word_of_any_text_is_lost(text):
    assert question_text(read_query(text, PICTURES)) == text.strip()


@pytest.mark.parametrize("item", list(draw_items(12, seed=7)), ids=lambda item: item.item_id)
def test_the_suites_questions_are_read_with_their_options(item):
    read = read_query(question_text(item.query), item.query.pictures)
    assert (read.question, read.options) == (item.query.question, item.query.options)


@pytest.mark.parametrize(
    "text",
    [
        "Which?\nA. star\nB. ring",
        "Which?\n(A) star (B) ring\nAnswer with the letter.",
        "Which?\n(A) star",
        "Which?\n(A) star (B) star",
        "Which?\n(A) star (C) ring",
        "Which of (A) star (B) ring?",
    ],
)
def test_what_reads_otherwise_is_asked_as_it_stands(text):
    read = read_query(text, PICTURES)
    assert read.question == text
    assert read.options == ()


def test_an_empty_text_is_refused_by_name():
    with pytest.raises(QueryError, match="question: is empty"):
        read_query(" \n", PICTURES)


def requirements() -> dict[str, str]:
    lines = HARNESS.pins.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, _, version in pins}


def test_the_harnesses_environment_pins_all_and_replaces_nothing_of_the_project():
    pins = requirements()
    assert {"inspect-ai", "lmms-eval"} <= set(pins)
    assert [name for name, version in pins.items() if not version] == []
    held = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    ours = {line.partition("==")[0].replace("_", "-") for line in held.splitlines()}
    assert set(pins) & (ours | {"torch", "torchvision", "speceyes"}) == set()


def test_an_environment_is_made_anew_when_its_pins_change(tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("inspect_ai==0.0.0\n")
    environment = PinnedEnvironment(tmp_path, pins)
    assert not environment.is_ready()
    (tmp_path / ".stamp").write_text(environment.stamp_now())
    assert environment.is_ready()
    pins.write_text("inspect_ai==0.0.1\n")
    assert not environment.is_ready()


@pytest.fixture
def hopeless(tmp_path, monkeypatch) -> PinnedEnvironment:
    def build(_self: object) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(PinnedEnvironment, "build", build)
    return PinnedEnvironment(tmp_path, HARNESS.pins)


def test_an_environment_that_cannot_be_made_stops_nobody_on_a_laptop(hopeless, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    hopeless.ensure()
    assert "tests that need it are skipped" in capsys.readouterr().out


def test_an_environment_that_cannot_be_made_fails_continuous_integration(hopeless, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(subprocess.CalledProcessError):
        hopeless.ensure()


def test_both_harnesses_are_told_of_modules_that_are_packed():
    project = tomllib.loads((ROOT / "examples/pyproject.toml").read_text())
    packed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    points = project["project"]["entry-points"]
    named = [value for group in points.values() for value in group.values()]
    assert set(points) == {"inspect_ai", "lmms_eval.models"}
    assert {name.partition(":")[0] + ".py" for name in named} <= packed
    assert packed == {path.name for path in (ROOT / "examples").glob("*.py")}
