"""Whom the HTTP engine asks, with which key and settings, and over which connections."""

import gc

import anyio
import anyio.to_thread
import pytest

from speceyes.engines.http import HttpEngine, HttpSettings, ServedModel
from speceyes.errors import ConfigError, EngineUnavailable
from tests.http_asked import Asked, ask, words
from tests.stub_server import refusal, say, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


# Who is asked.


async def test_nothing_is_opened_before_first_use():
    engine = HttpEngine("http://127.0.0.1:1/v1", model=None)
    assert engine.name == "http://127.0.0.1:1/v1"
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineUnavailable, match="is closed"):
        await engine.generate(ask())


async def test_the_first_model_is_looked_up_once():
    models = ({"id": "first", "max_model_len": 512}, {"id": "second"})
    async with serving(words, models=models) as server, Asked(server, model=None) as engine:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(engine.generate, ask())
        assert await engine.served_models() == (
            ServedModel("first", 512),
            ServedModel("second", None),
        )
    assert (server.lookups, {body["model"] for body in server.bodies}) == (2, {"first"})


async def test_the_key_is_sent_and_never_shown():
    script = lambda body: refusal(401, "Incorrect API key provided: sk-top-secret")  # noqa: E731
    async with serving(script) as server, Asked(server, key="sk-top-secret\n") as engine:
        with pytest.raises(EngineUnavailable, match=r"key.*\*\*\*") as caught:
            await engine.generate(ask())
        shown = [repr(engine), str(engine), engine.name, repr(vars(engine)), str(caught.value)]
    assert server.headers[0]["Authorization"] == "Bearer sk-top-secret"
    assert not [text for text in shown if "sk-top-secret" in text]


@pytest.mark.parametrize(
    "base_url", ["", "127.0.0.1:1/v1", "ftp://h/v1", "http://", "http://h/v1?k=1", "http://h:x/v1"]
)
def test_what_is_no_address_is_refused(base_url):
    with pytest.raises(ConfigError, match="base_url"):
        HttpEngine(base_url, model=None)


def test_a_secret_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        HttpEngine("http://me:hush@h/v1", model=None)
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        HttpEngine("http://h/v1", model=None, key="hu\nsh")
    assert "sh" not in str(caught.value).split(":")[1].replace("has", "")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"connect_timeout_s": 0}, "http.connect_timeout_s"),
        ({"total_timeout_s": float("inf")}, "http.total_timeout_s"),
        ({"backoff_s": -1}, "http.backoff_s"),
        ({"max_attempts": 0}, "http.max_attempts"),
        ({"image_format": "gif"}, "http.image_format"),
        ({"least_top_logprobs": 0}, "http.least_top_logprobs"),
        ({"tool_choice": "maybe"}, "http.tool_choice"),
    ],
)
def test_a_setting_that_cannot_work_names_its_field(settings, field):
    with pytest.raises(ConfigError) as caught:
        HttpSettings(**settings)
    assert caught.value.field == field


async def test_a_tool_that_is_no_json_is_the_callers_fault():
    async with serving(words) as server, Asked(server) as engine:
        with pytest.raises(ConfigError, match="tools"):
            await engine.generate(ask(tools=("zoom",)))


# Connections.


async def test_one_connection_serves_call_after_call():
    async with serving(words) as server:
        for stream in (True, False):
            async with Asked(server, stream=stream) as engine:
                for _ in range(5):
                    await engine.generate(ask())
                assert server.connections == 1
            await server.until(lambda server: not server.connections)


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_a_call_is_seen_by_the_server(stream):
    slow = lambda body: say(body, ["word "] * 500, token_s=0.01)  # noqa: E731
    async with serving(slow) as server, Asked(server, stream=stream) as engine:
        with anyio.move_on_after(0.15) as scope:
            await engine.generate(ask(tokens=500))
        assert scope.cancelled_caught
        await server.until(lambda server: not server.in_flight)
        assert (server.disconnects, server.finished) == (1, 0)
        server.script = words
        assert (await engine.generate(ask())).text == "a red disc"


async def test_no_more_calls_are_under_way_than_allowed():
    slow = lambda body: say(body, ["a"], token_s=0.01)  # noqa: E731
    async with serving(slow) as server, Asked(server, max_connections=3) as engine:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(engine.generate, ask())
        assert (server.max_in_flight, server.finished) == (3, 20)
        assert server.connections <= 3


async def test_closing_ends_the_calls_under_way():
    slow = lambda body: say(body, ["word "] * 500, token_s=0.01)  # noqa: E731
    errors = []

    async def call(engine):
        try:
            await engine.generate(ask(tokens=500))
        except EngineUnavailable as error:
            errors.append(str(error))

    async with serving(slow) as server, Asked(server) as engine:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, engine)
                await anyio.sleep(0.1)
                await engine.aclose()
    assert "closed" in errors[0]
    gc.collect()  # an unclosed connection would warn here, and warnings are errors


def test_on_trio_it_says_what_it_runs_on():
    engine = HttpEngine("http://127.0.0.1:1/v1", model="m")
    with pytest.raises(EngineUnavailable, match="asyncio"):
        anyio.run(engine.generate, ask(), backend="trio")


async def test_it_stays_with_its_event_loop():
    async with serving(words) as server, Asked(server) as engine:
        await engine.generate(ask())
        with pytest.raises(EngineUnavailable, match="event loop"):
            await anyio.to_thread.run_sync(anyio.run, engine.generate, ask())
        await engine.generate(ask())
