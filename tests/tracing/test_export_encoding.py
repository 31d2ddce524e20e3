"""Spans in OTLP's bytes, beside those of the SDK's encoder."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from coprocess.process.trace_export_encoding import encode
from coprocess.process.trace_export_spans import CallSpan, CallTracer

KEPT = InMemorySpanExporter()
PROVIDER = TracerProvider(resource=Resource({"service.name": "trial"}))
TRACER = CallTracer(
    PROVIDER.get_tracer("sdk"),
    SimpleSpanProcessor(KEPT),
    PROVIDER.resource,
    InstrumentationScope("coprocess", "1.0", "https://example.test/schema"),
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
VALUES = st.one_of(
    TEXT,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXT, max_size=2),
)
PARENTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(1)),
    st.sampled_from([None, TraceState([("vendor", "1")])]),
)


#: Name, parent, kind, attributes, start, end, status, and whether it has an event.
SPANS = st.tuples(
    TEXT,
    st.none() | PARENTS,
    st.sampled_from(SpanKind),
    st.dictionaries(TEXT, VALUES, max_size=4),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.sampled_from([None, StatusCode.OK, StatusCode.ERROR]),
    st.booleans(),
)


def call_span(drawn: tuple[Any, ...]) -> CallSpan:
    name, parent, kind, attributes, start_ns, end_ns, status, has_event = drawn
    span = CallSpan(TRACER, name, parent, kind, attributes, start_ns)
    if status is not None:
        span.set_status(status, "why" if status is StatusCode.ERROR else None)
    if has_event:
        span.add_event("event", {"key": "value"}, 1)
    span.end(end_ns)
    return span


def read(data: bytes) -> dict[tuple[str, str], list[Any]]:
    """The spans, by what their resource and scope say; in the order of their identifiers."""
    found: dict[tuple[str, str], list[Any]] = {}
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for of_scope in of_resource.scope_spans:
            where = (
                f"{of_resource.resource} {of_resource.schema_url}",
                f"{of_scope.scope} {of_scope.schema_url}",
            )
            found.setdefault(where, []).extend(of_scope.spans)
    return {where: sorted(spans, key=lambda span: span.span_id) for where, spans in found.items()}


@given(st.lists(SPANS, max_size=5))
def test_they_say_what_those_of_the_sdk_say(drawn: list[tuple[Any, ...]]) -> None:
    ended = cast("list[ReadableSpan]", [call_span(each) for each in drawn])
    assert read(encode(ended)) == read(encode_spans(ended).SerializeToString())


def test_spans_of_others_go_with_them() -> None:
    other = PROVIDER.get_tracer("a library").start_span("other")
    other.end()
    own = CallSpan(TRACER, "own", None, SpanKind.SERVER, {"a": "1", "b": 1, "c": True}, 1)
    own.end(2)
    spans = [cast("ReadableSpan", own), cast("Span", other)]
    assert read(encode(spans)) == read(encode_spans(spans).SerializeToString())
    assert len(read(encode(spans))) == 2
