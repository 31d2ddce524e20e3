"""Where spans go: in batches, by a thread of their own, to an OTLP collector. A call never waits for it.

The queue is the SDK's, and bounded (2,048 spans; what comes while it is full is lost). The endpoint, the
sampler (where `traces_sample` is not set), the service's name and the rest are the SDK's own, standard
variables (OTEL_*).

Imported where tracing is on only: it needs the extra `otel`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from coprocess import __version__
from coprocess.errors import ConfigError
from coprocess.process import redaction
from coprocess.process.trace_export_encoding import encode
from coprocess.process.trace_export_spans import CallTracer
from coprocess.process.trace_sampling import KEPT_KEY

#: The instrumentation scope of this service's own spans.
SCOPE = "coprocess"
DEFAULT_SERVICE_NAME = "coprocess"

_SAMPLER = "OTEL_TRACES_SAMPLER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_PROTOCOL = "http/protobuf"
# What is shorter is no key, but the name of a tenant or the like, and may well be in other words.
_SHORTEST_KEY = 12

_LIBRARY = "opentelemetry"
_LOG_INTERVAL_S = 60.0


class TraceExport:
    """The way to the collector, from start to stop. `tracer` makes the spans."""

    def __init__(self, sample: float | None = None) -> None:
        """`sample` is the part of the traces that begin here which is recorded; None: as the variables say.

        Raises ConfigError where a variable cannot be taken. A collector need not be there.
        """
        _check_variables()
        if sample is not None and os.environ.get(_SAMPLER):
            raise ConfigError(
                f"traces_sample and {_SAMPLER} both say what is traced. Expected: one of the two"
            )
        _keep_secrets()
        for handler in logging.getLogger().handlers:
            handler.addFilter(_SeldomFilter())
        try:
            resource = _resource()
            self._provider = TracerProvider(
                None if sample is None else ParentBased(SampledRoots(sample)),
                resource,
                # `close` ends it, and waits no longer than it may.
                shutdown_on_exit=False,
            )
            processor = BatchSpanProcessor(_RedactingExporter(_Sender()))
            self._provider.add_span_processor(processor)
        except (ValueError, OSError) as error:
            raise ConfigError(f"traces otlp: a variable OTEL_* cannot be taken: {error}") from None
        # For what handlers trace themselves, and for libraries that they use.
        trace.set_tracer_provider(self._provider)
        tracer = self._provider.get_tracer(SCOPE, __version__)
        self.tracer: trace.Tracer | CallTracer = tracer
        if sample is not None:
            scope = InstrumentationScope(SCOPE, __version__)
            self.tracer = CallTracer(tracer, processor, resource, scope)

    def close(self, timeout_s: float) -> None:
        """Send what waits, and end. What the collector has not taken by then is lost."""
        # In a thread that may be left behind: the SDK would wait for much longer.
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(timeout_s)


def _check_variables() -> None:
    for name in _PROTOCOLS:
        if (value := os.environ.get(name, _PROTOCOL)) not in ("", _PROTOCOL):
            raise ConfigError(f"{name}: traces are sent by {_PROTOCOL} only, not by {value!r}")
    for name in _ENDPOINTS:
        value = os.environ.get(name, "")
        if value and not value.startswith(("http://", "https://")):
            # Not shown: it may have a password in it.
            raise ConfigError(f"{name}: expected http://HOST:PORT or https://HOST:PORT")


def _keep_secrets() -> None:
    """Collectors are asked with keys: the library's warnings would show them."""
    for name in _ENDPOINTS:
        redaction.add_url_secrets(os.environ.get(name, ""))
    for name in _HEADERS:
        for entry in os.environ.get(name, "").split(","):
            value = entry.partition("=")[2].strip()
            if len(value) >= _SHORTEST_KEY:
                redaction.add_secret(value)
                redaction.add_secret(unquote(value))


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: DEFAULT_SERVICE_NAME}))
    # Variables may have a secret in them, and so may what a detector finds: the command line.
    return Resource(_redacted(resource.attributes), resource.schema_url)


class SampledRoots(Sampler):
    """For traces that begin here: of handlers outside of calls a part, and each call that was kept."""

    def __init__(self, part: float) -> None:
        self._others = TraceIdRatioBased(part)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: trace.SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: trace.TraceState | None = None,
    ) -> SamplingResult:
        is_kept = parent_context is not None and KEPT_KEY in parent_context
        sampler = ALWAYS_ON if is_kept else self._others
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"Kept{{{self._others.get_description()}}}"


class _Sender(OTLPSpanExporter):
    """The SDK's, with an encoder that is quicker for the spans of calls."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # Not the SDK's public interface: where it is gone, its own encoder does the same.
        send = getattr(getattr(self, "_client", None), "export", None)
        if send is None:
            return super().export(spans)
        try:
            data = encode(spans)
        except Exception:  # noqa: BLE001 - the SDK tells of it
            return super().export(spans)
        return SpanExportResult.SUCCESS if send(data).success else SpanExportResult.FAILURE


class _RedactingExporter(SpanExporter):
    """Passes the spans of others, of handlers and of libraries that they use, through the nets of the log.

    This service's own spans have nothing in them that would need it.
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([span if _is_own(span) else _redacted_span(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()


def _is_own(span: ReadableSpan) -> bool:
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == SCOPE


def _redacted_span(span: ReadableSpan) -> ReadableSpan:
    status = span.status
    if status.description:
        status = trace.Status(status.status_code, _redacted_value("", status.description))
    return ReadableSpan(
        name=_redacted_value("", span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_redacted(span.attributes),
        events=[
            Event(_redacted_value("", event.name), _redacted(event.attributes), event.timestamp)
            for event in span.events
        ],
        links=[trace.Link(link.context, _redacted(link.attributes)) for link in span.links],
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _redacted(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _redacted_value(name, value) for name, value in (attributes or {}).items()}


def _redacted_value(name: str, value: Any) -> Any:
    # http.request.header.authorization: the last part names the secret.
    last = name.rpartition(".")[2]
    if isinstance(value, str):
        # One half of a surrogate pair would cost the whole batch.
        value = value.encode("utf-8", "replace").decode()
    return redaction.redact_value(last, value)


class _SeldomFilter(logging.Filter):
    """Lets each of the library's own messages by once a minute: a dead collector must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        #: When each place in the library's code was heard last, by time.monotonic().
        self._heard: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != _LIBRARY:
            return True
        now_s, place = time.monotonic(), (record.pathname, record.lineno)
        if now_s - self._heard.get(place, -_LOG_INTERVAL_S) < _LOG_INTERVAL_S:
            return False
        self._heard[place] = now_s
        return True
