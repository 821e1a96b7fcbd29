"""The gateway, in process: who answers, what is told of it, and how every request ends once."""

import base64
import hashlib
import json

import anyio
import pytest

from speceyes.engines.replay import Take, scripted
from speceyes.errors import EngineUnavailable
from speceyes.gateway.settings import (
    BreakerSettings,
    GatewaySettings,
    ImageSettings,
    Key,
    Limits,
    RouteSettings,
    Streaming,
)
from speceyes.policies.fixed import race
from tests.gateway_rig import IMAGE, a_gateway, body, text_body
from tests.stand_ins import ACCEPTED, CALL, NEEDS_TOOL, REJECTED, Plan, Words, turns

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

FALLEN = Plan(small=REJECTED.small, turns=turns(CALL, "answer large"))
DOWN = Take(EngineUnavailable("engine", "is down"), 1.0)
USAGE = {"include_usage": True}


async def ask(plan=ACCEPTED, asked=None, **more):
    headers = more.pop("headers", {})
    async with a_gateway(plan, **more) as rig:
        return await rig.client.post(body() if asked is None else asked, **headers), rig.witness


async def test_an_accepted_answer_comes_from_the_small_model():
    reply, witness = await ask()
    told = reply.json()
    assert (reply.status, told["model"]) == (200, "small-model")
    assert told["choices"][0]["message"]["content"] == "small words"
    assert told["choices"][0]["finish_reason"] == "stop"
    way = told["speceyes"]
    assert (way["route"], way["reason"], way["depth"]) == ("speculative", "accepted", 0)
    assert (way["score"], way["threshold"]) == (pytest.approx(8.0, abs=1e-3), 4.0)
    assert way["phase_s"] == pytest.approx({"screen": 1.0, "speculate": 2.0, "gate": 0.0})
    assert reply.headers["x-speceyes-route"] == "speculative"
    assert reply.headers["x-speceyes-score"] == f"{way['score']:.6g}"
    assert (witness.end.route, witness.end.status) == ("speculative", 200)


async def test_a_rejected_answer_comes_from_the_agent():
    reply, witness = await ask(FALLEN)
    told = reply.json()
    assert (told["model"], told["choices"][0]["message"]["content"]) == ("large-model", "large")
    assert told["speceyes"]["reason"] == "below_threshold"
    assert (reply.headers["x-speceyes-route"], reply.headers["x-speceyes-depth"]) == (
        "agentic",
        "1",
    )
    assert "boxes" not in told["speceyes"]
    assert witness.end.answer.depth == 1


async def test_the_boxes_are_told_on_request():
    reply, _ = await ask(FALLEN, body(speceyes={"boxes": True}))
    assert reply.json()["speceyes"]["boxes"] == [
        {"turn": 1, "picture": 0, "box_px": [0, 0, 10, 10]}
    ]


async def test_tokens_are_counted_for_each_engine_and_add_up():
    reply, _ = await ask(FALLEN)
    told = reply.json()
    by_engine = told["speceyes"]["usage"]
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        parts = by_engine["small"][count] + by_engine["large"][count]
        assert told["usage"][count] == parts
    assert by_engine["small"]["completion_tokens"] > 0
    assert by_engine["large"]["completion_tokens"] > 0


async def test_the_observer_hears_all_in_order():
    _, witness = await ask(FALLEN)
    assert witness.let_in == [witness.seen[0].request_id]
    assert tuple(event for _, event in witness.events) == witness.end.answer.trace
    assert witness.seen[0].question == "which?"
    assert witness.seen[0].route_name == witness.end.route_name == "speceyes"


