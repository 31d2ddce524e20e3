"""Start and stop of the export, and the collector that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from coprocess.errors import ConfigError
from coprocess.process.trace_export import TraceExport
from tests.collector import Collector
from tests.free_ports import free_port
from tests.objects import make_object
from tests.serve_process import ServeProcess, write
from tests.server import PATIENCE_S
from tests.tracing.service import new_trace

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
    with ServeProcess(handlers, "--traces=otlp", workers, wait=False, real_start=True) as service:
        assert service.wait() == 1
    assert "traces otlp: opentelemetry.sdk.trace is not installed" in service.text
    assert any('pip install "coprocess[otel]"' in line["event"] for line in service.lines)


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
