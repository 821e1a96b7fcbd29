"""A plan made live: engines on servers, each opened once, told by its model's name."""

import tomllib
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from speceyes.assemble_gateway import open_gateway
from speceyes.bench.calibrating import calibrate
from speceyes.calibration.certificate import Certified, to_json
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.gateway.app import inner_app
from speceyes.gateway.settings_file import plan_of
from speceyes.specs import gate_id
from tests.asgi import Client
from tests.gateway_rig import body, text_body
from tests.stub_server import last_text, refusal, say, serving
from tests.test_calibrating import WISH, a_run

pytestmark = pytest.mark.anyio

TWO_ROUTES = """
protocol = "deepeyes"
gate = {{ threshold = 1.0, k = 16 }}

[engines.big]
engine = "{url}"

[routes.speceyes]
small = "{url}#little"
large = "big"

[routes.careful]
small = "{url}#little"
large = "big"
settings = {{ screen_by = "small" }}

[routes.plain]
large = "big"
mode = "bypass"
"""


@pytest.fixture
def anyio_backend():
    return "asyncio"


def speak(asked):
    """Play both models, and the server for what is passed on."""
    if asked.get("max_tokens") == 1:
        return say(asked, [" no"])
    if asked.get("top_logprobs"):
        return say(asked, ["star"])
    return say({"max_tokens": 50} | asked, ["<answer>", "ring", "</answer>"])


async def ask(script, *asked, **headers):
    async with serving(script) as server:
        table = tomllib.loads(TWO_ROUTES.format(url=server.url))
        plan = plan_of(table, Path(), flags={})
        async with open_gateway(plan) as gateway, gateway.observer.open():
            client = Client(inner_app(gateway))
            replies = [await client.post(one, **headers) for one in asked]
            return replies, server, (await client.get("/readyz")).json()


async def test_both_engines_are_asked_under_their_own_names():
    (reply,), server, _ = await ask(speak, body())
    assert reply.json()["model"] == "little"
    assert reply.json()["choices"][0]["message"]["content"] == "star"
    assert [asked["model"] for asked in server.bodies] == ["stub", "little"]


async def test_routes_that_name_the_same_engine_share_it_and_its_breaker():
    def dead(asked):
        return refusal(500, "no") if asked["model"] == "stub" else speak(asked)

    replies, server, ready = await ask(dead, *[body()] * 6, text_body(model="plain"))
    assert {reply.status for reply in replies[:5]} <= {502, 503}
    assert {one["large"] for one in ready["engines"].values()} == {"open"}
    assert replies[-1].status == 503
    assert "plain" not in [asked["model"] for asked in server.bodies]


async def test_a_request_past_the_method_goes_to_the_large_engines_server():
    replies, server, _ = await ask(speak, text_body(n=1), text_body(model="plain"))
    assert [asked["model"] for asked in server.bodies] == ["stub", "stub"]
    assert {reply.headers["x-speceyes-route"] for reply in replies} == {"bypass"}
    assert server.lookups == 1


async def test_a_requests_place_in_a_trace_reaches_the_engines():
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    (reply,), server, _ = await ask(speak, body(), traceparent=parent)
    for headers in server.headers:
        told = {name.lower(): value for name, value in headers.items()}
        assert told["traceparent"] == parent
        assert told["x-request-id"] == reply.headers["x-request-id"]


async def test_the_small_engine_may_screen():
    (reply,), server, _ = await ask(speak, body(model="careful"))
    assert [asked["model"] for asked in server.bodies] == ["little", "little"]
    assert reply.json()["speceyes"]["usage"]["large"]["total_tokens"] == 0


