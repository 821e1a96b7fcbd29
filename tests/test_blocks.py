"""What goes on behind the walls, and what is believed of it: messages, repairs, blocks, results."""

import json
import signal
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from speceyes.tools.inside import pad as pads
from speceyes.tools.inside.frames import LENGTHS, FrameError, lengths, pack, unpack_head
from speceyes.tools.inside.pad import Pad
from speceyes.tools.inside.plan import Plan, plan_from_json
from speceyes.tools.inside.repairs import mend
from speceyes.tools.limits import SandboxLimits
from speceyes.tools.outcomes import max_body_bytes, read_result

LIMITS = SandboxLimits(text_chars=100, pictures=3, picture_px=1000)
PLAIN = {"text": 0, "error": None, "pictures": [], "repairs": []}


def a_plan(folder, **more):
    return Plan(
        **{
            "walls": False,
            "become_id": None,
            "seccomp": "",
            "output_folder": str(folder),
            "picture_folder": str(folder),
            "collects": "printed",
            "interrupt_s": 20.0,
            "cpu_s": 60,
            "memory_bytes": 1 << 30,
            "output_bytes": 1 << 20,
            "file_bytes": 1 << 20,
            "files": 10,
            "open_files": 10,
            "threads": 10,
            "text_chars": 300,
            "pictures": 2,
            "picture_px": 10_000,
        }
        | more
    )


@pytest.fixture
def pad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGALRM)
    yield Pad(a_plan(tmp_path))
    signal.signal(signal.SIGALRM, before)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5), st.binary())
def test_a_message_comes_as_it_went(head, body):
    packed = pack(head, body)
    head_bytes, body_bytes = lengths(packed[: LENGTHS.size], max_body_bytes=len(body))
    rest = packed[LENGTHS.size :]
    assert (unpack_head(rest[:head_bytes]), rest[head_bytes:]) == (head, body)
    assert len(body) == body_bytes


def test_a_message_longer_than_agreed_is_refused():
    with pytest.raises(FrameError):
        lengths(LENGTHS.pack(10, 101), max_body_bytes=100)
    with pytest.raises(FrameError):
        lengths(LENGTHS.pack(65_537, 0), max_body_bytes=100)


@given(st.binary(max_size=200))
def test_a_head_is_an_object_or_an_error(data):
    with suppress(FrameError):
        assert isinstance(unpack_head(data), dict)


@pytest.mark.parametrize("depth", [100, 60_000])
def test_a_nested_head_does_no_harm(depth):
    with pytest.raises(FrameError):
        unpack_head(b"[" * depth)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(PLAIN, json_values)),
    st.binary(max_size=64),
)
def test_whatever_is_said_a_result_is_within_its_bounds_or_refused(head, body):
    try:
        result = read_result(head, body, LIMITS)
    except FrameError:
        return
    assert len(result.text.encode()) <= max_body_bytes(LIMITS)
    assert sum(len(rgb) for _, rgb in result.pictures) <= 3 * LIMITS.picture_px


def test_a_result_is_read_as_it_was_written():
    head = {"text": 3, "error": 2, "pictures": [[2, 1], [1, 1]], "repairs": ["fence"]}
    result = read_result(head, "aé".encode() + b"no" + bytes(range(9)), LIMITS)
    assert (result.text, result.error, result.repairs) == ("aé", "no", ("fence",))
    assert result.pictures == (((2, 1), bytes(range(6))), ((1, 1), bytes(range(6, 9))))


@pytest.mark.parametrize(
    "lie",
    [
        {"text": 1},
        {"text": -1},
        {"text": True},
        {"text": 10**9},
        {"error": 4.0},
        {"pictures": [[1, 1]]},
        {"pictures": [[0, 9]]},
        {"pictures": [[-1, -1]]},
        {"pictures": [[1000, 2]]},
        {"pictures": [[1, 300]]},
        {"pictures": [[1, 1, 1]]},
        {"pictures": [[0, 0]] * 4},
        {"pictures": "none"},
        {"repairs": ["<script>"]},
        {"repairs": [[]]},
        {"repairs": ["fence"] * 9},
        {"repairs": None},
    ],
    ids=str,
)
def test_a_result_that_lies_is_refused(lie):
    assert read_result(PLAIN, b"", LIMITS).error is None
    with pytest.raises(FrameError):
        read_result(PLAIN | lie, b"", LIMITS)


def test_a_plan_comes_as_it_went(tmp_path):
    plan = a_plan(tmp_path)
    assert plan_from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["walls"] is False


@pytest.mark.parametrize(
    ("written", "mended", "repairs"),
    [
        ("x = 1", "x = 1", ()),
        ("for x in y:\n    print(x)", "for x in y:\n    print(x)", ()),
        ("\n```python\nx = 1\n```\n", "x = 1", ()),
        ("```py\nx = 1\ny = 2\n```", "x = 1\ny = 2", ()),
        ("```\nx = 1\n```", "x = 1", ("fence",)),
        ("```python\nx = 1", "x = 1", ("fence",)),
        ("x = 1\n```", "x = 1", ("fence",)),
        ("  x = 1\n  y = 2", "x = 1\ny = 2", ("indentation",)),
        ("x = 1\n    y = 2\n    z = 3", "x = 1\ny = 2\nz = 3", ("first_line_indentation",)),
        ("    x = 1\ny = 2", "x = 1\ny = 2", ("first_line_indentation",)),
        ("```\n  x = 1\n  y = 2", "x = 1\ny = 2", ("fence", "indentation")),
        ("x = '''\n```\n'''", "x = '''\n```\n'''", ()),
        ("x = (1", "x = (1", ()),
        ("if x\n  y", "if x\n  y", ()),
    ],
)
def test_wrapping_and_indentation_are_mended_and_nothing_else(written, mended, repairs):
    assert mend(written) == (mended, repairs)


