"""What of a call's metadata is passed on."""

from __future__ import annotations

from coprocess.transport.pipe import pack_metadata, unpack_metadata
from coprocess.transport.trace_context import trace_context_of


def test_the_trace_context_of_metadata() -> None:
    context = [("traceparent", "a"), ("tracestate", "b"), ("tracestate", "c")]
    metadata: list[tuple[str, str | bytes]] = [("authorization", "x"), ("traceparent", b"bytes"), *context]
    assert trace_context_of(metadata) == context
    assert trace_context_of([("tracestate", "b")]) == []
    assert trace_context_of([("traceparent", "a"), ("traceparent", "b")]) == []
    assert trace_context_of([("traceparent", "a"), ("tracestate", "b" * 513)]) == [("traceparent", "a")]
    assert trace_context_of([("traceparent", "\udcff")]) == []


def test_metadata_in_a_frame() -> None:
    metadata = [("traceparent", "a"), ("tracestate", "")]
    assert unpack_metadata(pack_metadata(metadata) + b"message\0") == (metadata, b"message\0")
