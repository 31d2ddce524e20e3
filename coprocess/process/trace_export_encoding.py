"""Spans of calls in OTLP's bytes: 4 µs each, where the SDK's encoder takes 33.

As opentelemetry-proto's trace.proto and common.proto say. What is rare (events, a trace state, lists as
values) is left to the SDK's encoder: a protobuf message may come in pieces, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from coprocess.process.trace_export_spans import CallSpan


def encode(spans: Sequence[ReadableSpan | CallSpan]) -> bytes:
    """An ExportTraceServiceRequest, serialized."""
    plain: list[bytes] = []
    others: list[ReadableSpan] = []
    first: ReadableSpan | None = None
    for span in spans:
        data = _encode(span) if isinstance(span, CallSpan) else None
        readable = cast("ReadableSpan", span)  # The SDK reads a CallSpan in the same way.
        if data is None:
            others.append(readable)
        else:
            first = first or readable
            plain.append(data)
    request = encode_spans(others).SerializePartialToString() if others else b""
    return request if first is None else request + _enclose(first, b"".join(plain))


def _encode(span: CallSpan) -> bytes | None:
    """As a field of ScopeSpans. None where the span has something rare."""
    context, parent, status = span.context, span.parent, span.status
    if span.events or context.trace_state:
        return None
    try:
        attributes = [
            _attribute(key, value) if _is_long(value) else _kept_attribute(key, value)
            for key, value in span.attributes.items()
        ]
    except (TypeError, ValueError):  # A number beyond 64 bits, a list, or what protobuf does not take.
        return None
    is_remote = parent is not None and parent.is_remote
    data = b"".join(
        (
            _TRACE_ID,
            context.trace_id.to_bytes(16, "big"),
            _SPAN_ID,
            context.span_id.to_bytes(8, "big"),
            b"" if parent is None else _PARENT_ID + parent.span_id.to_bytes(8, "big"),
            _TIMES.pack(_START, span.start_time, _END, span.end_time),
            _named(span.name, span.kind, status.status_code, status.description, is_remote),
            *attributes,
        )
    )
    return _SPANS + _varint(len(data)) + data


def _attribute(key: str, value: object) -> bytes:
    """Raises TypeError where it is none of the plain kinds."""
    match value:
        case bool():
            encoded = AnyValue(bool_value=value)
        case str():
            encoded = AnyValue(string_value=value)
        case int():
            encoded = AnyValue(int_value=value)
        case float():
            encoded = AnyValue(double_value=value)
        case _:
            raise TypeError(type(value).__name__)
    return trace_pb2.Span(attributes=[KeyValue(key=key, value=encoded)]).SerializeToString()


_kept_attribute = lru_cache(maxsize=4096, typed=True)(_attribute)


def _is_long(value: object) -> bool:
    """Strangers choose what paths say: that is not kept, however long it is."""
    return isinstance(value, str) and len(value) > _LONGEST_KEPT


_LONGEST_KEPT = 256


@lru_cache(maxsize=1024)
def _named(name: str, kind: SpanKind, code: StatusCode, description: str | None, is_remote: bool) -> bytes:
    """What many spans have in common."""
    flags = int(trace_pb2.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
    if is_remote:
        flags |= trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    return trace_pb2.Span(
        name=name,
        kind=_KINDS[kind],
        status=trace_pb2.Status(code=_CODES[code], message=description or ""),
        flags=flags,
    ).SerializeToString()


def _enclose(span: ReadableSpan, spans: bytes) -> bytes:
    """`spans` with what they all have: the resource and the scope of `span`."""
    of_resource = encode_spans([span]).resource_spans[0]
    of_scope = of_resource.scope_spans[0]
    del of_scope.spans[:]
    scoped = of_scope.SerializeToString() + spans
    del of_resource.scope_spans[:]
    data = of_resource.SerializeToString() + _SCOPE_SPANS + _varint(len(scoped)) + scoped
    return _RESOURCE_SPANS + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    if number < _ONE_BYTE:
        return bytes((number,))
    encoded = bytearray()
    while number >= _ONE_BYTE:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_ONE_BYTE = 0x80
# Tags: the field's number and kind (2: with a length, 1: eight bytes); and lengths, where always the same.
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = b"\x0a", b"\x12", b"\x12"
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_START, _END = 7 << 3 | 1, 8 << 3 | 1
_TIMES = struct.Struct("<BQBQ")
_CODES = {
    StatusCode.UNSET: trace_pb2.Status.STATUS_CODE_UNSET,
    StatusCode.OK: trace_pb2.Status.STATUS_CODE_OK,
    StatusCode.ERROR: trace_pb2.Status.STATUS_CODE_ERROR,
}
_KINDS = {
    SpanKind.INTERNAL: trace_pb2.Span.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: trace_pb2.Span.SPAN_KIND_SERVER,
    SpanKind.CLIENT: trace_pb2.Span.SPAN_KIND_CLIENT,
    SpanKind.PRODUCER: trace_pb2.Span.SPAN_KIND_PRODUCER,
    SpanKind.CONSUMER: trace_pb2.Span.SPAN_KIND_CONSUMER,
}
