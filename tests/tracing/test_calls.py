"""Spans as a collector gets them, on both engines and with workers."""

from __future__ import annotations

import secrets

import pytest

from coprocess.gateways.tyk.wire import DISPATCH, Event
from tests.objects import event_json, make_object
from tests.tracing.service import Traced, new_trace, only


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