async def test_an_accepted_stream_begins_after_the_gate_and_says_it_all():
    reply, witness = await ask(ACCEPTED, body(stream=True, stream_options=USAGE))
    role, content, finish, usage, done = reply.events()
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert content["choices"][0]["delta"] == {"content": "small words"}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["speceyes"]["route"] == "speculative"
    assert (usage["choices"], done) == ([], "[DONE]")
    assert usage["usage"]["total_tokens"] > 0
    assert {chunk["model"] for chunk in (role, content, finish, usage)} == {"small-model"}
    assert len({chunk["id"] for chunk in (role, content, finish, usage)}) == 1
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-speceyes-route"] == "speculative"
    assert (witness.end.is_stream, witness.end.first_byte_s) == (True, pytest.approx(3.0))


async def test_usage_is_streamed_only_on_request():
    reply, _ = await ask(ACCEPTED, body(stream=True))
    assert [event for event in reply.events() if "usage" in event] == []


async def test_a_fallback_streams_what_the_agent_does():
    reply, _ = await ask(FALLEN, body(stream=True))
    deltas = [event["choices"][0]["delta"] for event in reply.events() if event != "[DONE]"]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "the large model answers (below_threshold)\n"},
        {"reasoning_content": "turn 1: spyglass at [0, 0, 10, 10]\n"},
        {"content": "large"},
        {},
    ]
    assert reply.headers["x-speceyes-reason"] == "below_threshold"


EARLY = turns(CALL, CALL, "answer large", latency_s=1.0)


async def test_an_agent_that_began_early_is_told_of_once_it_must_answer():
    racing = Plan(small=REJECTED.small, turns=EARLY)
    reply, _ = await ask(racing, body(stream=True), policy=race)
    assert told_of(reply) == [
        "the large model answers (below_threshold)\n",
        "turn 1: spyglass at [0, 0, 10, 10]\n",
        "turn 2: spyglass at [0, 0, 10, 10]\n",
    ]


async def test_an_agent_that_began_early_and_is_not_needed_is_not_told_of():
    accepted = Plan(turns=turns(CALL, CALL, "answer large", latency_s=0.9))
    reply, witness = await ask(accepted, body(stream=True), policy=race)
    assert told_of(reply) == []
    assert (witness.end.route, reply.headers["x-speceyes-route"]) == ("speculative", "speculative")


def told_of(reply):
    chunks = [event["choices"][0]["delta"] for event in reply.events() if event != "[DONE]"]
    return [delta["reasoning_content"] for delta in chunks if "reasoning_content" in delta]


@pytest.mark.parametrize(("progress", "comments"), [("comments", 2), ("none", 0)])
async def test_progress_can_be_comments_or_nothing(progress, comments):
    settings = GatewaySettings(streaming=Streaming(progress=progress))
    reply, _ = await ask(FALLEN, body(stream=True), settings=settings)
    events = reply.events()
    assert sum(isinstance(event, str) and event.startswith(":") for event in events) == comments
    chunks = [event for event in events if isinstance(event, dict)]
    assert [chunk["choices"][0]["delta"] for chunk in chunks][1:] == [{"content": "large"}, {}]


async def test_a_long_silence_is_kept_alive():
    slow = Plan(screen=NEEDS_TOOL.screen, turns=turns("answer large", latency_s=50.0))
    reply, witness = await ask(slow, body(stream=True))
    assert reply.events().count(": at work") == 3
    assert witness.end.route == "agentic"


async def test_a_long_silence_before_the_way_is_known_begins_the_stream():
    slow = Plan(screen=Take(ACCEPTED.screen.result, 20.0))
    reply, _ = await ask(slow, body(stream=True))
    role, at_work, content, *_ = reply.events()
    assert (role["choices"][0]["delta"]["role"], at_work) == ("assistant", ": at work")
    assert content["choices"][0]["delta"] == {"content": "small words"}


async def test_an_error_before_the_stream_begins_has_its_status():
    settings = GatewaySettings(breaker=BreakerSettings(failures=1))
    async with a_gateway(Plan(screen=DOWN, turns=(DOWN,)), settings=settings) as rig:
        await rig.client.post(body())
        reply = await rig.client.post(body(stream=True))
    assert (reply.status, reply.error()["code"]) == (503, "engine_unavailable")


