"""Traces of the gateway: one span for a request and each of its steps, with their true times."""

from __future__ import annotations

import sys
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from speceyes.engines.http import HttpEngine
from speceyes.engines.transport import ONWARD
from speceyes.errors import ConfigError
from speceyes.gateway.observer import Watcher
from speceyes.gateway.settings import GatewaySettings, TracingSettings
from speceyes.gateway.trace_context import context_of, onward, read_traceparent
from speceyes.gateway.tracing import Tracing
from speceyes.types import GenerateRequest, Message, Text
from tests.gateway_served import Clock, hear
from tests.gateway_stories import (
    MODELS,
    NOON_S,
    PRIVATE,
    Story,
    draw_many,
    finished,
    unanswered,
)
from tests.stub_server import say, serving

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOLD = TracingSettings(endpoint="http://127.0.0.1:4318")
FELL_BACK = Story().screened(0.9).fell_back("needs_tool", 2).answered("needs_tool")
ENTRIES = {
    value
    for module in (gen_ai_attributes, error_attributes, http_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


def traced(*requests, share=1.0, traceparent=None, settings=TOLD):
    """Tell a watcher of requests; gives the spans that left it, the first begun first."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(settings, exporter)
    told = GatewaySettings(tracing=TracingSettings(endpoint=settings.endpoint, share=share))
    watcher = Watcher(told, MODELS, tracing=tracing, clock=Clock())

    async def tell_all():
        async with watcher.open():
            for one in requests:
                hear(watcher, one, traceparent=traceparent)

    anyio.run(tell_all)
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)


def named(spans, name):
    (span,) = [span for span in spans if span.name == name]
    return span


def test_a_request_its_phases_turns_and_tools_are_spans_within_each_other():
    spans = traced(finished(FELL_BACK))
    own = named(spans, "chat speceyes")
    agent = named(spans, "invoke_agent speceyes")
    turns = [span for span in spans if span.name == "chat large-model"]
    tools = [span for span in spans if span.name == "execute_tool image_zoom_in_tool"]
    assert len(spans) == 3 + len(turns) + len(tools) == 8
    assert own.parent is None
    assert own.kind is SpanKind.SERVER
    assert named(spans, "screen").parent.span_id == agent.parent.span_id == own.context.span_id
    assert {span.parent.span_id for span in (*turns, *tools)} == {agent.context.span_id}
    assert {span.context.trace_id for span in spans} == {own.context.trace_id}
    assert len({span.context.span_id for span in spans}) == len(spans)


def test_times_are_those_of_the_events():
    request = finished(FELL_BACK)
    spans = traced(request)
    own, screen = named(spans, "chat speceyes"), named(spans, "screen")
    begun_ns = round(NOON_S * 1e9)  # the clock stands still while the story is told
    assert own.end_time == begun_ns
    assert own.end_time - own.start_time == round(request.ended.elapsed_s * 1e9)
    assert screen.start_time == round((NOON_S + 0.004) * 1e9)
    assert screen.end_time - screen.start_time == pytest.approx(60e6, abs=1e3)
    turns = [span for span in spans if span.name == "chat large-model"]
    lengths = [span.end_time - span.start_time for span in turns]
    assert lengths == pytest.approx([550e6, 550e6, 500e6], abs=1e3)


def test_names_of_attributes_are_the_conventions_or_ours():
    for span in traced(*draw_many(200)):
        for name in span.attributes:
            assert name in ENTRIES or name.startswith("speceyes."), name


def test_what_was_asked_and_said_is_in_no_span():
    told = str([(s.name, dict(s.attributes), s.status) for s in traced(*draw_many(300))])
    assert "passport" not in told
    assert PRIVATE not in told


def test_generations_carry_their_model_and_tokens():
    turn = next(s for s in traced(finished(FELL_BACK)) if s.name == "chat large-model")
    assert turn.attributes["gen_ai.operation.name"] == "chat"
    assert turn.attributes["gen_ai.response.model"] == "large-model"
    assert turn.attributes["gen_ai.usage.input_tokens"] == 390
    assert turn.attributes["gen_ai.usage.cache_read.input_tokens"] == 40
    assert turn.attributes["gen_ai.usage.output_tokens"] == 70
    assert turn.attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_a_request_says_how_it_was_decided():
    spans = traced(finished(Story().screened(0.1).speculated(8.0).accepted()))
    own, gate = named(spans, "chat speceyes").attributes, named(spans, "gate").attributes
    assert (own["speceyes.route"], own["speceyes.reason"]) == ("speculative", "accepted")
    assert (own["speceyes.score"], own["speceyes.threshold"]) == (8.0, 5.0)
    assert (gate["speceyes.score"], gate["speceyes.note"]) == (8.0, "accepted")
    assert own["gen_ai.request.model"] == "speceyes"


def test_what_failed_is_marked():
    failed = [one for one in draw_many(900) if one.ended.error_kind == "ToolError"][:1]
    spans = traced(*failed)
    own, agent = named(spans, "chat " + failed[0].ended.route_name), spans[-1]
    assert own.status.status_code is StatusCode.ERROR
    assert own.attributes["error.type"] == "ToolError"
    wrong = [span.name for span in spans if span.status.status_code is StatusCode.ERROR]
    assert wrong == [own.name, "invoke_agent speceyes"]
    assert agent.status.status_code is not StatusCode.OK


def test_a_request_that_was_refused_is_one_span_without_an_error():
    refused = unanswered(None, route="refused", reason="malformed", status=400, elapsed_s=0.001)
    (span,) = traced(refused)
    assert span.attributes["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET


def test_a_callers_trace_is_taken_up():
    spans = traced(finished(FELL_BACK), traceparent=CALLER, share=0.0)
    own = named(spans, "chat speceyes")
    assert f"{own.context.trace_id:032x}" == CALLER[3:35]
    assert f"{own.parent.span_id:016x}" == CALLER[36:52]
    assert own.parent.is_remote
    told = onward("r", {"traceparent": CALLER}, share=0.0)["traceparent"]
    assert told == f"00-{CALLER[3:35]}-{own.context.span_id:016x}-01"


def test_a_caller_that_is_not_recorded_is_not_recorded_here():
    assert traced(finished(FELL_BACK), traceparent=CALLER[:-2] + "00") == []


def test_a_share_of_requests_is_recorded():
    requests = draw_many(400)
    recorded = {s.attributes.get("speceyes.request_id") for s in traced(*requests, share=0.25)}
    count = len(recorded - {None})
    assert 60 < count < 140
    told = [context_of(one.ended.request_id, None, share=0.25) for one in requests]
    assert sum(context.is_sampled for context in told) == count
    assert traced(*requests[:20], share=0.0) == []


ids = st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans()


@given(st.text(max_size=40), st.none() | st.tuples(*ids), st.floats(0.0, 1.0))
def test_what_is_passed_on_is_read_back(request_id, parent, share):
    header = None
    if parent is not None:
        trace_id, parent_id, is_sampled = parent
        header = f"00-{trace_id:032x}-{parent_id:016x}-{is_sampled:02x}"
    context = context_of(request_id, header, share=share)
    assert read_traceparent(context.traceparent) == (
        context.trace_id,
        context.span_id,
        context.is_sampled,
    )
    if parent is not None:
        assert (context.trace_id, context.parent_id, context.is_sampled) == parent
    assert context.span_id != context.child_id(0) != context.child_id(1)
    carried = TraceContextTextMapPropagator().extract({"traceparent": context.traceparent})
    assert carried  # OpenTelemetry reads it too


@given(st.text(max_size=80) | st.from_regex(r"\A[0-9a-f-]{40,70}\Z"))
def test_a_broken_header_is_no_place(header):
    read = read_traceparent(header)
    assert read is None or (read[0] > 0 and read[1] > 0)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        CALLER.upper(),
        CALLER + "-more",
        "ff" + CALLER[2:],
        "00-" + "0" * 32 + CALLER[35:],
        CALLER[:36] + "0" * 16 + "-01",
        CALLER[:-1],
        f" {CALLER}",
    ],
)
def test_unsound_headers_are_not_believed(header):
    assert read_traceparent(header) is None
    assert onward("r", {} if header is None else {"traceparent": header}, share=None) == {}
    assert context_of("r", header, share=1.0).parent_id is None


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert read_traceparent("01" + CALLER[2:] + "-more") == read_traceparent(CALLER)


def test_without_traces_of_our_own_the_callers_place_goes_on_as_it_came():
    came = {"traceparent": CALLER, "tracestate": "a=1", "cookie": "no"}
    assert onward("r", came, share=None) == {"traceparent": CALLER, "tracestate": "a=1"}
    told = onward("r", came, share=1.0)
    assert told["tracestate"] == "a=1"
    assert told["traceparent"][:36] == CALLER[:36]
    assert told["traceparent"] != CALLER
    assert set(onward("r", {"tracestate": "a=1"}, share=1.0)) == {"traceparent"}


async def tell_engines_their_place():
    async with serving(lambda body: say(body, ["a", " disc"])) as server:
        engine = HttpEngine(server.url, model="stub")
        request = GenerateRequest((Message("user", (Text("What?"),)),), 8)

        async def ask(headers):
            ONWARD.set(headers)
            await engine.generate(request)

        async with anyio.create_task_group() as tasks:
            for index in range(3):
                tasks.start_soon(ask, {"traceparent": CALLER[:-1] + str(index)})
        await engine.generate(request)
        await engine.aclose()
        return [headers.get("traceparent") for headers in server.headers]


def test_engines_are_told_the_place_by_the_task_that_asks_them():
    told = anyio.run(tell_engines_their_place)
    assert sorted(filter(None, told)) == [CALLER[:-1] + str(index) for index in range(3)]
    assert told[-1] is None


def test_without_the_extra_it_says_which_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "speceyes.gateway.otel", raising=False)
    with pytest.raises(ConfigError, match="extra `otel`") as caught:
        Watcher(GatewaySettings(tracing=TOLD), MODELS)
    assert caught.value.field == "gateway.tracing.endpoint"


class Unwilling(SpanExporter):
    """A collector that is down."""

    def __init__(self):
        self.asked = threading.Event()

    def export(self, spans):
        self.asked.set()
        return SpanExportResult.FAILURE

    def shutdown(self):
        pass


def test_a_collector_that_is_down_is_counted_and_holds_nothing_up(caplog):
    tracing = Tracing(TOLD, Unwilling())
    watcher = Watcher(GatewaySettings(tracing=TOLD), MODELS, tracing=tracing)

    async def tell_all():
        async with watcher.open():
            for one in draw_many(30):
                hear(watcher, one)
        return await watcher.whole()

    whole = anyio.run(tell_all)
    assert whole.stats.counts["speceyes_dropped", "traces"] == 30
    assert [r.message for r in caplog.records if "took no spans" in r.message]
