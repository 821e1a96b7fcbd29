"""The real gateway and its real observer: what was asked is what is counted, and no more."""

import base64
import hashlib

import anyio
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families as parse

from speceyes.gateway.figures import Model
from speceyes.gateway.observer import Watcher
from speceyes.gateway.settings import AuditSettings, GatewaySettings, Key, TracingSettings
from speceyes.gateway.tracing import Tracing
from tests.gateway_rig import a_gateway, body, text_body
from tests.stand_ins import ACCEPTED, CALL, REJECTED, Plan, turns

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

FALLEN = Plan(small=REJECTED.small, turns=turns(CALL, "answer large"))
MODELS = [Model(name="speceyes", threshold=4.0)]
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def watching(settings=None, **more):
    settings = settings or GatewaySettings()
    return Watcher(settings, MODELS, clock=anyio.current_time, **more)


def totals(text, name):
    return {
        tuple(sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_every_request_is_counted_once_whatever_becomes_of_it():
    async with a_gateway(FALLEN, witness=watching()) as rig:
        for _ in range(3):
            await rig.client.post(body())
        await rig.client.post(body(stream=True))
        await rig.client.post(body(), leaves_after_s=1.5)
        await rig.client.post(b"{")
        await rig.client.post(body(model="nobody"))
        await rig.client.post(text_body())
        text = (await rig.client.get("/metrics")).body.decode()
        told = (await rig.client.get("/v1/stats")).json()
    counted = totals(text, "speceyes_requests_total")
    routes = {}
    for family in parse(text):
        for sample in family.samples:
            if sample.name == "speceyes_requests_total":
                key = (sample.labels["route"], sample.labels["reason"])
                routes[key] = routes.get(key, 0) + sample.value
    assert sum(counted.values()) == told["total"]["requests"] == 8
    assert routes == {
        ("agentic", "below_threshold"): 4,
        ("cancelled", "client_left"): 1,
        ("refused", "malformed"): 2,
        ("refused", "unknown_route"): 1,
    }
    assert told["now"]["in_flight"] == told["now"]["queued"] == 0
    assert totals(text, "speceyes_in_flight") == {(): 0}


async def test_an_unknown_models_name_is_no_label():
    async with a_gateway(witness=watching()) as rig:
        for index in range(5):
            await rig.client.post(body(model=f"nobody-{index}"))
        text = (await rig.client.get("/metrics")).body.decode()
    assert "nobody" not in text
    assert 'model="none"' in text


async def test_figures_are_those_of_the_engines():
    async with a_gateway(ACCEPTED, witness=watching()) as rig:
        for _ in range(4):
            await rig.client.post(body())
        told = (await rig.client.get("/v1/stats")).json()["total"]
    assert (told["decided"], told["passed"], told["accepted"]) == (4, 4, 4)
    assert told["phases"]["screen"]["mean_s"] == pytest.approx(1.0)
    assert told["phases"]["speculate"]["mean_s"] == pytest.approx(2.0)
    assert told["answers"]["speculative"]["mean_s"] == pytest.approx(3.0)
    assert told["overhead"]["speculative"]["mean_s"] == pytest.approx(0.0)
    assert told["scores"]["threshold"] == 4.0
    assert sum(told["scores"]["accepted"]) == 4


async def test_what_is_under_way_is_seen_while_it_is():
    async with a_gateway(ACCEPTED, witness=watching()) as rig:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(rig.client.post, body())
            await anyio.sleep(1.5)
            assert (await rig.client.get("/v1/stats")).json()["now"]["in_flight"] == 3
        assert (await rig.client.get("/v1/stats")).json()["now"]["in_flight"] == 0


async def test_what_is_shown_is_behind_the_keys():
    key = Key(name="team", sha256=hashlib.sha256(b"open").hexdigest())
    settings = GatewaySettings(keys=(key,))
    basic = "Basic " + base64.b64encode(b"any:open").decode()
    async with a_gateway(settings=settings, witness=watching(settings)) as rig:
        for path in ("/", "/metrics", "/v1/stats", "/page/page.js"):
            assert (await rig.client.get(path)).status == 401
            assert (await rig.client.get(path, authorization=basic)).status == 200
            assert (await rig.client.get(path, authorization="Bearer open")).status == 200


async def test_a_streamed_answer_is_timed_to_its_first_word():
    async with a_gateway(FALLEN, witness=watching()) as rig:
        await rig.client.post(body(stream=True))
        told = (await rig.client.get("/v1/stats")).json()
    (request,) = told["last"]
    assert request["is_stream"]
    assert request["first_byte_s"] < request["elapsed_s"]
    assert told["total"]["overhead"] == {}


async def test_question_answer_and_key_are_in_the_log_if_asked(tmp_path):
    key = Key(name="team", sha256=hashlib.sha256(b"open").hexdigest())
    file = tmp_path / "audit.jsonl"
    settings = GatewaySettings(keys=(key,), audit=AuditSettings(file=str(file), prompts=True))
    watcher = watching(settings)
    async with a_gateway(settings=settings, witness=watcher) as rig, watcher.open():
        await rig.client.post(body(), authorization="Bearer open")
        await rig.client.post(body(), authorization="Bearer closed")
    text = file.read_text()
    first, second = text.splitlines()
    assert '"question":"which?"' in first
    assert '"answer":"small words"' in first
    assert '"key":"team"' in first
    assert '"reason":"unauthorized"' in second
    assert "open" not in text.replace("gateway", "")
    assert "closed" not in text


async def test_a_request_is_traced_in_its_callers_trace():
    exporter = InMemorySpanExporter()
    told = TracingSettings(endpoint="http://127.0.0.1:4318", share=0.0)
    settings = GatewaySettings(tracing=told)
    watcher = watching(settings, tracing=Tracing(told, exporter))
    async with a_gateway(FALLEN, settings=settings, witness=watcher) as rig, watcher.open():
        reply = await rig.client.post(body(), traceparent=CALLER)
        await rig.client.post(body())  # its caller does not say, and the share is none
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {CALLER[3:35]}
    names = [
        span.name for span in sorted(spans, key=lambda span: (span.start_time, -span.end_time))
    ]
    assert names[0] == "chat speceyes"
    assert {"screen", "speculate", "gate", "invoke_agent speceyes"} <= set(names)
    own = spans[0]
    assert own.attributes["speceyes.request_id"] == reply.headers["x-request-id"]
    assert (own.end_time - own.start_time) / 1e9 == pytest.approx(13.0, abs=0.1)
