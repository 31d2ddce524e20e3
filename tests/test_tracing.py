"""Traces as a collector gets them: of a service as users run it, on both engines and with workers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from coprocess.errors import ConfigError
from coprocess.server.pipe import pack_metadata, unpack_metadata
from coprocess.server.trace_context import trace_context_of
from coprocess.server.trace_export import TraceExport
from coprocess.tyk.wire import DISPATCH, Event, Object
from tests.collector import Collector, Span
from tests.objects import event_json, make_object, make_request
from tests.serve_process import Line, ServeProcess, write
from tests.server import PATIENCE_S, Client
from tests.valkey import ValkeyProcess, free_port

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
    time.sleep(0.4)

@Pre(timeout=0.1)
async def slow_async(request):
    await asyncio.sleep(60)

@Pre(concurrency=1)
def busy(request):
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
    "native": ["--engine=native"],
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


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ValkeyProcess(tmp_path_factory.mktemp("store"), tcp=True, requirepass=PASSWORD) as server:
        yield server.url.replace("redis://", f"redis://:{PASSWORD}@")


@pytest.fixture(scope="module", params=FORMS)
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store_url: str
) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    handlers = write(folder / "handlers", hooks=HANDLERS)
    with pytest.MonkeyPatch.context() as environment, Collector() as collector:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={COLLECTORS_KEY}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "somewhere=http://user:own-secret-f6@there/")
        flags = ["--traces=otlp", f"--redis={store_url}", "--queue-size=1", *FORMS[request.param]]
        with ServeProcess(handlers, *flags) as service, service.client() as client:
            yield Traced(collector, service, client, folder)
            assert service.end() == 0
        assert collector.bodies
        for secret in SECRETS:
            assert not any(secret.encode() in body for body in collector.bodies), secret
        # What a handler raises is in the log: that is tested elsewhere.
        assert PASSWORD not in service.text
        assert COLLECTORS_KEY not in service.text


def new_trace() -> tuple[str, str, str]:
    """A traceparent, and the trace and the span that it names."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace_id}-{span_id}-01", trace_id, span_id


def only(spans: list[Span], name: str) -> Span:
    (span,) = [span for span in spans if span.name == name]
    return span


def test_the_gateways_trace_is_continued(traced: Traced) -> None:
    traceparent, trace_id, gateway_span = new_trace()
    assert traced.call("plain", traceparent, "vendor=opaque") is None

    spans = traced.trace(trace_id)
    call = only(spans, "coprocess.Dispatcher/Dispatch")
    handler = only(spans, "Pre plain")
    assert (call.kind, call.parent_id, call.trace_state) == ("SERVER", gateway_span, "vendor=opaque")
    assert (handler.kind, handler.parent_id) == ("INTERNAL", call.span_id)
    assert call.attributes.pop("coprocess.queue.wait_s") >= 0
    assert call.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "coprocess.Dispatcher",
        "rpc.method": "Dispatch",
        "rpc.grpc.status_code": 0,
        "coprocess.hook.type": "Pre",
        "coprocess.hook.name": "plain",
        "coprocess.api_id": "api",
    }
    assert not call.is_error
    assert not handler.is_error
    assert call.start_ns <= handler.start_ns <= handler.end_ns <= call.end_ns
    assert call.resource["service.name"] == "coprocess"
    assert call.resource["somewhere"] == "http://[redacted]@there/"
    assert len(spans) == 5


