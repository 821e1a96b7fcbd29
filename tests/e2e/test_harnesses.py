"""Other harnesses drive speceyes: the examples as programs, and the harnesses' own commands.

Each is a process of its own in build/harness; whatever it reports is held against SpecEyes here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from speceyes import SpecEyes
from speceyes.bench.grade import grade
from speceyes.builtin.suite import draw_items
from tests.e2e.pinned_env import HARNESS, ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(600)]

EXAMPLES = ROOT / "examples"
PATIENCE_S = 300.0  # for one program; the longest takes 15 s on an idle machine
ITEMS = 9
SEED = 12  # both routes are taken, and not all is right


@dataclass(frozen=True)
class Direct:
    """What SpecEyes itself makes of the items."""

    answers: dict[str, str]
    routes: dict[str, float]
    accuracy: float


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give the variables under which both harnesses run, with the examples installed for them."""
    HARNESS.require()
    folder = tmp_path_factory.mktemp("harness")
    installed = folder / "site-packages"  # inspect names what is installed by this folder's name
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install"]
    alone = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(installed)]
    subprocess.run([sys.executable, *pip, *alone, str(EXAMPLES)], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder),  # both keep caches there
        "HF_HOME": str(folder / "hf"),
        "PYTHONPATH": str(installed),
        "COLUMNS": "120",
    }


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def direct(anyio_backend: str) -> Direct:
    items = {item.item_id: item for item in draw_items(ITEMS, seed=SEED)}
    async with SpecEyes() as eyes:
        outcomes = eyes.answer_many(item.query for item in items.values())
        answers = {o.query_id: o.answer async for o in outcomes if o.answer is not None}
    assert len(answers) == ITEMS
    routes = [answer.route for answer in answers.values()]
    right = [
        grade(answer.text, items[name].answer, items[name].query.options).is_right
        for name, answer in answers.items()
    ]
    return Direct(
        answers={name: answer.text for name, answer in answers.items()},
        routes={route: routes.count(route) / ITEMS for route in set(routes)},
        accuracy=sum(right) / ITEMS,
    )


def run(harness: dict[str, str], *words: str | Path, **more: Any) -> str:
    done = subprocess.run(
        [str(HARNESS.python), *words],
        env=harness,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **more,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["inspect_ai", "lmms_eval"])
