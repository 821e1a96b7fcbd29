"""What is outside the method goes on untouched, and its reply back; both end with the client."""

import json

import anyio
import pytest

from speceyes.gateway.settings import BreakerSettings, GatewaySettings, RouteSettings
from tests.asgi import Reply
from tests.gateway_rig import a_gateway, body, text_body
from tests.stub_server import HangUp, Raw, Silence, refusal, say, serving

pytestmark = pytest.mark.anyio

PIECES = (b'data: {"n": 1}\n\n', b'data: {"n":', b" 2}\n\n", b"data: [DONE]\n\n")
WORDS = json.dumps({"choices": [], "odd": 1.0}, indent=3).encode()


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def ask(script, asked=None, **more):
    headers = more.pop("headers", {})
    async with serving(script) as server, a_gateway(upstream=server.url, **more) as rig:
        reply = await rig.client.post(text_body() if asked is None else asked, **headers)
    return reply, rig.witness, server


async def test_a_request_outside_the_method_is_passed_on_under_the_servers_name():
    asked = text_body(n=3, temperature=0.25, guided_json={"a": [1, None]})
    reply, witness, server = await ask(lambda _: Raw(body=WORDS), asked)
    assert server.bodies == [{**asked, "model": "their-model"}]
    assert (reply.status, reply.body) == (200, WORDS)
    assert reply.headers["x-speceyes-route"] == "bypass"
    assert reply.headers["x-speceyes-reason"] == "no_image"
    assert reply.headers["content-type"] == "application/json"
    assert (witness.end.route, witness.end.reason) == ("bypass", "no_image")
    assert witness.end.bytes_out == len(WORDS)
    assert witness.end.upstream_s > 0


async def test_the_servers_key_is_used_and_the_clients_stays_here():
    _, witness, server = await ask(
        lambda _: Raw(body=WORDS),
        headers={
            "authorization": "Bearer sk-mine",
            "x_secret": "mine",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "x_request_timeout_s": "20",
        },
    )
    told = {name.lower(): value for name, value in server.headers[0].items()}
    assert told["authorization"] == "Bearer sk-upstream"
    assert told["x-request-id"] == witness.end.request_id
    assert told["traceparent"].startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
    assert 19 < float(told["x-request-timeout-s"]) <= 20
    assert "sk-mine" not in str(told)
    assert "mine" not in told.values()


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_what_the_server_refuses_comes_back_as_it_is(status):
    said = refusal(status, "no", headers={"retry-after": "7"})
    reply, witness, _ = await ask(lambda _: said)
    assert (reply.status, reply.body) == (status, said.body)
    assert reply.headers["retry-after"] == "7"
    assert witness.end.status == status


async def test_a_stream_comes_back_byte_for_byte():
    stream = Raw(content_type="text/event-stream", pieces=PIECES)
    reply, witness, _ = await ask(lambda _: stream, text_body(stream=True))
    assert reply.body == b"".join(PIECES)
    assert reply.is_whole
    assert witness.end.is_stream


async def test_a_route_can_pass_everything_on():
    route = RouteSettings(mode="bypass")
    reply, witness, server = await ask(lambda _: Raw(body=WORDS), body(), route=route)
    assert (reply.status, witness.end.reason) == (200, "route")
    assert server.bodies[0]["messages"] == body()["messages"]


async def test_a_stream_that_breaks_off_ends_with_an_error_event():
    broken = Raw(content_type="text/event-stream", pieces=PIECES[:2], breaks_off=True)
    reply, witness, _ = await ask(lambda _: broken, text_body(stream=True))
    assert reply.body.startswith(b"".join(PIECES[:2]))
    last = [part for part in reply.body.split(b"\n\n") if part][-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_unavailable"
    assert (witness.end.route, witness.end.reason) == ("failed", "upstream")


async def test_any_other_reply_that_breaks_off_is_left_broken():
    broken = Raw(pieces=(b'{"a": ',), breaks_off=True)
    reply, witness, _ = await ask(lambda _: broken)
    assert (reply.body, reply.is_whole) == (b'{"a": ', False)
    assert witness.end.route == "failed"


async def test_a_server_that_hangs_up_is_asked_once_more_and_then_told():
    reply, witness, server = await ask(lambda _: HangUp())
    assert (reply.status, reply.error()["code"]) == (503, "engine_unavailable")
    assert len(server.bodies) == 2
    assert (witness.end.route, witness.end.reason) == ("failed", "upstream")


async def test_a_server_that_is_not_there_is_told_without_its_key():
    async with a_gateway(upstream="http://127.0.0.1:9/v1") as rig:
        reply = await rig.client.post(text_body())
    assert reply.status == 503
    assert b"sk-upstream" not in reply.body


async def test_nothing_is_sent_twice_once_a_byte_has_come():
    broken = Raw(pieces=(b'{"a": ',), breaks_off=True)
    _, _, server = await ask(lambda _: broken)
    assert len(server.bodies) == 1


async def test_a_client_that_leaves_ends_the_call():
    async with serving(lambda _: Silence(20.0)) as server, a_gateway(upstream=server.url) as rig:
        await rig.client.post(text_body(), leaves_after_s=0.1)
        await server.until(lambda one: one.disconnects == 1)
        assert (rig.witness.end.route, rig.witness.end.status) == ("cancelled", 499)


async def test_a_client_that_leaves_a_stream_ends_the_call():
    endless = Raw(content_type="text/event-stream", pieces=PIECES[:1], hold_s=20.0)
    async with serving(lambda _: endless) as server, a_gateway(upstream=server.url) as rig:
        reply = await rig.client.post(text_body(stream=True), leaves_after_s=0.2)
        await server.until(lambda one: one.disconnects == 1)
    assert reply.body == PIECES[0]
    assert (rig.witness.end.route, rig.witness.end.status) == ("cancelled", 200)


async def test_the_deadline_ends_the_call():
    async with serving(lambda _: Silence(20.0)) as server, a_gateway(upstream=server.url) as rig:
        reply = await rig.client.post(text_body(), x_request_timeout_s="0.2")
        await server.until(lambda one: one.disconnects == 1)
    assert (reply.status, rig.witness.end.reason) == (504, "deadline")


async def test_a_server_that_fails_again_and_again_is_left_alone():
    settings = GatewaySettings(breaker=BreakerSettings(failures=2))
    async with (
        serving(lambda _: refusal(500, "no")) as server,
        a_gateway(upstream=server.url, settings=settings) as rig,
    ):
        for _ in range(4):
            reply = await rig.client.post(text_body())
    assert (reply.status, len(server.bodies)) == (503, 2)
    assert int(reply.headers["retry-after"]) >= 1
    assert rig.witness.ends[-1].reason == "large_down"


async def test_many_share_the_connections_and_none_is_lost():
    async with serving(lambda asked: say(asked, ["hi"])) as server:
        async with a_gateway(upstream=server.url) as rig, anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(rig.client.post, text_body(max_tokens=5))
        assert (server.finished, server.disconnects) == (50, 0)
    assert [end.status for end in rig.witness.ends] == [200] * 50


async def test_closing_tells_who_still_waits():
    reply = Reply()
    async with serving(lambda _: Silence(20.0)) as server, a_gateway(upstream=server.url) as rig:
        with anyio.move_on_after(0.2):  # as a server does whose time to drain is over
            await rig.client.post(text_body(), reply=reply)
        await server.until(lambda one: one.disconnects == 1)
    assert (reply.status, reply.error()["code"]) == (503, "engine_unavailable")
    assert (rig.witness.end.route, rig.witness.end.reason) == ("cancelled", "draining")
