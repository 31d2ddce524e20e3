"""An OTLP collector for tests: an HTTP server that keeps the spans it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.server import PATIENCE_S


class Span:
    """What was sent of one span."""

    def __init__(self, span: trace_pb2.Span, resource: dict[str, Any], scope: str) -> None:
        self.name = span.name
        self.trace_id = span.trace_id.hex()
        self.span_id = span.span_id.hex()
        #: Empty for a root.
        self.parent_id = span.parent_span_id.hex()
        self.trace_state = span.trace_state
        self.kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.is_error = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        self.description = span.status.message
        self.start_ns, self.end_ns = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes = _attributes(span.attributes)
        self.events = [(event.name, _attributes(event.attributes)) for event in span.events]
        self.resource = resource
        self.scope = scope

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r} {self.attributes} in {self.trace_id}>"


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


class Collector:
    """Takes spans inside `with`, at `endpoint`. `bodies` are the requests as they came."""

    def __init__(self, *, answers: bool = True) -> None:
        """`answers=False`: requests come in, and no answer ever goes out."""
        self.bodies: list[bytes] = []
        self._spans: list[Span] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(self.path, body)
                if not answers:
                    collector._closing.wait()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        with self._changed:
            self.bodies.append(body)
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self._spans += [Span(span, resource, of_scope.scope.name) for span in of_scope.spans]
            self._changed.notify_all()

    @property
    def spans(self) -> list[Span]:
        with self._changed:
            return list(self._spans)

    def wait_for(self, accept: Callable[[Span], bool]) -> Span:
        """The first span that `accept` takes, which may have come before."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(accept, self._spans)), PATIENCE_S), self._spans
            return next(filter(accept, self._spans))