def test_store_operations_are_in_the_handlers_span(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    traced.call("plain", traceparent)

    spans = traced.trace(trace_id)
    for command in ("SET", "GET"):
        operation = only(spans, command)
        assert (operation.kind, operation.parent_id) == ("CLIENT", only(spans, "Pre plain").span_id)
        assert operation.attributes == {"db.system.name": "redis", "db.operation.name": command}
        assert operation.start_ns <= operation.end_ns


def test_what_handlers_trace_themselves_is_in_the_handlers_span_and_redacted(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    traced.call("plain", traceparent)

    spans = traced.trace(trace_id)
    own = only(spans, "own work")
    assert own.parent_id == only(spans, "Pre plain").span_id
    assert own.scope == "handlers.own"
    assert own.attributes == {
        "http.request.header.authorization": "[redacted]",
        "url.full": "http://[redacted]@somewhere/",
        "kept": "as it is",
    }
    ((event, attributes),) = own.events
    assert (event, attributes["exception.message"]) == ("exception", "password=[redacted]")


def test_an_async_handler(traced: Traced) -> None:
    traceparent, trace_id, gateway_span = new_trace()
    assert traced.call("asynchronous", traceparent) is None

    spans = traced.trace(trace_id)
    call, handler = only(spans, "coprocess.Dispatcher/Dispatch"), only(spans, "Pre asynchronous")
    assert call.parent_id == gateway_span
    assert handler.parent_id == call.span_id
    assert only(spans, "INCRBY").parent_id == handler.span_id
    assert traced.logged("in the coroutine", trace_id)["span_id"] == handler.span_id


def test_log_lines_of_a_call_name_its_trace(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    traced.call("plain", traceparent)

    handler = only(traced.trace(trace_id), "Pre plain")
    for line in ("in the handler", "printed", "without an end"):
        assert traced.logged(line, trace_id)["span_id"] == handler.span_id


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "nonsense",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"ff-{'a' * 32}-{'1' * 16}-01",
        f"00-{'a' * 32}-{'1' * 16}-01" + "-x" * 300,
    ],
)
def test_without_a_trace_to_continue_a_new_one_begins(traced: Traced, traceparent: str | None) -> None:
    api_id = secrets.token_hex(8)
    message = make_object(hook_name="rejecting", api_id=api_id)
    assert traced.send(DISPATCH, message, traceparent) is None

    call = traced.collector.wait_for(lambda span: span.attributes.get("coprocess.api_id") == api_id)
    assert call.parent_id == ""
    assert call.trace_id != "a" * 32
    assert not call.is_error


def test_a_gateway_that_does_not_trace_passes_on_its_clients_trace(traced: Traced) -> None:
    traceparent, trace_id, client_span = new_trace()
    traced.call("rejecting", headers={"Traceparent": traceparent, "Tracestate": "vendor=opaque"})
    call = traced.server_span(trace_id)
    assert (call.parent_id, call.trace_state) == (client_span, "vendor=opaque")

    of_gateway, gateway_trace, _ = new_trace()
    traced.call("rejecting", of_gateway, headers={"Traceparent": traceparent})
    assert traced.server_span(gateway_trace)


def test_what_the_gateway_does_not_sample_is_not_sent(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    traced.call("plain", traceparent.removesuffix("01") + "00")
    # Its log lines have the ids nevertheless, as the gateway's have.
    assert traced.logged("in the handler", trace_id)
    after, after_id, _ = new_trace()
    traced.call("rejecting", after)

    assert traced.trace(after_id)
    assert not [span for span in traced.collector.spans if span.trace_id == trace_id]


def test_a_failure_is_told_by_its_type(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    assert traced.call("failing", traceparent) is not None

    spans = traced.trace(trace_id)
    call, handler = only(spans, "coprocess.Dispatcher/Dispatch"), only(spans, "Pre failing")
    assert call.is_error
    assert call.description == 'Pre hook "failing" raised ValueError'
    assert call.attributes["rpc.grpc.status_code"] == 13
    assert call.attributes["error.type"] == "HandlerFailed"
    assert (handler.is_error, handler.description) == (True, "ValueError")
    assert handler.events == [("exception", {"exception.type": "ValueError"})]


def test_a_failure_that_is_answered_as_none_is_an_error_still(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    assert traced.call("covered", traceparent) is None

    call = traced.server_span(trace_id)
    assert (call.is_error, call.attributes["rpc.grpc.status_code"]) == (True, 0)
    assert call.description == 'Pre hook "covered" raised LookupError'


@pytest.mark.parametrize("hook", ["slow", "slow_async"])
def test_a_call_that_takes_too_long(traced: Traced, hook: str) -> None:
    traceparent, trace_id, _ = new_trace()
    assert traced.call(hook, traceparent) is not None
    assert traced.logged(f'Pre hook "{hook}" took longer than 0.1 s', trace_id)

    spans = traced.trace(trace_id)
    call, handler = only(spans, "coprocess.Dispatcher/Dispatch"), only(spans, f"Pre {hook}")
    assert call.is_error
    assert call.attributes["rpc.grpc.status_code"] == 4
    assert call.attributes["error.type"] == "TimedOut"
    assert handler.is_error
    assert len(spans) == 2


def test_a_store_operation_that_fails(traced: Traced) -> None:
    traced.call("plain")  # A value that is no number.
    traceparent, trace_id, _ = new_trace()
    traced.call("no_store", traceparent)

    spans = traced.trace(trace_id)
    operation = only(spans, "INCRBY")
    assert (operation.is_error, operation.attributes["error.type"]) == (True, "StoreError")
    assert not only(spans, "Pre no_store").is_error


def test_calls_that_no_handler_sees(traced: Traced) -> None:
    traceparent, trace_id, gateway_span = new_trace()
    assert traced.call("nobody", traceparent) is not None
    (call,) = traced.trace(trace_id)
    assert (call.parent_id, call.is_error) == (gateway_span, True)
    assert call.attributes["rpc.grpc.status_code"] == 5
    assert traced.logged("refused", trace_id)["span_id"] == call.span_id


def test_waiting_and_shed_calls(traced: Traced, request: pytest.FixtureRequest) -> None:
    if "workers" in request.node.name:
        pytest.skip("two processes have a queue each")
    go = traced.folder / "go"
    message = make_object(hook_name="busy", request=make_request(headers={"X-Go": str(go)}))
    ids, futures = [], []
    for _ in range(3):
        traceparent, trace_id, _ = new_trace()
        futures.append(traced.client.future(message, metadata=[("traceparent", traceparent)]))
        ids.append(trace_id)
    # One runs, one waits, and one is refused, in no certain order.
    refused = traced.collector.wait_for(lambda span: span.trace_id in ids)
    assert (refused.is_error, refused.attributes["rpc.grpc.status_code"]) == (True, 8)
    assert refused.attributes["coprocess.hook.name"] == "busy"
    go.touch()
    for future in futures:
        future.exception(PATIENCE_S)
    ran = [traced.server_span(trace_id) for trace_id in ids if trace_id != refused.trace_id]
    first, second = sorted(ran, key=lambda span: only(traced.trace(span.trace_id), "Pre busy").start_ns)
    assert not first.is_error
    assert not second.is_error
    # It waited already when the third was refused, and until the first had ended. Half, as clocks differ.
    least_ns = (only(traced.trace(first.trace_id), "Pre busy").end_ns - refused.end_ns) / 2
    assert second.attributes["coprocess.queue.wait_s"] * 1e9 > least_ns


def test_an_event_of_the_gateway(traced: Traced) -> None:
    traceparent, trace_id, gateway_span = new_trace()
    assert traced.send("event", Event(payload=event_json()), traceparent) is None

    spans = traced.trace(trace_id)
    call = only(spans, "coprocess.Dispatcher/DispatchEvent")
    assert (call.kind, call.parent_id) == ("SERVER", gateway_span)
    assert call.attributes["coprocess.hook.type"] == "Event"
    assert only(spans, "Event my_handler").parent_id == call.span_id


def test_an_event_that_a_handler_triggers_is_in_its_span(traced: Traced) -> None:
    traceparent, trace_id, _ = new_trace()
    assert traced.call("triggering", traceparent) is None

    handler = traced.collector.wait_for(
        lambda span: span.name == "Pre triggering" and span.trace_id == trace_id
    )
    for name in ("local", "local_async"):
        event = traced.collector.wait_for(
            lambda span, name=name: (
                span.trace_id == trace_id  # type: ignore[misc]  # the loop's own name
                and span.name == "local event"
                and span.attributes["coprocess.hook.name"] == name
            )
        )
        assert (event.kind, event.parent_id) == ("INTERNAL", handler.span_id)
        of_handler = traced.collector.wait_for(
            lambda span, name=name: span.trace_id == trace_id and span.name == f"Event {name}"  # type: ignore[misc]  # as above
        )
        assert of_handler.parent_id == event.span_id
    assert traced.logged("in the event", trace_id)


def test_each_span_is_sent_once(traced: Traced) -> None:
    # The last of the module: what came of all before.
    spans = traced.collector.spans
    assert len({span.span_id for span in spans}) == len(spans)
    assert "ended span" not in traced.service.text
    # Of no call: what the module does when it is loaded.
    assert "EXISTS" not in {span.name for span in spans}


# Start and stop.

SHORT = """
import sys
from coprocess import Pre

@Pre
def short(request):
    request.headers["X-Imported"] = str("opentelemetry.sdk.trace" in sys.modules)
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", hooks=SHORT)


def test_spans_that_wait_are_sent_when_the_service_stops(
    handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of-the-variable")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with ServeProcess(handlers, "--traces=otlp") as service, service.client() as client:
            client.dispatch(make_object(hook_name="short"))
            assert collector.bodies == []
            assert service.end() == 0
        assert {span.name for span in collector.spans} == {"coprocess.Dispatcher/Dispatch", "Pre short"}
        resource = collector.spans[0].resource
        assert resource["service.name"] == "of-the-variable"
        assert resource["deployment.environment.name"] == "test"


def test_without_a_collector_calls_succeed_and_the_log_stays_short(
    handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    with ServeProcess(handlers, "--traces=otlp") as service, service.client() as client:
        for number in range(200):
            # A context that the library has something to say of, too.
            metadata = [("traceparent", new_trace()[0]), ("tracestate", f"not so {number}")]
            client.future(make_object(hook_name="short"), metadata=metadata).result(PATIENCE_S)
        assert service.end() == 0
        about_it = [line for line in service.lines if str(line.get("logger")).startswith("opentelemetry")]
        places = [(line["logger"], str(line["event"])[:20]) for line in about_it]
        assert places
        assert len(set(places)) == len(places)


def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_stop(
    handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with Collector(answers=False) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        with ServeProcess(handlers, "--traces=otlp") as service, service.client() as client:
            client.dispatch(make_object(hook_name="short"))
            collector.wait_for(lambda span: True)
            client.dispatch(make_object(hook_name="short"))
            assert service.end() == 0


def test_the_library_is_imported_when_it_is_needed(handlers: Path) -> None:
    with ServeProcess(handlers) as service, service.client() as client:
        reply = client.dispatch(make_object(hook_name="short"))
        assert reply.request.set_headers["X-Imported"] == "False"


@pytest.mark.parametrize("workers", ["--workers=1", "--workers=2"])
def test_without_the_extra_the_start_fails_and_says_so(handlers: Path, workers: str) -> None:
    # Found before the installed one, and empty.
    write(handlers.parent / "opentelemetry", __init__="")
    with ServeProcess(handlers, "--traces=otlp", workers, wait=False) as service:
        assert service.wait() == 1
    assert "traces otlp: opentelemetry.sdk.trace is not installed" in service.text
    assert "pip install coprocess[otel]" in service.text


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "traces are sent by http/protobuf only, not by 'grpc'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:pass-word@collector:4318", "expected http://HOST:PORT"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size must be a positive integer"),
    ],
)
def test_variables_that_cannot_be_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=expected) as raised:
        TraceExport()
    assert "pass-word" not in str(raised.value)


# What is passed on.


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