async def test_an_error_in_mid_stream_ends_it_with_an_error_event():
    broken = Plan(small=REJECTED.small, turns=(*turns(CALL), DOWN))
    reply, witness = await ask(broken, body(stream=True))
    last = reply.events()[-1]
    assert last["error"]["code"] == "engine_unavailable"
    assert reply.is_whole
    assert "[DONE]" not in reply.events()
    assert (witness.end.route, witness.end.reason, witness.end.status) == (
        "failed",
        "agent_failed",
        200,
    )


async def test_an_agent_that_fails_is_an_error_with_its_status():
    reply, witness = await ask(Plan(screen=NEEDS_TOOL.screen, turns=(DOWN,)))
    assert (reply.status, reply.error()["code"]) == (503, "engine_unavailable")
    assert reply.headers["x-speceyes-route"] == "failed"
    assert witness.end.status == 503


async def test_a_client_that_leaves_cancels_all_that_was_begun():
    async with a_gateway(FALLEN) as rig:
        with anyio.fail_after(2.0):
            reply = await rig.client.post(body(), leaves_after_s=1.5)
        assert reply.messages == []
        end = rig.witness.end
        assert (end.route, end.reason, end.status) == ("cancelled", "client_left", 499)
        assert end.elapsed_s <= 1.5 + 1e-6
        assert rig.gateway.routes.find("speceyes").small.breaker.state == "closed"


async def test_a_client_that_leaves_the_queue_leaves_it_to_others():
    settings = GatewaySettings(limits=Limits(max_in_flight=1, max_queue=1))
    async with a_gateway(settings=settings) as rig, anyio.create_task_group() as tasks:
        tasks.start_soon(rig.client.post, body())
        await anyio.sleep(0.1)
        await rig.client.post(body(), leaves_after_s=0.5)
        reply = await rig.client.post(body())
    assert reply.status == 200
    assert sorted(end.route for end in rig.witness.ends) == ["cancelled"] + ["speculative"] * 2


async def test_a_full_queue_is_told_with_when_to_ask_again():
    settings = GatewaySettings(limits=Limits(max_in_flight=1, max_queue=0))
    async with a_gateway(settings=settings) as rig, anyio.create_task_group() as tasks:
        tasks.start_soon(rig.client.post, body())
        await anyio.sleep(0.1)
        reply = await rig.client.post(body())
    assert (reply.status, reply.error()["type"]) == (429, "rate_limit_error")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.headers["x-speceyes-reason"] == "busy"


async def test_the_clients_deadline_holds():
    reply, witness = await ask(FALLEN, headers={"x_request_timeout_s": "4.5"})
    assert (reply.status, reply.error()["code"]) == (504, "engine_timeout")
    assert (witness.end.reason, witness.end.elapsed_s) == ("deadline", pytest.approx(4.5, abs=0.1))


async def test_the_settings_deadline_holds_whatever_the_client_says():
    settings = GatewaySettings(limits=Limits(request_timeout_s=4.5))
    reply, _ = await ask(FALLEN, settings=settings, headers={"x_request_timeout_s": "100"})
    assert reply.status == 504


@pytest.mark.parametrize("limit", ["soon", "-1", "nan", "inf", "0"])
async def test_a_deadline_that_is_none_is_refused(limit):
    reply, _ = await ask(headers={"x_request_timeout_s": limit})
    assert (reply.status, reply.error()["param"]) == (400, "x-request-timeout-s")


async def test_a_bound_on_tokens_bounds_the_small_model_and_never_more():
    for bound, tokens in ((7, 7), (500, 20)):
        async with a_gateway() as rig:
            await rig.client.post(body(max_tokens=bound))
        assert [call.request.max_tokens for call in rig.small.calls] == [tokens]


