"""The nouns: what a query may be, how values compare, and what importing the package costs."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

import speceyes
from speceyes import errors
from speceyes.errors import InputError, QueryError, SpecEyesError
from speceyes.types import Box, Evidence, Picture, Query, Usage

PICTURE = Picture(b"some bytes", "image/png", 4, 3)


def test_pictures_are_equal_when_their_bytes_are():
    twin = Picture(b"some bytes", "image/png", 4, 3)
    other = Picture(b"other bytes", "image/png", 4, 3)
    assert twin == PICTURE
    assert len({twin, PICTURE, other}) == 2
    assert other != PICTURE
    assert PICTURE != "some bytes"


def test_a_picture_keeps_its_bytes_out_of_its_repr_and_knows_its_size():
    assert "some bytes" not in repr(PICTURE)
    assert PICTURE.size == (4, 3)
    assert Box(1, 2, 4, 8).size == (3, 6)


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PICTURE.width_px = 5


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"question": " \n\t"}, "question"),
        ({"pictures": ()}, "pictures"),
        ({"query_id": ""}, "query_id"),
        ({"options": ("red",)}, "options"),
        ({"options": ("red", "  ")}, "options"),
        ({"options": ("red", "blue", " RED ")}, "options"),
        ({"options": ("straße", "STRASSE")}, "options"),
    ],
)
def test_a_query_that_cannot_be_asked_names_its_field(settings, field):
    with pytest.raises(QueryError) as caught:
        Query(**{"question": "What?", "pictures": (PICTURE,), **settings})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert caught.value.http_status == 400


@pytest.mark.parametrize("question", ["这是什么颜色？", "Welche Farbe hat das Dreieck?", "ما هذا؟"])
def test_questions_in_any_language_are_fine(question):
    query = Query(question, (PICTURE,), ("rot", "grün"))
    assert query.question == question


def test_queries_get_ids_of_their_own():
    assert Query("What?", (PICTURE,)).query_id != Query("What?", (PICTURE,)).query_id
    assert Query("What?", (PICTURE,), query_id="q1") == Query("What?", (PICTURE,), query_id="q1")


def test_usage_adds_up_and_what_was_not_measured_stays_unknown():
    one = Usage(10, 4, 2, 1)
    assert one + Usage(1, 2, 3, 4) == Usage(11, 6, 5, 5)
    assert Usage.zero + one == one
    assert (one + Usage(1, None, 0, 0)).cached_tokens is None
    assert sum([one, one], Usage.zero) == Usage(20, 8, 4, 2)


def test_evidence_is_float32_read_only_and_compares_by_value():
    rows = np.log([[0.7, 0.2, 0.1]])
    one, twin = Evidence(rows, rows[:, 0]), Evidence(rows.copy(), rows[:, 0])
    assert one == twin
    assert hash(one) == hash(twin)
    assert one != Evidence(rows - 1, rows[:, 0])
    assert one != Evidence(rows, rows[:, 0], (("a", "b", "c"),))
    assert one.logp_topk.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        one.logp_topk[0, 0] = 0.0


def test_evidence_leaves_the_callers_array_writable():
    rows = np.zeros((1, 3), dtype=np.float32)
    Evidence(rows, rows[:, 0])
    rows[0, 0] = 1.0


def error_classes(root=SpecEyesError):
    return [root, *(leaf for child in root.__subclasses__() for leaf in error_classes(child))]


def test_every_error_is_drawn_in_the_tree_with_its_status():
    drawn = {
        line.replace("+--", "").replace("|", "").split()[0]: line.split()
        for line in errors.__doc__.splitlines()
        if line.startswith("    ")
    }
    classes = [kind for kind in error_classes() if kind.__module__ == errors.__name__]
    assert set(drawn) == {kind.__name__ for kind in classes}
    for kind in classes:
        assert str(kind.http_status) in drawn[kind.__name__]


def test_errors_say_where_and_what():
    assert str(InputError("question", "is empty")) == "question: is empty"
    assert str(errors.EngineTimeout("small", "no reply in 5 s")) == "small: no reply in 5 s"


def test_every_lazy_name_resolves_and_unknown_ones_do_not():
    for name in speceyes._HOME:
        assert getattr(speceyes, name) is not None
        assert name in dir(speceyes)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = speceyes.no_such_name


def test_importing_speceyes_loads_numpy_at_most():
    code = (
        "import sys, speceyes, speceyes.types, speceyes.gate, speceyes.screen, speceyes.events,"
        " speceyes.pictures; heavy = {'torch', 'PIL', 'aiohttp', 'transformers', 'anyio',"
        " 'trio', 'typer', 'rich', 'asyncio'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