async def test_earlier_turns_reach_the_engines():
    earlier = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
    ]
    _, server, _ = await ask(speak, body(*earlier, *body()["messages"]))
    for asked in server.bodies:
        assert [message["role"] for message in asked["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
        assert "which?" in last_text(asked)


async def test_a_mistake_names_its_route():
    table = {"routes": {"fast": {"large": "http://127.0.0.1:9/v1"}}}
    with pytest.raises(ConfigError) as caught:
        async with open_gateway(plan_of(table, Path(), flags={})):
            pass
    assert caught.value.field == "routes.fast.gate"


async def test_passing_everything_on_takes_a_server():
    table = {"routes": {"fast": {"large": "builtin", "mode": "bypass"}}}
    with pytest.raises(ConfigError) as caught:
        async with open_gateway(plan_of(table, Path(), flags={})):
            pass
    assert caught.value.field == "routes.fast.mode"


WATCHED = """
protocol = "deepeyes"
policy = "{policy}"
gate = {{ threshold = 1.0, k = 16 }}
small = {{ engine = "{url}#little" }}
large = {{ engine = "{url}#big" }}

[routes.speceyes.shadow]
mode = "audit"
share = 1.0
"""


def watched(url, policy="serial"):
    return plan_of(tomllib.loads(WATCHED.format(url=url, policy=policy)), Path(), flags={})


async def test_what_was_accepted_is_checked_beside_and_shown():
    async with serving(speak) as server, open_gateway(watched(server.url)) as gateway:
        shadow, checked = gateway.routes.find("speceyes").shadow, anyio.Event()
        count = shadow.tell
        shadow.tell = lambda *told: (count(*told), checked.set())
        async with gateway.observer.open():
            client = Client(inner_app(gateway))
            reply = await client.post(body())
            assert reply.json()["choices"][0]["message"]["content"] == "star"
            with anyio.fail_after(20):
                await checked.wait()
            shown = (await client.get("/v1/stats")).json()
            metrics = (await client.get("/metrics")).body.decode()
    assert shown["total"]["requests"] == 1
    one = shown["now"]["shadows"]["speceyes"]
    assert (one["checked"], one["differing"], one["states"]) == (1, 1, {"watching": 1})
    assert 'speceyes_shadow_total{model="speceyes",outcome="unread"} 1.0' in metrics
    assert 'speceyes_shadow_tokens_total{kind="completion",model="speceyes"}' in metrics


KEPT = (
    WATCHED
    + """
max_loss = 0.05
on_breach = "off"
state_folder = "state"
"""
)


async def visits(plan, most):
    """Ask until the agent answers, each checked before the next; say how it stood at the start.

    Gives the number of accepted answers, and the shadow in /v1/stats and in /metrics.
    """
    routes = []
    async with open_gateway(plan) as gateway, gateway.observer.open():
        client = Client(inner_app(gateway))
        shadow = gateway.routes.find("speceyes").shadow
        shown = (await client.get("/v1/stats")).json()["now"]["shadows"]["speceyes"]
        metrics = (await client.get("/metrics")).body.decode()
        while len(routes) < most and "agentic" not in routes:
            routes.append((await client.post(body())).json()["speceyes"]["route"])
            with anyio.fail_after(20):
                await shadow.drain()
    return routes.count("speculative"), shown, metrics


async def test_a_route_whose_bound_broke_stays_off_after_a_restart(tmp_path):
    async with serving(speak) as server:
        told = KEPT.format(url=server.url, policy="serial")
        plan = plan_of(tomllib.loads(told), tmp_path, flags={})
        checks, shown, _ = await visits(plan, 40)
        assert 0 < checks < 39
        assert shown["states"] == {"watching": 1}
        asked = len(server.bodies)
        count, shown, metrics = await visits(plan, 1)
        assert count == 0
        assert "little" not in [one["model"] for one in server.bodies[asked:]]
        assert (shown["states"], shown["checked"]) == ({"off": 1}, checks)
        assert 'speceyes_shadow_workers{model="speceyes",state="off"} 1.0' in metrics
        assert "speceyes_shadow_threshold{" in metrics
        other = plan_of(tomllib.loads(told.replace("1.0, k", "2.0, k")), tmp_path, flags={})
        _, shown, _ = await visits(other, 1)
        assert shown["states"] == {"watching": 1}  # another gate
        for file in (tmp_path / "state").iterdir():  # how an operator has it begin anew
            file.unlink()
        _, shown, _ = await visits(plan, 1)
        assert (shown["states"], shown["queries"]) == ({"watching": 1}, 0)


async def test_a_folder_that_cannot_be_used_names_its_route(tmp_path):
    (tmp_path / "state").write_text("")
    told = KEPT.format(url="http://127.0.0.1:9/v1", policy="serial")
    with pytest.raises(ConfigError) as caught:
        async with open_gateway(plan_of(tomllib.loads(told), tmp_path, flags={})):
            pass
    assert caught.value.field == "routes.speceyes.shadow.state_folder"


@pytest.mark.parametrize("policy", ["small_only", "agent_only"])
async def test_without_a_gate_there_is_nothing_to_watch(policy):
    with pytest.raises(ConfigError) as caught:
        async with open_gateway(watched("http://127.0.0.1:9/v1", policy)):
            pass
    assert caught.value.field == "routes.speceyes.shadow.mode"


async def test_a_gates_certificate_is_shown_and_its_scores_are_held_against(tmp_path):
    made = await anyio.to_thread.run_sync(lambda: calibrate([a_run()], WISH))
    gate = GateSpec(threshold=1.0, k=16)
    own = replace(made.certificate, gate_id=gate_id(gate))
    (tmp_path / "gate.json").write_text(to_json(Certified(gate, own)))
    url = "http://127.0.0.1:9/v1"
    told = WATCHED.format(url=url, policy="serial").replace(
        "gate = { threshold = 1.0, k = 16 }", 'gate = "gate.json"'
    )
    plan = plan_of(tomllib.loads(told), tmp_path, flags={})
    async with open_gateway(plan) as gateway, gateway.observer.open():
        shown = (await Client(inner_app(gateway)).get("/v1/stats")).json()
    one = shown["calibrated"]["speceyes"]
    assert (one["made_at"], one["max_loss"]) == (WISH.made_at, WISH.max_loss)
    assert one["sources"] == [f"{source.items} of {source.suite}" for source in own.sources]
    assert shown["now"]["shadows"]["speceyes"]["drift_from"] == "calibration"
