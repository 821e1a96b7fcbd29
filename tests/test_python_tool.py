"""The python tool: blocks of one query share variables, queries share nothing, all of it ends."""

import io
import os
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest
from PIL import Image as Pillow

from speceyes.assemble import SpecEyes
from speceyes.config import DEFAULTS
from speceyes.engines.replay import ReplayEngine
from speceyes.errors import ConfigError, PictureTruncated, ToolError
from speceyes.notebook import OUTPUT_FOLDER, PYTHON, Notebook
from speceyes.pictures import DecodedPictures, encode_png, open_picture
from speceyes.protocols.resize import smart_resize
from speceyes.tools import host
from speceyes.tools.launching import choose_launcher
from speceyes.tools.limits import SandboxLimits
from speceyes.tools.process import CellProcess
from speceyes.tools.python import PythonTool
from speceyes.types import Picture, ToolCall
from tests.adversarial.outside import descendants, wait_until
from tests.stand_ins import GATE, TagProtocol, turns
from tests.walls import needs_walls

pytestmark = [pytest.mark.anyio, needs_walls]

PRINTED = Notebook(collects="printed")
SHOWN = Notebook(picture_name="image_{number}", collects="shown")
LIMITS = SandboxLimits(warm=1, at_once=2)
DRAWN = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
PICTURE = encode_png(Pillow.fromarray(DRAWN))


@pytest.fixture
def begun():
    """Find the processes that the test began; servers of other tests may run beside."""
    before = descendants()
    return lambda: descendants() - before


def call(code):
    return ToolCall(PYTHON, {"code": code}, code)


async def run(tool, *blocks, pictures=(PICTURE,)):
    async with tool.open(DecodedPictures(pictures)) as opened:
        return [await opened.run(call(code)) for code in blocks]


async def run_alone(*blocks, notebook=PRINTED, limits=LIMITS, **more):
    async with PythonTool(notebook, limits) as tool:
        return await run(tool, *blocks, **more)


def pixels_of(picture):
    return np.asarray(Pillow.open(io.BytesIO(picture.data)))


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_defect_variables_live_from_block_to_block_of_a_query_and_no_longer():
    async with PythonTool(PRINTED, LIMITS) as tool:
        first = await run(tool, "x = 41", "print(x + 1)")
        (second,) = await run(tool, "print(x)")
    assert [seen.text for seen in first] == ["", "42\n"]
    assert second.error.endswith("NameError: name 'x' is not defined")


@pytest.mark.slow
async def test_defect_code_runs_in_no_process_of_ours(monkeypatch):
    monkeypatch.setenv("SPECEYES_CANARY", "seen")
    monkeypatch.setattr(sys, "canary", "seen", raising=False)
    code = "import os, sys; print(os.environ.get('SPECEYES_CANARY'), hasattr(sys, 'canary'))"
    (seen,) = await run_alone(code)
    assert (seen.text.strip(), seen.error) == ("None False", None)


async def test_files_live_within_a_query_and_no_longer():
    async with PythonTool(PRINTED, LIMITS) as tool:
        await run(tool, "open('left', 'w').write('x'); open('/tmp/left', 'w').write('x')")
        (seen,) = await run(tool, "print(os.listdir(), os.listdir('/tmp'))")
    assert seen.text == "[] []\n"


async def test_a_crop_whose_path_is_printed_comes_with_its_very_pixels():
    path = PRINTED.path_of(0, PICTURE)
    saved = f"{OUTPUT_FOLDER}/crop.png"
    code = f"Image.open('{path}').crop((8, 4, 40, 30)).save('{saved}')\nprint('{saved}')"
    (seen,) = await run_alone(f"```python\n{code}\n```")
    assert (seen.error, seen.repairs) == (None, ())
    assert seen.text == f"{saved}\n"
    assert seen.boxes_px == (None,)
    assert np.array_equal(pixels_of(seen.pictures[0]), DRAWN[4:30, 8:40])


