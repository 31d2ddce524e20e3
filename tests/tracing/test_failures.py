"""What spans tell of calls that fail."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coprocess.errors import Status
from coprocess.process.tracing import TracedRpc
from coprocess.transport.engine import Metadata, Rpc
from tests.objects import make_object, make_request
from tests.server import PATIENCE_S
from tests.tracing.service import Traced, new_trace, only


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
    go = traced.folder / f"go-{trace_id}"
    assert traced.call(hook, traceparent, headers={"X-Go": str(go)}) is not None
    assert traced.logged(f'Pre hook "{hook}" took longer than 0.1 s', trace_id)
    go.touch()  # After that: the spans have ended, too.

    spans = traced.trace(trace_id)
    call, handler = only(spans, "coprocess.Dispatcher/Dispatch"), only(spans, f"Pre {hook}")
    assert call.is_error
    assert call.attributes["rpc.grpc.status_code"] == 4
    assert call.attributes["error.type"] == "TimedOut"
    assert handler.is_error
    assert len(spans) == 2


def test_the_span_tells_of_the_answer_that_the_client_got() -> None:
    """Once, where the handler went on before the span of a time-out was ended, it told of the reply."""

    class Inner(Rpc):
        def __init__(self) -> None:
            self.method, self.payload = "/test/Call", b""

        def fail(self, status: Status, message: str) -> None:
            # The client is told, and the handler's own end comes at this moment.
            rpc.respond(b"late")

        def respond(self, reply: bytes) -> None: ...

        def metadata(self) -> Metadata:
            return ()

        def on_cancel(self, callback: object) -> None: ...

        def time_allowed_s(self) -> float | None:
            return None

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    rpc = TracedRpc(Inner(), provider.get_tracer("test"))
    rpc.fail(Status.DEADLINE_EXCEEDED, "it took too long")
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == 4
    assert span.status.description == "it took too long"


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
