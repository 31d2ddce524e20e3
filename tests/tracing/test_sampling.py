"""`traces_sample`: what is recorded of calls is decided when they come, and their caller's word counts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased

from coprocess.errors import ConfigError
from coprocess.gateways.tyk.wire import DISPATCH
from coprocess.process.settings_loading import load_settings
from coprocess.process.trace_export import SampledRoots, TraceExport
from coprocess.process.trace_sampling import KEPT, NOWHERE, Sample
from tests.collector import Collector
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import until
from tests.tracing.service import Traced, new_trace

HANDLERS = """
import asyncio, logging, time
from opentelemetry import trace
from coprocess import Pre, Reject

tracer = trace.get_tracer("handlers.own")

@Pre
def plain(request):
    with tracer.start_as_current_span("own work"):
        logging.getLogger("mine").warning("in the handler")

@Pre
async def asynchronous(request):
    await asyncio.sleep(0)
    with tracer.start_as_current_span("own work"):
        logging.getLogger("mine").warning("in the coroutine")

@Pre
def failing(request):
    raise ValueError

@Pre(timeout=0.1)
async def slow(request):
    await asyncio.sleep(60)

@Pre
def rejecting(request):
    raise Reject(403, "no")
"""


@pytest.fixture(scope="module")
def none_sampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A service that records no calls but those whose callers ask for it."""
    folder = tmp_path_factory.mktemp("sampled")
    handlers = write(folder / "handlers", hooks=HANDLERS)
    with pytest.MonkeyPatch.context() as environment, Collector() as collector:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        with (
            ServeProcess(handlers, "--traces=otlp", "--traces-sample=0", "--engine=http2") as service,
            service.client() as client,
        ):
            yield Traced(collector, service, client, folder)
            assert service.end() == 0


@pytest.mark.parametrize("hook", ["plain", "asynchronous", "failing", "slow", "unknown"])
def test_a_call_that_is_not_recorded_leaves_nothing(none_sampled: Traced, hook: str) -> None:
    api_id = secrets.token_hex(8)
    none_sampled.send(DISPATCH, make_object(hook_name=hook, api_id=api_id), None)
    unsampled, unsampled_id, _ = new_trace()
    none_sampled.call(hook, unsampled.removesuffix("01") + "00")
    sampled, sampled_id, span_id = new_trace()
    none_sampled.call("rejecting", sampled)

    assert none_sampled.server_span(sampled_id).parent_id == span_id
    assert unsampled_id not in {span.trace_id for span in none_sampled.collector.spans}
    assert api_id not in {span.attributes.get("coprocess.api_id") for span in none_sampled.collector.spans}


def test_what_handlers_do_in_such_a_call_is_not_recorded_and_its_log_names_the_callers_trace(
    none_sampled: Traced,
) -> None:
    lines = none_sampled.service.lines
    unsampled, trace_id, _ = new_trace()
    none_sampled.call("plain", unsampled.removesuffix("01") + "00")
    assert none_sampled.logged("in the handler", trace_id)
    none_sampled.call("asynchronous", unsampled.removesuffix("01") + "00")
    assert none_sampled.logged("in the coroutine", trace_id)
    none_sampled.call("failing", unsampled.removesuffix("01") + "00")
    until(lambda: trace_id in {line.get("trace_id") for line in lines if line.get("hook") == "failing"})
    none_sampled.call("plain")
    sampled, sampled_id, _ = new_trace()
    none_sampled.call("plain", sampled)
    none_sampled.collector.wait_for(lambda span: span.trace_id == sampled_id and span.name == "own work")
    assert {span.trace_id for span in none_sampled.collector.spans if span.name == "own work"} == {sampled_id}


def test_the_clients_own_trace_counts_where_the_gateway_does_not_trace(none_sampled: Traced) -> None:
    traceparent, trace_id, client_span = new_trace()
    none_sampled.call("failing", headers={"Traceparent": traceparent, "Tracestate": "vendor=opaque"})
    call = none_sampled.server_span(trace_id)
    assert (call.parent_id, call.trace_state) == (client_span, "vendor=opaque")
    assert call.is_error
    unsampled, gateway_trace, _ = new_trace()
    again, again_id, _ = new_trace()
    none_sampled.call("failing", unsampled.removesuffix("01") + "00", headers={"Traceparent": again})
    after, after_id, _ = new_trace()
    none_sampled.call("rejecting", after)
    assert none_sampled.server_span(after_id)
    assert {gateway_trace, again_id}.isdisjoint(span.trace_id for span in none_sampled.collector.spans)


def test_a_part_of_the_calls_without_a_caller_that_traces_is_recorded() -> None:
    sample = Sample(0.25)
    count = sum(sample.has((("user-agent", "x"),)) for _ in range(4000))
    assert 800 < count < 1200
    assert all(Sample(1.0).has(()) for _ in range(100))
    assert not any(Sample(0.0).has(()) for _ in range(100))
    traceparent, _, _ = new_trace()
    assert Sample(0.0).has([("traceparent", traceparent)])
    assert not Sample(1.0).has([("traceparent", traceparent.removesuffix("01") + "00")])
    assert Sample(1.0).has([("traceparent", "nonsense")])
    assert not Sample(0.0).has([("traceparent", traceparent), ("traceparent", traceparent)])


def test_a_call_that_was_kept_is_not_drawn_for_again() -> None:
    tracer = TracerProvider(ParentBased(SampledRoots(0.0))).get_tracer("test")
    assert tracer.start_span("call", KEPT).is_recording()
    assert not tracer.start_span("other", NOWHERE).is_recording()
    assert not tracer.start_span("without a context").is_recording()


def test_settings_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="traces_sample goes with traces"):
        load_settings({"traces_sample": "0.1"})
    with pytest.raises(ConfigError, match="less than or equal to 1"):
        load_settings({"traces_sample": "10", "traces": "otlp"})
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    with pytest.raises(ConfigError, match="traces_sample and OTEL_TRACES_SAMPLER"):
        TraceExport(0.1)