@given(st.text(max_size=60))
def test_mending_never_fails_and_what_compiles_stays(code):
    mended, repairs = mend(code)
    assert mend(mended)[0].strip("\n") == mended.strip("\n") or repairs


def test_variables_live_from_one_block_to_the_next(pad):
    pad.run("x = 20\ndef twice(n): return 2 * n")
    assert pad.run("print(twice(x) + 2)").text == "42\n"


def test_a_block_that_fails_tells_where_and_the_next_one_goes_on(pad):
    outcome = pad.run("x = 1\nprint('before')\nx / 0")
    assert outcome.text == "before\n"
    assert outcome.error.splitlines()[0] == "Traceback (most recent call last):"
    assert 'File "<block 1>", line 3' in outcome.error
    assert "x / 0" in outcome.error
    assert outcome.error.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "pad.py" not in outcome.error
    assert pad.run("print(x)").text == "1\n"


def test_code_that_does_not_compile_tells_where(pad):
    outcome = pad.run("x = 1\ny = (")
    assert 'File "<block 1>", line 2' in outcome.error
    assert "SyntaxError: '(' was never closed" in outcome.error


def test_a_block_may_end_itself(pad):
    assert pad.run("print(1)\nraise SystemExit(3)\nprint(2)").error is None


def test_what_is_printed_is_bounded_and_what_is_cut_is_counted(pad):
    assert pad.run("print('x' * 400)").text == "x" * 300 + "\n... and 101 characters more"


def test_a_block_is_interrupted_and_its_variables_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGALRM)
    pad = Pad(a_plan(tmp_path, interrupt_s=0.05))
    outcome = pad.run("x = 1\nwhile True:\n    try:\n        pass\n    except Exception: pass")
    assert "interrupted after 0.05 s" in outcome.error
    assert pad.run("print(x)").text == "1\n"
    signal.signal(signal.SIGALRM, before)


def test_pictures_whose_paths_are_printed_are_shown_in_order_and_once(pad, tmp_path):
    code = "for n in (2, 1, 2): Image.new('RGB', (n, 4), 'red').save(f'{n}.png'); print(f'{n}.png')"
    outcome = pad.run(code)
    assert [picture.size for picture in outcome.shown] == [(2, 4), (1, 4)]
    assert outcome.shown[0].rgb == bytes([255, 0, 0] * 8)
    assert outcome.error is None


def test_a_path_within_words_is_found(pad, tmp_path):
    outcome = pad.run(f"Image.new('L', (3, 4)).save('a b.png')\nprint('{tmp_path}/a b.png')")
    assert [picture.size for picture in outcome.shown] == [(3, 4)]
    outcome = pad.run("Image.new('L', (5, 4)).save('c.jpg')\nprint('it is in \"c.jpg\".')")
    assert [picture.size for picture in outcome.shown] == [(5, 4)]


def test_alpha_is_laid_over_white(pad):
    code = "Image.new('RGBA', (1, 1), (0, 0, 0, 0)).save('a.png')\nprint('a.png')"
    assert pad.run(code).shown[0].rgb == b"\xff\xff\xff"


def test_a_path_that_leads_nowhere_is_told(pad, tmp_path):
    outcome = pad.run(f"print('{tmp_path}/none.png')")
    assert outcome.error == f"there is no file {tmp_path}/none.png; save the image first"


def test_the_name_of_a_picture_elsewhere_shows_nothing(pad):
    outcome = pad.run("print('/usr/share/icon.png', 'icon.png')")
    assert (outcome.error, outcome.shown) == (None, ())


@pytest.mark.parametrize(
    ("size", "told"),
    [((101, 100), "it is above 10000 pixels"), ((900, 4), "cannot be shown")],
)
def test_a_picture_out_of_bounds_is_told(pad, size, told):
    outcome = pad.run(f"Image.new('L', {size}).save('a.png')\nprint('a.png')")
    assert told in outcome.error
    assert outcome.shown == ()


def test_pictures_share_their_pixels(pad):
    code = "for n in 'ab': Image.new('L', (80, 80)).save(f'{n}.png'); print(f'{n}.png')"
    outcome = pad.run(code)
    assert len(outcome.shown) == 1
    assert "above" in outcome.error


def test_an_image_displayed_where_paths_count_is_named(pad):
    outcome = pad.run("display(Image.new('L', (3, 4)), 'words')")
    assert outcome.text == "<image of 3x4>\nwords\n"


def test_a_picture_that_cannot_be_decoded_ahead_is_told(pad, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    mistake = pad.preload({"image_1": str(tmp_path / "bad.png")})
    assert mistake.startswith("image_1 could not be decoded")


def test_a_picture_decoded_ahead_has_its_name(pad, tmp_path):
    Pillow.new("RGB", (7, 5)).save(tmp_path / "1.png")
    assert pad.preload({"image_1": str(tmp_path / "1.png")}) is None
    assert pad.run("print(image_1.size)").text == "(7, 5)\n"


def test_words_of_an_error_are_bounded(pad):
    outcome = pad.run("raise ValueError('x' * 10 ** 6)")
    assert len(outcome.error) < pads._MAX_ERROR_CHARS + 10