async def test_what_is_shown_comes_as_a_picture():
    code = "plt.figure(figsize=(2, 1), dpi=100)\nplt.plot([1, 2])\nplt.show()\nimage_1.show()"
    (seen,) = await run_alone(f"{code}\ndisplay(np.array(image_1)[:9])", notebook=SHOWN)
    assert (seen.error, seen.text) == (None, "")
    assert [picture.size for picture in seen.pictures] == [(200, 100), (64, 48), (64, 9)]
    assert np.array_equal(pixels_of(seen.pictures[1]), DRAWN)


@pytest.mark.slow
async def test_printed_paths_are_words_where_pictures_are_shown():
    (seen,) = await run_alone("image_1.save('a.png'); print('a.png')", notebook=SHOWN)
    assert (seen.text, seen.pictures) == ("a.png\n", ())


@pytest.mark.slow
async def test_libraries_are_there():
    code = "import cv2, matplotlib\nprint(cv2.cvtColor(np.zeros((2, 2, 3), 'uint8'), 6).shape)"
    (seen,) = await run_alone(code)
    assert (seen.text, seen.error) == ("(2, 2)\n", None)


@pytest.mark.slow
async def test_a_figure_can_be_saved_and_its_path_printed():
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('p.png')\nprint('p.png')"
    (seen,) = await run_alone(code)
    assert (seen.error, len(seen.pictures)) == (None, 1)


async def test_a_repair_is_recorded():
    (seen,) = await run_alone("x = 1\n    print(x)\n```")
    assert (seen.text, seen.repairs) == ("1\n", ("fence", "first_line_indentation"))


async def test_failed_code_is_told_and_may_be_tried_again():
    failed, again = await run_alone("x = 1\nx.crop()", "print(x)")
    assert "AttributeError: 'int' object has no attribute 'crop'" in failed.error
    assert (again.text, again.error) == ("1\n", None)


@pytest.mark.slow
async def test_each_picture_of_a_query_lies_where_its_model_is_told():
    pictures = (PICTURE, encode_png(Pillow.new("RGB", (9, 7))))
    paths = [PRINTED.path_of(index, picture) for index, picture in enumerate(pictures)]
    (seen,) = await run_alone(
        f"print([Image.open(path).size for path in {paths}])", pictures=pictures
    )
    assert seen.text == "[(64, 48), (9, 7)]\n"


async def test_a_turned_picture_lies_there_upright():
    buffer = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.new("RGB", (64, 32)).save(buffer, format="JPEG", exif=exif)
    turned = open_picture(buffer.getvalue())
    path = PRINTED.path_of(0, turned)
    assert path.endswith(".png")
    (seen,) = await run_alone(f"print(Image.open('{path}').size)", pictures=(turned,))
    assert seen.text == "(32, 64)\n"


async def test_a_damaged_picture_is_the_callers_fault():
    damaged = Picture(PICTURE.data[:900], "image/png", 64, 48)
    with pytest.raises(PictureTruncated, match="image_1 could not be decoded"):
        await run_alone("print(1)", notebook=SHOWN, pictures=(damaged,))


async def test_code_that_goes_on_too_long_is_ended_and_the_next_block_starts_anew():
    limits = replace(LIMITS, block_s=0.5)
    hang = "x = 1\nimport signal, time\nsignal.pthread_sigmask(0, range(1, 65))\ntime.sleep(60)"
    first, second = await run_alone(hang, "print('x' in globals())", limits=limits)
    assert first.error == "the code was ended after 0.5 s; all its variables are gone"
    assert (second.text, second.error) == ("False\n", None)


async def test_a_process_that_ends_is_told_and_the_next_block_starts_anew():
    first, second = await run_alone("os._exit(3)", "print(1)")
    assert first.error.startswith("the process that ran the code has ended")
    assert second.text == "1\n"


