"""Pictures that a vLLM server has kept are named, not sent again; what it has lost is sent anew."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import anyio
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from speceyes.engines import kept
from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.engines.kept import KeptPictures
from speceyes.errors import ContextTooLong, EngineUnavailable
from speceyes.pictures import encode_png
from speceyes.types import GenerateRequest, Image, Message, Text
from tests.stub_server import Raw, Silence, StubServer, refusal, say, serving

pytestmark = pytest.mark.anyio

VLLM = ({"id": "stub", "owned_by": "vllm", "max_model_len": 2048},)
RED, BLUE, WIDE = (
    encode_png(Pillow.new("RGB", size, colour))
    for size, colour in (((8, 8), "red"), ((8, 8), "blue"), ((16, 8), "red"))
)
MISS = "Cache miss for image at index 0 but data is not provided."
GONE = "Multi-modal processor cache miss."
MANY = tuple(encode_png(Pillow.new("RGB", (8, 8), (n, 0, 0))) for n in range(40))


@pytest.fixture
def anyio_backend():
    return "asyncio"


def about(*pictures):
    message = Message("user", (*(Image(one) for one in pictures), Text("What is it?")))
    return GenerateRequest((message,), 16, top_logprobs=8)


def parts_of(body):
    return [p for p in body["messages"][0]["content"] if p["type"] == "image_url"]


@dataclass
class Vllm:
    """A script that keeps pictures by name, as vLLM does, and says no as vLLM does."""

    room: int = 100
    kept: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)  # of each call, the pictures that it was about
    refused: int = 0

    def __call__(self, body):
        pictures = []
        for part in parts_of(body):
            url = (part["image_url"] or {}).get("url")
            if url is None and part["uuid"] not in self.kept:
                self.refused += 1
                return refusal(400, MISS)
            if "uuid" in part:
                url = url or self.kept[part["uuid"]]
                self.kept[part["uuid"]] = url
            pictures.append(url)
        while len(self.kept) > self.room:
            del self.kept[next(iter(self.kept))]
        self.seen.append(pictures)
        return say(body, ["a", " red", " disc"])


def engine_on(server, **more):
    return HttpEngine(
        server.url, model="stub", settings=HttpSettings(**({"backoff_s": 0.001} | more))
    )


async def answers(script, *requests, models=VLLM, **more):
    """Let one engine ask these in order."""
    async with serving(script, models=models) as server:
        engine = engine_on(server, **more)
        found = [await engine.generate(request) for request in requests]
        await engine.aclose()
        return found, server, engine


async def test_a_picture_is_sent_once_and_named_from_then_on():
    script = Vllm()
    _, server, _ = await answers(script, about(RED), about(RED, BLUE), about(BLUE, RED))
    first, second, third = (parts_of(body) for body in server.bodies)
    assert [part["image_url"] is None for part in first + second + third] == [
        *[False],
        *[True, False],
        *[True, True],
    ]
    assert first[0]["uuid"] == second[0]["uuid"] == third[1]["uuid"]
    assert second[1]["uuid"] == third[0]["uuid"] != first[0]["uuid"]
    red, blue = script.seen[1]
    assert script.seen == [[red], [red, blue], [blue, red]]
    assert server.lookups == 1


async def test_what_is_named_is_not_even_prepared():
    async with serving(Vllm(), models=VLLM) as server:
        engine = engine_on(server)
        await engine.generate(about(RED))
        engine._urls._shelf.clear()
        await engine.generate(about(RED))
        await engine.aclose()
    assert engine._urls.made == 1


@pytest.mark.parametrize(
    ("models", "settings"),
    [
        (({"id": "stub", "owned_by": "sglang"},), {}),
        (({"id": "stub"},), {}),
        ((), {}),
        (VLLM, {"image_reuse": "never"}),
    ],
)
async def test_no_other_server_gets_a_name(models, settings):
    found, server, _ = await answers(Vllm(), *[about(RED)] * 2, models=models, **settings)
    assert len(found) == 2
    for body in server.bodies:
        assert "uuid" not in parts_of(body)[0]
        assert parts_of(body)[0]["image_url"]["url"].startswith("data:")


async def test_never_asks_nobody_what_it_is():
    _, server, _ = await answers(Vllm(), about(RED), image_reuse="never")
    assert server.lookups == 0


async def test_a_list_that_was_asked_for_anyway_is_not_asked_for_again():
    async with serving(Vllm(), models=VLLM) as server:
        engine = HttpEngine(server.url, model=None)
        for _ in range(2):
            await engine.generate(about(RED))
        await engine.aclose()
    assert server.lookups == 1
    assert parts_of(server.bodies[1])[0]["image_url"] is None


async def test_words_alone_ask_nobody_what_it_is():
    words = GenerateRequest((Message("user", (Text("What is it?"),)),), 16)
    _, server, _ = await answers(lambda body: say(body, ["a"]), words)
    assert server.lookups == 0


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"{}"), (401, b"{}"), (200, b"<html>"), (200, b'{"data": 1}')]
)
async def test_a_server_that_lists_no_models_gets_no_names(status, body, monkeypatch):
    async def no_list(*_):
        return web.Response(status=status, body=body, content_type="application/json")

    monkeypatch.setattr(StubServer, "_list", no_list)
    found, server, _ = await answers(Vllm(), about(RED), about(RED))
    assert len(found) == 2
    assert all("uuid" not in parts_of(body)[0] for body in server.bodies)


async def test_what_the_server_has_lost_is_sent_within_the_same_call():
    script = Vllm()
    async with serving(script, models=VLLM) as server:
        engine = engine_on(server)
        one = await engine.generate(about(RED, BLUE))
        script.kept.clear()
        two = await engine.generate(about(RED, BLUE))
        three = await engine.generate(about(RED, BLUE))
        await engine.aclose()
    assert (script.refused, len(server.bodies)) == (1, 4)
    assert script.seen[0] == script.seen[1] == script.seen[2]
    assert one.text == two.text == three.text
    assert two.evidence is not None  # it was not given up for the refusal's sake


@pytest.mark.parametrize("stream", [True, False])
async def test_a_miss_that_shows_within_the_reply_is_one_too(stream):
    asked = []

    def script(body):
        asked.append(parts_of(body)[0]["image_url"])
        if asked[-1] is not None:
            return say(body, ["a"])
        error = b'{"error": {"message": "' + GONE.encode() + b'", "code": 500}}'
        if stream:
            return Raw(body=b"data: " + error + b"\n\n", content_type="text/event-stream")
        return Raw(body=error)

    found, _, _ = await answers(script, about(RED), about(RED), stream=stream)
    assert [one is None for one in asked] == [False, True, False]
    assert found[1].text == "a"


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_a_server_that_takes_no_names_gets_pictures(status):
    def script(body):
        if parts_of(body)[0]["image_url"] is None:
            return refusal(status, "image_url: Input should be a valid dictionary")
        return say(body, ["a"])

    found, server, _ = await answers(script, *[about(RED)] * 2, max_attempts=1)
    assert [one.evidence is not None for one in found] == [True, True]
    assert server.bodies[-1]["top_logprobs"] == 8


async def test_a_conversation_that_is_too_long_is_not_sent_anew():
    asked = []

    def script(body):
        asked.append(body)
        if len(asked) == 1:
            return say(body, ["a"])
        return refusal(400, "the prompt is over the model's maximum context length")

    async with serving(script, models=VLLM) as server:
        engine = engine_on(server)
        await engine.generate(about(RED))
        with pytest.raises(ContextTooLong):
            await engine.generate(about(RED))
        await engine.aclose()
    assert len(asked) == 2


async def test_a_call_that_was_left_has_left_nothing():
    async with serving(lambda _: Silence(5.0), models=VLLM) as server:
        engine = engine_on(server)
        with anyio.move_on_after(0.2):
            await engine.generate(about(RED))
        assert not engine._kept.among((RED,))
        await engine.aclose()
    assert len(server.bodies) == 1


async def test_a_server_that_is_not_there_is_an_error_as_ever():
    engine = HttpEngine("http://127.0.0.1:9/v1", model="x", settings=HttpSettings(max_attempts=1))
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        await engine.generate(about(RED))
    await engine.aclose()


async def test_many_at_once_ask_once_what_the_server_is():
    async with serving(Vllm(), models=VLLM) as server:
        engine = engine_on(server)
        async with anyio.create_task_group() as tasks:
            for picture in MANY[:16]:
                tasks.start_soon(engine.generate, about(picture))
        await engine.aclose()
    assert server.lookups == 1


async def test_a_server_that_keeps_too_few_is_spared():
    script = Vllm(room=1)
    rounds = [about(picture) for _ in range(3) for picture in MANY]
    found, server, _ = await answers(script, *rounds)
    assert len(found) == len(rounds) == len(script.seen)
    assert script.refused == kept._LEAST_TRIED
    assert len(server.bodies) == len(rounds) + script.refused


async def test_told_that_all_is_dropped_all_is_sent():
    script = Vllm()
    async with serving(script, models=VLLM) as server:
        engine = engine_on(server)
        await engine.generate(about(RED))
        script.kept.clear()
        engine.forget_pictures()
        await engine.generate(about(RED))
        await engine.aclose()
    assert script.refused == 0
    assert len(server.bodies) == 2


@given(
    room=st.integers(1, 4),
    asked=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), max_size=30),
    lost=st.sets(st.integers(0, 29)),
)
@settings(max_examples=40, deadline=None)
def test_an_answer_is_always_about_the_pictures_that_were_asked_about(room, asked, lost):
    script = Vllm(room=room)

    async def main():
        async with serving(script, models=VLLM) as server:
            engine = engine_on(server)
            for at, wanted in enumerate(asked):
                if at in lost:
                    script.kept.clear()
                await engine.generate(about(*(MANY[n] for n in wanted)))
            await engine.aclose()

    anyio.run(main)
    urls = {}
    assert len(script.seen) == len(asked)
    for wanted, seen in zip(asked, script.seen, strict=True):
        for n, url in zip(wanted, seen, strict=True):
            assert urls.setdefault(n, url) == url
    assert len(set(urls.values())) == len(urls)


def test_names_tell_pictures_and_forms_apart():
    png, jpeg = KeptPictures("png"), KeptPictures("jpeg")
    names = {one.name(picture) for one in (png, jpeg) for picture in (RED, BLUE, WIDE)}
    assert len(names) == 6
    assert KeptPictures("png").name(RED) == png.name(RED)


def test_nobody_else_can_say_a_name():
    code = (
        "from tests.test_kept import RED\nfrom speceyes.engines.kept import KeptPictures\n"
        "print(KeptPictures('png').name(RED))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        ).stdout.strip()
        for _ in range(2)
    }
    assert len(said) == 2
    assert RED.digest not in " ".join(said)


def test_no_more_names_than_a_server_could_keep(monkeypatch):
    monkeypatch.setattr(kept, "_MOST_KEPT", 3)
    known = KeptPictures("png")
    known.keep(MANY[:5], found=frozenset())
    assert known.among(MANY[:5]) == {one.digest for one in MANY[2:5]}


def test_who_was_spared_is_tried_again():
    known = KeptPictures("png")
    for picture in MANY[: kept._LEAST_TRIED]:
        known.keep((picture,), found=frozenset())
        known.miss([picture.digest])
    known.keep((RED,), found=frozenset())
    waits = [bool(known.among((RED,))) for _ in range(kept._REST + 1)]
    assert waits == [False] * kept._REST + [True]