async def test_a_bound_on_tokens_is_no_bound_on_the_agent_and_that_is_told():
    accepted, _ = await ask(ACCEPTED, body(max_tokens=500))
    fallen, _ = await ask(FALLEN, body(max_tokens=500, max_completion_tokens=7))
    assert accepted.json()["speceyes"]["not_applied"] == []
    assert fallen.json()["speceyes"]["not_applied"] == ["max_tokens", "max_completion_tokens"]


async def test_what_was_not_applied_is_told():
    greedy = RouteSettings(on_sampling="greedy")
    reply, _ = await ask(ACCEPTED, body(temperature=0.7, user="me"), route=greedy)
    assert reply.json()["speceyes"]["not_applied"] == ["user", "temperature"]


@pytest.mark.parametrize(
    ("asked", "field"), [(text_body(), "messages"), (body(temperature=0.5), "temperature")]
)
async def test_what_is_outside_and_cannot_be_passed_on_is_refused_with_its_field(asked, field):
    reply, witness = await ask(ACCEPTED, asked)
    assert (reply.status, reply.error()["param"]) == (400, field)
    assert (witness.end.route, witness.end.reason) == ("refused", "malformed")


@pytest.mark.parametrize(
    ("asked", "status", "reason", "field"),
    [
        (b"{", 400, "malformed", "body"),
        (body(model="other"), 404, "unknown_route", "model"),
        (body(n=0), 400, "malformed", "n"),
        (body(limit=1) | {"model": 5}, 400, "malformed", "model"),
        (b" " * 2000, 413, "too_large", "body"),
    ],
)
async def test_what_cannot_be_served_is_refused_and_ends_once(asked, status, reason, field):
    settings = GatewaySettings(limits=Limits(max_body_bytes=1500))
    reply, witness = await ask(ACCEPTED, asked, settings=settings)
    assert (reply.status, reply.error()["param"]) == (status, field)
    assert reply.headers["x-speceyes-reason"] == reason
    assert (witness.end.route, witness.end.reason) == ("refused", reason)


async def test_a_picture_that_is_none_is_refused_with_its_field():
    spoiled = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text = {"type": "text", "text": "which?"}
    reply, _ = await ask(ACCEPTED, body({"role": "user", "content": [IMAGE, spoiled, text]}))
    assert (reply.status, reply.error()["param"]) == (415, "messages[0].content[1].image_url.url")


async def test_too_many_pictures_are_refused():
    settings = GatewaySettings(images=ImageSettings(max_count=1))
    text = {"type": "text", "text": "which?"}
    reply, _ = await ask(
        ACCEPTED, body({"role": "user", "content": [IMAGE, IMAGE, text]}), settings=settings
    )
    assert (reply.status, reply.error()["param"]) == (413, "messages[0].content[1].image_url.url")


KEYS = GatewaySettings(keys=(Key(name="me", sha256=hashlib.sha256(b"sk-1").hexdigest()),))


async def test_without_a_key_nobody_comes_in():
    reply, witness = await ask(settings=KEYS)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert witness.end.reason == "unauthorized"


async def test_a_key_lets_its_owner_in():
    reply, witness = await ask(settings=KEYS, headers={"authorization": "Bearer sk-1"})
    assert (reply.status, witness.end.key_name) == (200, "me")


async def test_the_models_are_behind_the_keys_and_a_browser_may_show_one_as_password():
    password = base64.b64encode(b"any:sk-1").decode()
    async with a_gateway(settings=KEYS) as rig:
        assert (await rig.client.get("/v1/models")).status == 401
        reply = await rig.client.get("/v1/models", authorization=f"Basic {password}")
        assert reply.status == 200
        assert (await rig.client.get("/healthz")).status == 200


