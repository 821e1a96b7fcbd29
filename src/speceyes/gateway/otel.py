"""The only place that knows OpenTelemetry: our spans become the SDK's, with ids chosen before.

It refuses to know requests. The ids were told to other servers while the request was under way, so
the SDK must not choose its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from speceyes.gateway.settings import TracingSettings
from speceyes.gateway.spans import Span
from speceyes.gateway.trace_context import TraceContext

Bundle: TypeAlias = tuple[TraceContext, tuple[Span, ...]]

_TRACES_PATH: Final = "/v1/traces"
_BATCH: Final = 512  # spans in one call
_KINDS: Final = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}


class _Chosen(IdGenerator):
    """Give out the ids that were put here; used by one thread."""

    trace_id = 1
    span_id = 1

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Gather(SpanProcessor):
    """Keep the spans that ended, until they are taken."""

    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)

    def take(self) -> list[ReadableSpan]:
        ended, self._ended = self._ended, []
        return ended


class Sender:
    """Send spans by an exporter; None: by OTLP over HTTP, to the settings' endpoint.

    One thread sends. The SDK's own batches are not used: what they drop, nobody counts.
    """

    def __init__(
        self, settings: TracingSettings, exporter: SpanExporter | None, *, version: str
    ) -> None:
        self._ids = _Chosen()
        self._gather = _Gather()
        self._exporter = _otlp(settings) if exporter is None else exporter
        told = {SERVICE_NAME: settings.service_name, SERVICE_VERSION: version}
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # who is recorded was settled when the request came
            resource=Resource.create(told),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(self._gather)
        self._tracer = self._provider.get_tracer("speceyes.gateway", version)

    def send(self, bundles: Sequence[Bundle]) -> None:
        """Send the spans of some requests. Raises: ConnectionError if they were not taken."""
        for context, spans in bundles:
            self._ids.trace_id = context.trace_id
            for span in spans:
                self._make(context, span)
        ended = self._gather.take()
        for first in range(0, len(ended), _BATCH):
            result = self._exporter.export(ended[first : first + _BATCH])
            if result is not SpanExportResult.SUCCESS:
                raise ConnectionError("the collector at gateway.tracing.endpoint took no spans")

    def close(self) -> None:
        """End the exporter."""
        self._provider.shutdown()
        self._exporter.shutdown()

    def _make(self, context: TraceContext, span: Span) -> None:
        self._ids.span_id = span.span_id
        is_remote = span.parent_id == context.parent_id
        made = self._tracer.start_span(
            span.name,
            _within(context.trace_id, span.parent_id, is_remote=is_remote),
            _KINDS[span.kind],
            span.attributes,
            start_time=span.began_ns,
        )
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(span.ended_ns)


def traces_url(endpoint: str) -> str:
    """Give the address that traces are posted to: a collector's base address gets its usual path.

    >>> traces_url("http://127.0.0.1:4318"), traces_url("https://otlp.example/v1/traces")
    ('http://127.0.0.1:4318/v1/traces', 'https://otlp.example/v1/traces')
    """
    return endpoint if endpoint.endswith(_TRACES_PATH) else endpoint.rstrip("/") + _TRACES_PATH


def _within(trace_id: int, parent_id: int | None, *, is_remote: bool) -> Context:
    if parent_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED)
    parent = NonRecordingSpan(SpanContext(trace_id, parent_id, is_remote, flags))
    return set_span_in_context(parent, Context())


def _otlp(settings: TracingSettings) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # It would tell of every attempt; that spans are lost is told once, and counted.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
    return OTLPSpanExporter(endpoint=traces_url(settings.endpoint or ""))
