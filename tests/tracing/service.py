"""A service that traces, and its collector."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import grpc

from coprocess.gateways.tyk.wire import DISPATCH, Event, Object
from tests.collector import Collector, Span
from tests.objects import make_object, make_request
from tests.serve_process import Line, ServeProcess
from tests.server import PATIENCE_S, Client

PASSWORD = "store-password-Zw81"
COLLECTORS_KEY = "collector-secret-h8"
SECRETS = (
    PASSWORD,
    "header-secret-a1",
    "cookie-secret-b2",
    "key-secret-c3",
    "value-secret-d4",
    "raised-secret-e5",
    "own-secret-f6",
    "body-secret-g7",
    COLLECTORS_KEY,
)

HANDLERS = """
import asyncio, logging, pathlib, time
from opentelemetry import trace
from coprocess import Event, Pre, Reject, store
from tyk.gateway import TykGateway

tracer = trace.get_tracer("handlers.own")
store.exists("key-secret-c3")

@Pre
def plain(request):
    store.set("key-secret-c3", "value-secret-d4")
    store.get("key-secret-c3")
    with tracer.start_as_current_span("own work") as span:
        span.set_attribute("http.request.header.authorization", ["Bearer own-secret-f6"])
        span.set_attribute("url.full", "http://user:own-secret-f6@somewhere/")
        span.set_attribute("kept", "as it is")
        span.record_exception(ValueError("password=own-secret-f6"))
    logging.getLogger("mine").warning("in the handler")
    print("printed")
    print("without an end", end="")

@Pre
async def asynchronous(request):
    await asyncio.sleep(0)
    await store.aio.increment("key-secret-c3-n")
    logging.getLogger("mine").warning("in the coroutine")

@Pre
def failing(request):
    raise ValueError("raised-secret-e5")

@Pre(on_error="open")
def covered(request):
    raise LookupError("raised-secret-e5")

@Pre
def rejecting(request):
    raise Reject(403, "no")

@Pre
def no_store(request):
    try:
        store.increment("key-secret-c3")
    except Exception:
        pass

@Pre(timeout=0.1)
def slow(request):
    wait(request)

@Pre(timeout=0.1)
async def slow_async(request):
    await asyncio.sleep(60)

@Pre(concurrency=1)
def busy(request):
    wait(request)

def wait(request):
    go = pathlib.Path(request.headers["X-Go"])
    go.with_suffix(".runs").touch()
    while not go.exists():
        time.sleep(0.002)

@Pre
def triggering(request):
    TykGateway.trigger_event("local", "{}")
    TykGateway.trigger_event("local_async", "{}")

@Event
def local(event):
    logging.getLogger("mine").warning("in the event")

@Event
async def local_async(event):
    pass

@Event
def my_handler(event):
    pass
"""

FORMS = {
    "http2": ["--engine=http2"],
    "sampled": ["--engine=http2", "--traces-sample=1"],
    "grpcio": ["--engine=grpcio"],
    "workers": ["--workers=2"],
}


@dataclass
class Traced:
    """A service that traces, its collector, and a client."""

    collector: Collector
    service: ServeProcess
    client: Client
    folder: Path

    def call(
        self,
        hook: str,
        traceparent: str | None = None,
        tracestate: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> grpc.RpcError | None:
        """Call a hook; how that failed. All that must not be seen is sent with it."""
        all_headers = {
            "Authorization": "Bearer header-secret-a1",
            "Cookie": "session=cookie-secret-b2",
            **(headers or {}),
        }
        message = make_object(
            hook_name=hook, request=make_request(headers=all_headers, body=b"body-secret-g7")
        )
        return self.send(DISPATCH, message, traceparent, tracestate)

    def send(
        self, method: str, message: Object | Event, traceparent: str | None, tracestate: str | None = None
    ) -> grpc.RpcError | None:
        metadata = [
            (name, value)
            for name, value in (
                ("authorization", "Bearer header-secret-a1"),
                ("traceparent", traceparent),
                ("tracestate", tracestate),
            )
            if value is not None
        ]
        raw = self.client.raw if method == DISPATCH else self.client.raw_event
        try:
            raw(message.SerializeToString(), timeout=PATIENCE_S, metadata=tuple(metadata))
        except grpc.RpcError as error:
            return error
        return None

    def server_span(self, trace_id: str) -> Span:
        return self.collector.wait_for(lambda span: span.trace_id == trace_id and span.kind == "SERVER")

    def trace(self, trace_id: str) -> list[Span]:
        """All spans of a trace, once its server span is there."""
        self.server_span(trace_id)
        return [span for span in self.collector.spans if span.trace_id == trace_id]

    def logged(self, event: str, trace_id: str) -> Line:
        return self.service.wait_for(event, lambda line: line.get("trace_id") == trace_id)


def new_trace() -> tuple[str, str, str]:
    """A traceparent, and the trace and the span that it names."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-01", trace_id, span_id


def only(spans: list[Span], name: str) -> Span:
    (span,) = [span for span in spans if span.name == name]
    return span
