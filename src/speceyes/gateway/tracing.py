"""Spans leave here for a collector, by OpenTelemetry's SDK, from a thread of their own.

It refuses to know what the spans tell. The SDK is an extra: without it, and without a setting that
asks for traces, nothing of it is loaded.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from speceyes.errors import ConfigError
from speceyes.gateway.outbox import Outbox
from speceyes.gateway.settings import TracingSettings
from speceyes.gateway.spans import spans_of
from speceyes.gateway.stats import Told
from speceyes.gateway.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


class Tracing:
    """Send each recorded request's spans to an exporter; None: the one that the settings name.

    Raises: ConfigError naming the field, if the extra `otel` is not installed.
    """

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        try:
            from speceyes.gateway.otel import Sender

            self._sender = Sender(settings, exporter, version=_version())
        except ImportError as error:
            raise ConfigError(
                "gateway.tracing.endpoint",
                f"asks for traces, but {error.name} is not installed; "
                "install speceyes with the extra `otel`, or leave the endpoint out",
            ) from error
        self._outbox = Outbox("tracing", self._sender.send, capacity=2_000)

    @property
    def dropped(self) -> int:
        """How many requests' traces were lost so far."""
        return self._outbox.dropped

    def open(self) -> None:
        """Begin to send."""
        self._outbox.start()

    def hear(self, told: Told, context: TraceContext, *, query_at_s: float | None) -> None:
        """Take a request that ended."""
        if context.is_sampled:
            self._outbox.put((context, spans_of(told, context, query_at_s=query_at_s)))

    def close(self) -> None:
        """Send what is left and end. Waits."""
        self._outbox.close()
        self._sender.close()


def _version() -> str:
    try:
        return version("speceyes")
    except PackageNotFoundError:
        return "unknown"
