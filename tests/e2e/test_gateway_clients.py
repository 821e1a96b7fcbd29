"""Every client in examples/clients gets the built-in pair's answers from `speceyes serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from speceyes.builtin.suite import draw_items
from speceyes.prompts import question_text
from tests.e2e import pinned_env
from tests.gateway_process import serving

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(300)]

CLIENTS = pinned_env.ROOT / "examples" / "clients"
ELSEWHERE = ("litellm_client.py", "pydantic_ai_client.py", "langchain_client.py")


@dataclass(frozen=True)
class Scene:
    """A question about a picture, with what the pair says to it when asked by curl."""

    base_url: str
    picture: Path
    question: str
    answer: str
    way: dict


def run(*words: str | Path, python: Path | str | None = None) -> subprocess.CompletedProcess[str]:
    called = [*([python] if python else []), *words]
    done = subprocess.run(
        [str(word) for word in called], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done


def ask(script: str, scene: Scene, *more: str, python: Path | str | None = sys.executable):
    words = (scene.base_url, scene.picture, scene.question, *more)
    return run(CLIENTS / script, *words, python=python)


@pytest.fixture(scope="module")
def base_url(tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("gateway"), "--builtin") as gateway:
        yield f"{gateway.url}/v1"


@pytest.fixture(scope="module", params=["speculative", "agentic"])
def scene(request, base_url, tmp_path_factory) -> Scene:
    """Find a question that takes this way."""
    picture = tmp_path_factory.mktemp("scene") / "scene.png"
    for item in draw_items(30, seed=20261126):
        picture.write_bytes(item.query.pictures[0].data)
        question = question_text(item.query)
        said = json.loads(run(CLIENTS / "ask.sh", base_url, picture, question).stdout)
        if said["speceyes"]["route"] == request.param:
            answer = said["choices"][0]["message"]["content"]
            return Scene(base_url, picture, question, answer, said["speceyes"])
    pytest.fail(f"none of 30 questions takes the way {request.param}")


def test_curl_hears_which_way_the_answer_took(scene):
    assert scene.answer
    assert (scene.way["reason"] == "accepted") == (scene.way["route"] == "speculative")


def test_curl_reads_a_stream(scene):
    said = ask("ask.sh", scene, "stream", python=None).stdout
    events = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith("data:")]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == scene.answer
    if scene.way["route"] == "agentic":
        assert any(delta.get("reasoning_content") for delta in deltas)


def test_the_openai_package_gets_the_answer_and_its_way(scene):
    done = ask("openai_sync.py", scene)
    assert done.stdout == f"{scene.answer}\n"
    assert done.stderr.startswith(f"{scene.way['route']}, {scene.way['reason']}, by builtin:")


def test_the_openai_package_asks_several_questions_at_once(scene):
    done = ask("openai_async.py", scene, scene.question)
    assert done.stdout == f"{scene.answer}\n" * 2


def test_the_openai_package_reads_a_stream_and_the_tokens_used(scene):
    done = ask("openai_stream.py", scene)
    assert done.stdout == f"{scene.answer}\n"
    assert done.stderr.endswith(" tokens\n")


@pytest.mark.parametrize("script", ELSEWHERE)
def test_other_packages_get_the_answer(scene, script):
    pinned_env.CLIENTS.require()
    done = ask(script, scene, python=pinned_env.CLIENTS.python)
    assert done.stdout.strip() == scene.answer
