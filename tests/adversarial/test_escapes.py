"""The escape corpus: each program ends within its limits, brings nothing out, leaves nothing."""

import io
import re
from functools import partial

import anyio
import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal
from PIL import Image as Pillow

from speceyes.notebook import PYTHON, Notebook
from speceyes.pictures import DecodedPictures, encode_png
from speceyes.tools.limits import SandboxLimits
from speceyes.tools.python import PythonTool
from speceyes.types import ToolCall
from tests.adversarial.outside import CANARY, CANARY_COLOUR, Outside, descendants, wait_until
from tests.adversarial.programs import PROGRAMS
from tests.walls import needs_walls

pytestmark = needs_walls

NOTEBOOK = Notebook(collects="printed")
LIMITS = SandboxLimits(block_s=3.0, memory_bytes=1 << 30, cpu_s=20)
PICTURE = encode_png(Pillow.new("RGB", (64, 48), "teal"))
PATH = NOTEBOOK.path_of(0, PICTURE)
PATIENCE_S = 60.0
QUICK = {
    "reads a file of the host",
    "reads the environment",
    "has a host's picture shown by a symbolic link",
    "writes a file of the host",
    "changes the picture",
    "connects by TCP",
    "opens a socket of any family and kind",
    "forks",
    "kills the process outside",
    "makes a user namespace",
    "opens files without end",
    "ends its process",
    "answers with a pickle",
    "shows a picture that is a decompression bomb",
}  # these run with the fast tests
PER_PROCESS = 3  # bubblewrap outside, bubblewrap inside, the interpreter


async def run(tool, *blocks):
    """Run blocks as one query."""
    with anyio.fail_after(PATIENCE_S):
        async with tool.open(DecodedPictures((PICTURE,))) as opened:
            return [await opened.run(ToolCall(PYTHON, {"code": code}, "")) for code in blocks]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    with Outside(tmp_path_factory.mktemp("outside")) as outside:
        yield outside


@pytest.fixture(scope="module")
def begun():
    """Find the processes that the corpus began; servers of other tests may run beside."""
    before = descendants()
    return lambda: descendants() - before


@pytest.fixture(scope="module")
def sandbox(outside, begun):
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(PythonTool(NOTEBOOK, LIMITS)) as tool:
            yield partial(portal.call, run, tool)
        assert wait_until(lambda: not begun()), "processes were left behind"


@pytest.fixture  # not for the module: its processes would be taken for ones left behind
def bare(outside):
    with start_blocking_portal() as portal:
        tool = PythonTool(NOTEBOOK, LIMITS, unsafe=True)
        with portal.wrap_async_context_manager(tool):
            yield partial(portal.call, run, tool)


def told(seen):
    return f"{seen.text}\n{seen.error or ''}"


def shows_the_secret(picture):
    pixels = np.asarray(Pillow.open(io.BytesIO(picture.data)))
    return bool((pixels == CANARY_COLOUR).all(axis=-1).any())


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(p, id=p.name, marks=[] if p.name in QUICK else [pytest.mark.slow])
        for p in PROGRAMS
    ],
)
def test_nothing_escapes(program, sandbox, outside, begun):
    (seen,) = sandbox(outside.fill_in(program.code, PATH))
    assert "ESCAPED" not in told(seen)
    assert CANARY not in told(seen)
    assert not any(map(shows_the_secret, seen.pictures))
    assert outside.breaches() == []
    assert re.search(program.ends, told(seen)), told(seen)
    (following,) = sandbox("print(6 * 7, Image.open('" + PATH + "').size, os.listdir())")
    assert (following.text, following.error) == ("42 (64, 48) []\n", None)
    assert wait_until(lambda: len(begun()) <= PER_PROCESS * LIMITS.warm), begun()


@pytest.mark.slow
@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.bare], ids=lambda p: p.name)
def test_the_same_program_escapes_where_there_are_no_walls(program, bare, outside):
    (seen,) = bare(outside.fill_in(program.code, PATH))
    caught = "ESCAPED" in told(seen) or CANARY in told(seen)
    assert caught or outside.breaches(), told(seen)
    outside.breaches()


def test_the_corpus_is_large():
    names = {program.name for program in PROGRAMS}
    assert len(names) == len(PROGRAMS) >= 60
    assert names >= QUICK