@pytest.mark.slow
async def test_memory_is_bounded():
    limits = replace(LIMITS, memory_bytes=1 << 30)
    first, second = await run_alone("x = np.ones(1 << 28)", "print(1)", limits=limits)
    assert first.error == "MemoryError: the code may use 1024 MiB; work on smaller arrays"
    assert second.text == "1\n"


async def test_a_call_without_code_is_an_observation_or_our_own_fault():
    async with PythonTool(PRINTED, LIMITS) as tool, tool.open(DecodedPictures(())) as opened:
        assert (await opened.run(call(" \n"))).error == "there is no code in the call"
        long = await opened.run(call("#" * (LIMITS.code_chars + 1)))
        assert long.error == "the code is over 100000 characters"
        with pytest.raises(ToolError, match="python was called with None for code"):
            await opened.run(ToolCall(PYTHON, {}, ""))


async def test_cancelling_ends_the_process_and_all_it_holds(begun):
    async with PythonTool(PRINTED, LIMITS) as tool:
        with anyio.move_on_after(1.0) as scope:
            await run(tool, "while True: pass")
        assert scope.cancelled_caught
        (seen,) = await run(tool, "print(1)")
    assert seen.text == "1\n"
    assert wait_until(lambda: not begun())


async def test_cancelling_whoever_opened_the_tool_leaves_nothing(begun):
    with anyio.move_on_after(1.0):
        async with PythonTool(PRINTED, LIMITS):
            await anyio.sleep_forever()
    assert not begun()


PROGRAM = """
import anyio
from speceyes.pictures import DecodedPictures
from speceyes.notebook import Notebook
from speceyes.tools.python import PythonTool
from speceyes.types import ToolCall

async def main():
    async with PythonTool(Notebook(collects="printed")) as tool:
        async with tool.open(DecodedPictures(())) as blocks:
            print("begun", flush=True)
            await blocks.run(ToolCall("python", {"code": "while True: pass"}, ""))

anyio.run(main)
"""


@pytest.mark.slow
def test_processes_die_with_a_program_that_is_killed():
    source = str(Path(host.package_root()))
    env = os.environ | {"PYTHONPATH": source}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=env
    )
    assert program.stdout.readline() == "begun\n"
    assert wait_until(lambda: len(descendants(program.pid)) >= 6)
    inside = descendants(program.pid)
    program.kill()
    program.wait()
    program.stdout.close()
    assert wait_until(lambda: not any(Path("/proc", str(pid)).exists() for pid in inside))


@pytest.mark.slow
async def test_queries_run_side_by_side_and_wait_where_there_is_no_room():
    seen = {}
    async with PythonTool(PRINTED, LIMITS) as tool, anyio.create_task_group() as tasks:

        async def ask(n):
            (seen[n],) = await run(tool, f"print({n})")

        for n in range(6):
            tasks.start_soon(ask, n)
    assert {n: found.text for n, found in seen.items()} == {n: f"{n}\n" for n in range(6)}


@pytest.mark.slow
async def test_nothing_is_left_when_the_tool_is_closed(begun):
    before = open_descriptors()
    for _ in range(2):
        await run_alone("print(1)")
    assert wait_until(lambda: not begun())
    assert open_descriptors() <= before + 2  # of the event loop


async def test_a_process_that_died_waiting_is_replaced(begun):
    async with PythonTool(PRINTED, LIMITS) as tool:
        for pid in begun():
            with suppress(ProcessLookupError):  # one that bubblewrap began has ended already
                os.kill(pid, 9)
        (seen,) = await run(tool, "print(1)")
    assert seen.text == "1\n"


async def test_a_tool_that_is_not_open_says_so():
    with pytest.raises(ToolError, match="use it within"):
        async with PythonTool(PRINTED).open(DecodedPictures(())):
            pass


async def test_without_bubblewrap_the_start_fails_with_the_mend(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"apt install bubblewrap.*--unsafe-python"):
        async with PythonTool(PRINTED):
            pass


