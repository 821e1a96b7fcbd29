"""`speceyes grade`: rules anew, a model for the rest, and grades that lie beside the records."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from speceyes.bench.folder import GRADES, RECORDS, open_folder, read_grades, read_run
from speceyes.bench.grade import Grade
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import EngineUnavailable
from tests.command_line import call
from tests.scripted_pair import ListSuite, manifest, tiny_items, tiny_run

ITEMS = tiny_items(6)
UNSURE = "It might be the one or the other"


def a_run(path, *texts):
    """Leave a run whose first records have these texts, graded by nobody in particular."""
    records = list(tiny_run(6, methods=("baseline",)).records)
    for place, text in enumerate(texts):
        records[place] = replace(records[place], text=text, grade=Grade("right", None, "guessed"))
    with open_folder(path, manifest(ListSuite(ITEMS), methods=("baseline",))) as folder:
        for record in records:
            folder.add(record)
    return path


@pytest.fixture
def grader(monkeypatch):
    """A text model that says what it is told to."""
    made = ReplayEngine(lambda _: Take(scripted("1", separability=None)), name="qwen")
    made.opened = []

    @asynccontextmanager
    async def opened(name, **_):
        made.opened.append(name)
        yield made

    monkeypatch.setattr("speceyes.assemble_engines.open_engine", opened)
    return made


def values(path):
    return [record.grade.value for record in read_run(path).records]


def test_answers_are_graded_anew_by_the_rules(tmp_path):
    path = a_run(tmp_path / "run", "disc", "A. star")
    before = (path / RECORDS).read_bytes()
    done = call("grade", path, "--json")
    assert done.exit_code == 0, done.output
    truths = [item.answer for item in ITEMS]
    assert truths[:2] == ["star", "ring"]
    assert values(path)[:2] == ["wrong", "wrong"]
    assert (path / RECORDS).read_bytes() == before
    assert json.loads(done.stdout)[str(path)]["baseline"]["wrong"] >= 2


def test_without_a_model_what_rules_cannot_read_is_undecided_and_counted(tmp_path):
    path = a_run(tmp_path / "run", UNSURE)
    done = call("grade", path, "--json")
    assert values(path)[0] == "undecided"
    assert json.loads(done.stdout)[str(path)]["baseline"]["undecided"] == 1


def test_a_model_is_asked_about_those_alone(tmp_path, grader):
    path = a_run(tmp_path / "run", UNSURE, "star")
    done = call("grade", path, "--grader", "http://127.0.0.1:1/v1#qwen", "--json")
    assert done.exit_code == 0, done.output
    assert grader.opened == ["http://127.0.0.1:1/v1#qwen"]
    assert len(grader.calls) == 1
    settled = read_run(path).records[0].grade
    assert (settled.value, settled.by) == ("right", "model:qwen")
    assert json.loads(done.stdout)[str(path)]["baseline"]["by model"] == 1


def test_what_a_model_has_decided_is_not_asked_again_nor_undone(tmp_path, grader):
    path = a_run(tmp_path / "run", UNSURE)
    call("grade", path, "--grader", "http://h/v1#m")
    call("grade", path)
    call("grade", path, "--grader", "http://h/v1#m")
    assert len(grader.calls) == 1
    assert values(path)[0] == "right"


def test_grading_twice_adds_nothing(tmp_path):
    path = a_run(tmp_path / "run", "disc")
    call("grade", path)
    before = (path / GRADES).read_bytes()
    call("grade", path)
    assert (path / GRADES).read_bytes() == before
    assert len(read_grades(path)) == 1


def test_a_model_that_is_down_leaves_them_undecided_with_the_reason(tmp_path, grader):
    grader._script = lambda _: Take(EngineUnavailable("qwen", "is down"))
    path = a_run(tmp_path / "run", UNSURE)
    done = call("grade", path, "--grader", "http://h/v1#m")
    assert done.exit_code == 0, done.output
    (first, *_) = read_run(path).records
    assert first.grade.value == "undecided"
    assert "is down" in first.grade.explanation


def test_a_grader_that_is_no_engine_is_refused_by_its_own_name(tmp_path):
    path = a_run(tmp_path / "run", UNSURE)
    done = call("grade", path, "--grader", "gpt")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("speceyes: grader: 'gpt' is no engine")


def test_failures_stay_what_they_are(tmp_path):
    path = tmp_path / "run"
    failed = replace(tiny_run(6, methods=("baseline",)).records[0], text=None)
    with open_folder(path, manifest(ListSuite(ITEMS), methods=("baseline",))) as folder:
        folder.add(failed)
    call("grade", path)
    assert read_run(path).records[0].grade == failed.grade