async def test_the_routes_are_models():
    async with a_gateway() as rig:
        listed = (await rig.client.get("/v1/models")).json()
        one = await rig.client.get("/v1/models/speceyes")
        other = await rig.client.get("/v1/models/other")
    assert [model["id"] for model in listed["data"]] == ["speceyes"]
    assert one.json() == listed["data"][0]
    assert (other.status, other.error()["code"]) == (404, "model_not_found")


async def test_what_is_not_there_is_told_as_an_error_of_the_api():
    async with a_gateway() as rig:
        nowhere = await rig.client.get("/v1/nowhere")
        reading = await rig.client.get("/v1/chat/completions")
        writing = await rig.client.post(b"", path="/v1/models")
    assert (nowhere.status, nowhere.error()["code"]) == (404, "not_found")
    assert (reading.status, reading.headers["allow"]) == (405, "POST")
    assert (writing.status, writing.error()["param"]) == (405, None)


async def test_it_is_ready_until_the_large_engine_is_down():
    settings = GatewaySettings(breaker=BreakerSettings(failures=1))
    async with a_gateway(Plan(screen=DOWN, turns=(DOWN,)), settings=settings) as rig:
        assert (await rig.client.get("/readyz")).status == 200
        await rig.client.post(body())
        reply = await rig.client.get("/readyz")
        assert (reply.status, reply.json()["engines"]["speceyes"]["large"]) == (503, "open")
        refused = await rig.client.post(body())
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert rig.witness.ends[-1].reason == "large_down"
    assert ("speceyes", "large", "open") in rig.witness.states


async def test_with_the_small_engine_down_the_agent_answers_degraded():
    settings = GatewaySettings(breaker=BreakerSettings(failures=1))
    async with a_gateway(Plan(small=DOWN, turns=turns("answer large")), settings=settings) as rig:
        for _ in range(2):
            reply = await rig.client.post(body())
    way = reply.json()["speceyes"]
    assert (way["route"], way["reason"], way["is_degraded"]) == ("agentic", "small_failed", True)
    assert len(rig.small.calls) == 1


async def test_a_defect_is_told_as_one_and_ends_its_request_alone():
    class Spoiled(Words):
        @staticmethod
        def screen(query, views):
            raise KeyError("secret")

    async with a_gateway(parts={"prompts": Spoiled}) as rig:
        reply = await rig.client.post(body())
    assert (reply.status, reply.error()["code"]) == (500, "defect")
    assert b"secret" not in reply.body
    assert (rig.witness.end.route, rig.witness.end.reason) == ("failed", "defect")


@pytest.mark.parametrize("place", ["find", "open_images"])
async def test_a_defect_of_the_gateways_own_is_told_and_ends_its_request(monkeypatch, place):
    def break_down(*_):
        raise KeyError("secret")

    async with a_gateway() as rig:
        if place == "find":
            monkeypatch.setattr(type(rig.gateway.routes), "find", break_down)
        else:
            monkeypatch.setattr("speceyes.gateway.entrance.open_images", break_down)
        reply = await rig.client.post(body())
    assert (reply.status, reply.error()["code"]) == (500, "defect")
    assert b"secret" not in reply.body
    assert (rig.witness.end.route, rig.witness.end.reason) == ("failed", "defect")


async def test_the_description_names_every_path():
    async with a_gateway() as rig:
        told = (await rig.client.get("/openapi.json")).json()
    assert told["openapi"].startswith("3.1")
    assert {"/v1/chat/completions", "/v1/models", "/healthz", "/readyz"} <= told["paths"].keys()
    assert json.dumps(told).count("$ref") > 3


async def test_scripted_words_with_marks_arrive_as_they_are():
    words = 'ß → "quoted"\n\u2028 \U0001f600'
    plan = Plan(small=Take(scripted(words, separability=8.0, k=16), 1.0))
    whole, _ = await ask(plan)
    assert whole.json()["choices"][0]["message"]["content"] == words.strip()
    streamed, _ = await ask(plan, body(stream=True))
    assert streamed.events()[1]["choices"][0]["delta"]["content"] == words.strip()