def example(
    request: pytest.FixtureRequest,
    harness: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("out")
    script = EXAMPLES / f"{request.param}_speceyes.py"
    said = run(
        harness, script, "--items", str(ITEMS), "--seed", str(SEED), "--out", str(out / "run")
    )
    document: dict[str, Any] = json.loads(said[said.index("{\n") :])
    return document


@pytest.mark.anyio
async def test_every_item_is_answered_as_speceyes_itself_answers_it(example, direct):
    assert example["answers"] == direct.answers
    assert example["items"] == ITEMS
    assert example["errors"] == {}


@pytest.mark.anyio
async def test_the_routes_are_told(example, direct):
    assert example["routes"] == pytest.approx(direct.routes)
    assert set(example["routes"]) == {"speculative", "agentic"}


@pytest.mark.anyio
async def test_the_harness_counts_the_same_right(example, direct):
    assert example["accuracy"] == pytest.approx(direct.accuracy)
    assert example["accuracy"] > 0.5


@pytest.mark.anyio
async def test_inspects_own_command_finds_the_model_and_the_task_by_name(harness, direct, tmp_path):
    task = ["inspect_ai_speceyes/builtin", "-T", f"items={ITEMS}", "-T", f"seed={SEED}"]
    kept = ["--log-dir", tmp_path, "--log-format", "json", "--display", "plain"]
    run(harness, "-m", "inspect_ai", "eval", *task, "--model", "speceyes/builtin", *kept)
    (log,) = tmp_path.glob("*.json")
    samples = json.loads(log.read_text(encoding="utf-8"))["samples"]
    assert {sample["id"]: sample["output"]["completion"] for sample in samples} == direct.answers
    told = [sample["output"]["metadata"] for sample in samples]
    assert all(set(one) == {"route", "reason", "score", "p_tool", "depth"} for one in told)
    assert all(one["score"] is not None for one in told if one["route"] == "speculative")
    assert all(one["depth"] >= 1 for one in told if one["reason"] == "needs_tool")
    usage = [sample["output"]["usage"] for sample in samples]
    assert all(one["total_tokens"] > one["output_tokens"] > 0 for one in usage)


def test_inspect_takes_engines_and_policy_from_a_settings_file(harness, tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text('policy = "agent_only"\n', encoding="utf-8")
    asked = ["inspect_ai_speceyes/builtin", "-T", "items=2", "--model", "speceyes/mine"]
    kept = ["--log-dir", tmp_path, "--log-format", "json", "--display", "plain"]
    run(harness, "-m", "inspect_ai", "eval", *asked, "-M", f"settings={settings}", *kept)
    (log,) = tmp_path.glob("*.json")
    samples = json.loads(log.read_text(encoding="utf-8"))["samples"]
    told = [sample["output"]["metadata"]["reason"] for sample in samples]
    assert told == ["agent_only", "agent_only"]


@pytest.mark.anyio
async def test_lmms_evals_own_command_finds_the_model_and_the_task_by_name(
    harness, direct, tmp_path
):
    tasks = shutil.copytree(EXAMPLES / "lmms_eval_task", tmp_path / "examples/lmms_eval_task")
    items = ["--items", str(ITEMS), "--seed", str(SEED)]
    run(harness, EXAMPLES / "lmms_eval_speceyes.py", *items, cwd=tmp_path)  # writes the items
    asked = ["--tasks", "speceyes_builtin", "--include_path", tasks, "--batch_size", "4"]
    kept = ["--log_samples", "--output_path", tmp_path / "log"]
    run(harness, "-m", "lmms_eval", "--model", "speceyes", *asked, *kept, cwd=tmp_path)
    (log,) = (tmp_path / "log").rglob("*_samples_speceyes_builtin.jsonl")
    samples = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    told = [sample["filtered_resps"] for sample in samples]
    assert sorted(told) == sorted(direct.answers.values())
    (results,) = (tmp_path / "log").rglob("*_results.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]["speceyes_builtin"]
    assert found["accuracy,none"] == pytest.approx(direct.accuracy)


INSPECT_FAILURES = """
import json, pathlib, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText
from inspect_ai.model import get_model
from speceyes import SpecEyes
from speceyes.builtin.suite import draw_item
from speceyes.prompts import question_text

opened, enter = [], SpecEyes.__aenter__

async def counted(eyes):
    opened.append(eyes)
    return await enter(eyes)

SpecEyes.__aenter__ = counted
folder = pathlib.Path(sys.argv[1])
item = draw_item(0, seed=7)
(folder / "sound.png").write_bytes(item.query.pictures[0].data)
(folder / "cut.png").write_bytes(item.query.pictures[0].data[:2000])

def asked(*pictures):
    shown = [ContentImage(image=str(folder / name)) for name in pictures]
    return ChatMessageUser(content=[*shown, ContentText(text=question_text(item.query))])

samples = [
    Sample(id="sound", input=[asked("sound.png")]),
    Sample(id="cut", input=[asked("cut.png")]),
    Sample(id="blind", input="What do you see?"),
    Sample(id="led", input=[ChatMessageSystem(content="Be brief."), asked("sound.png")]),
]
for again in range(2):  # a model is kept from one evaluation to the next
    model = get_model("speceyes/builtin")
    (log,) = eval(
        Task(dataset=samples, fail_on_error=False), model=model,
        log_dir=str(folder / "log"), display="none",
    )
told = {s.id: s.error.message if s.error else s.output.completion for s in log.samples}
print(json.dumps(told | {"opened": len(opened)}))
"""


@pytest.fixture(scope="module")
def failures(harness: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    said = run(harness, "-c", INSPECT_FAILURES, tmp_path_factory.mktemp("failures"))
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def test_one_speceyes_stays_open_for_all_of_inspects_evaluations(failures):
    assert failures["opened"] == 1


def test_a_failure_is_an_error_of_its_own_sample_in_inspect(failures):
    assert failures["sound"] in {"white", "black"}
    assert "its data ends early" in failures["cut"]
    assert "give at least one picture" in failures["blind"]
    assert "are of system, user" in failures["led"]


INSPECT_CANCELLED = """
import threading
import anyio, anyio.to_thread
from inspect_ai.model import get_model
from inspect_ai_speceyes import _sample_of
from speceyes.builtin.suite import draw_item

told, taken_up = [], threading.Event()

class Slow:
    async def __aenter__(self):
        return self
    async def __aexit__(self, *_):
        told.append("closed")
    async def answer(self, query):
        taken_up.set()
        try:
            await anyio.sleep_forever()
        finally:
            told.append("cancelled")

async def main():
    async with get_model("speceyes/builtin") as model:
        model.api._eyes = Slow()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(model.generate, _sample_of(draw_item(0, seed=7)).input)
            await anyio.to_thread.run_sync(taken_up.wait)
            tasks.cancel_scope.cancel()

anyio.run(main, backend=BACKEND)
print(told)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sample_that_is_cancelled_takes_its_query_along_in_inspect(harness, backend):
    said = run(harness, "-c", INSPECT_CANCELLED.replace("BACKEND", repr(backend)))
    assert said == "['cancelled', 'closed']\n"


LMMS_FAILURES = """
import io, json
from lmms_eval.api.instance import Instance
from PIL import Image
from lmms_eval_speceyes import SpecEyesModel
from speceyes.builtin.suite import draw_item
from speceyes.prompts import question_text

item = draw_item(0, seed=7)
sound = Image.open(io.BytesIO(item.query.pictures[0].data))
docs = [[sound], ["film.mp4"], None, [Image.new("RGB", (900, 2))]]
model = SpecEyesModel()
model.task_dict["some"] = {"test": docs}
requests = [
    Instance(
        "generate_until",
        (question_text(item.query), {}, lambda doc: doc, at, "some", "test"),
        0,
        metadata={"task": "some", "doc_id": at, "repeats": 1},
    )
    for at in range(len(docs))
]
replies = [reply.text for reply in model.generate_until(requests)]
print(json.dumps([replies, {at: str(error) for (_, at), error in model.errors.items()}]))
"""


def test_a_failure_replies_nothing_and_is_kept_in_lmms_eval(harness):
    said = run(harness, "-c", LMMS_FAILURES)
    replies, errors = json.loads(said.splitlines()[-1])
    assert replies[0] in {"white", "black"}
    assert replies[1:] == ["", "", ""]
    assert errors["1"] == "pictures: hold a str; give images only"
    assert "pictures: is empty" in errors["2"]
    assert "900x2" in errors["3"]