async def test_where_namespaces_are_refused_the_start_fails_with_the_mend(
    monkeypatch, tmp_path, begun
):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="namespaces are refused here"):
        async with PythonTool(PRINTED):
            pass
    assert wait_until(lambda: not begun())


async def test_without_a_library_the_start_names_the_extra(monkeypatch):
    monkeypatch.setattr(host, "_LIBRARIES", {"no_such_module": "nothing"})
    with pytest.raises(ConfigError, match=r"needs nothing: pip install 'speceyes\[python\]'"):
        async with PythonTool(PRINTED):
            pass


async def test_without_walls_it_runs_and_says_so_at_every_start(capsys, begun):
    path = SHOWN.path_of(0, PICTURE)
    for _ in range(2):
        async with PythonTool(SHOWN, LIMITS, unsafe=True) as tool:
            blocks = (f"image = Image.open('{path}'); image.show(); print(os.getcwd())", "1 / 0")
            seen, failed = await run(tool, *blocks)
        assert "runs WITHOUT a sandbox" in capsys.readouterr().err
        assert (seen.error, seen.repairs) == (None, ("paths",))
        assert [picture.size for picture in seen.pictures] == [(64, 48)]
        assert "ZeroDivisionError" in failed.error
        assert not os.path.exists(seen.text.strip())  # noqa: ASYNC240, PTH110 - it is a glance
    assert wait_until(lambda: not begun())


class CodeProtocol(TagProtocol):
    """Its model writes code after the tool's name."""

    notebook = PRINTED


async def test_a_protocol_that_writes_code_gets_the_tool(begun):
    engine = ReplayEngine(turns("answer x", latency_s=0.0))
    more = {"policy": "agent_only", "gate": GATE, "sandbox": LIMITS}
    async with SpecEyes(small=engine, large=engine, protocol=CodeProtocol(), **more) as eyes:
        assert set(eyes.funnel.parts.agent.tools) == {"image_zoom_in_tool", PYTHON}
        assert begun()
    assert wait_until(lambda: not begun())


async def test_a_protocol_that_writes_none_costs_no_process(begun):
    engine = ReplayEngine(turns("answer x", latency_s=0.0))
    more = {"policy": "agent_only", "gate": GATE}
    async with SpecEyes(small=engine, large=engine, protocol=TagProtocol(), **more) as eyes:
        assert set(eyes.funnel.parts.agent.tools) == {"image_zoom_in_tool"}
        assert not begun()


async def test_the_setting_takes_the_walls_down(capsys):
    engine = ReplayEngine(turns("answer x", latency_s=0.0))
    settings = replace(DEFAULTS, unsafe_python=True)
    more = {"policy": "agent_only", "gate": GATE, "settings": settings}
    async with SpecEyes(small=engine, large=engine, protocol=CodeProtocol(), **more) as eyes:
        assert PYTHON in eyes.funnel.parts.agent.tools
    assert "WITHOUT a sandbox" in capsys.readouterr().err


async def test_what_code_made_is_shown_at_the_size_that_the_model_sees():
    code = "from PIL import Image\nImage.new('RGB', ({}, {})).save('a.png')\nprint('a.png')"
    seen = partial(smart_resize, factor=28, min_px=112 * 112, max_px=112 * 112)
    async with PythonTool(PRINTED, LIMITS, view_size=seen) as tool:
        (made,) = await run(tool, code.format(576, 288))
    assert [picture.size for picture in made.pictures] == [seen((576, 288))]
    assert made.boxes_px == (None,)


def members(group):
    found = []
    for line in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found.append(int(line.read_text().rpartition(")")[2].split()[2]))
    return found.count(group)


async def test_one_that_is_ended_before_it_has_reported_leaves_nobody():
    launcher = choose_launcher(PRINTED, LIMITS, unsafe=False)
    cell = CellProcess(launcher.launch())
    group = cell.launch.process.pid
    assert wait_until(lambda: members(group) > 1)  # the first inside waits to be let go on
    await cell.aclose()
    assert wait_until(lambda: not members(group))
