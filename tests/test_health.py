"""`grpc.health.v1` on both engines: Check, Watch, and what they say from start to stop."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from coprocess.gateways.tyk.wire import SERVICE
from coprocess.transport import health as health_module
from coprocess.transport.engines import EngineChoice, make_engine
from coprocess.transport.health import Health
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import ENGINES, PATIENCE_S, Client, engine_options, status_of

NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVING = HealthCheckResponse.SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


def check(client: Client, service: str = "") -> int:
    """The status. Raises grpc.RpcError."""
    call: grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse] = client.channel.unary_unary(
        health_module.CHECK,
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service), timeout=PATIENCE_S).status


def watch(client: Client, service: str = "") -> Any:
    """What a stub's Watch gives: an iterator that can be cancelled."""
    call: grpc.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse] = (
        client.channel.unary_stream(
            health_module.WATCH,
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
    )
    return call(HealthCheckRequest(service=service), timeout=PATIENCE_S, wait_for_ready=True)


def call_raw(client: Client, method: str, payload: bytes) -> None:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(method)
    call(payload, timeout=PATIENCE_S)


class Probe:
    """Health behind an engine, without a service, and a client of it."""

    def __init__(self, engine: EngineChoice) -> None:
        self.health = Health((SERVICE,))
        self.engine, _ = make_engine(
            engine,
            engine_options(max_threads=8),
        )
        address = self.engine.listen("127.0.0.1:0")
        self.engine.start(self.health.methods)
        self.client = Client(address)

    def check(self, service: str = "") -> int:
        return check(self.client, service)

    def watch(self, service: str = "") -> Any:
        return watch(self.client, service)


@pytest.fixture(params=ENGINES)
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    probe = Probe(request.param)
    yield probe
    probe.client.close()
    probe.health.close()
    probe.engine.stop()


@pytest.mark.parametrize("service", ["", "coprocess.Dispatcher"])
def test_check_follows_the_status(probe: Probe, service: str) -> None:
    assert probe.check(service) == NOT_SERVING
    probe.health.set_serving(True)
    assert probe.check(service) == SERVING
    probe.health.stopping = True
    assert probe.check(service) == NOT_SERVING


def test_an_unknown_service_is_not_found(probe: Probe) -> None:
    with pytest.raises(grpc.RpcError) as error:
        probe.check("other.Service")
    assert status_of(error.value)[0] is grpc.StatusCode.NOT_FOUND


def test_a_broken_request_is_refused(probe: Probe) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call_raw(probe.client, health_module.CHECK, b"\xff\xff")
    assert status_of(error.value)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_watch_tells_of_changes(probe: Probe) -> None:
    updates = probe.watch()
    assert next(updates).status == NOT_SERVING
    probe.health.set_serving(True)
    assert next(updates).status == SERVING
    probe.health.set_serving(True)  # No change: nothing is sent.
    probe.health.set_serving(False)
    assert next(updates).status == NOT_SERVING
    probe.health.close()
    with pytest.raises(grpc.RpcError) as error:
        next(updates)
    assert status_of(error.value)[0] is grpc.StatusCode.UNAVAILABLE


def test_watching_an_unknown_service_stays_open_and_tells_nothing_more(probe: Probe) -> None:
    updates = probe.watch("other.Service")
    assert next(updates).status == SERVICE_UNKNOWN
    probe.health.set_serving(True)
    probe.health.close()
    with pytest.raises(grpc.RpcError) as error:
        next(updates)
    assert status_of(error.value)[0] is grpc.StatusCode.UNAVAILABLE


def test_watchers_keep_no_thread_and_leave_no_trace(probe: Probe) -> None:
    """More of them than threads: checks are answered all the same."""
    watchers = [probe.watch() for _ in range(20)]
    for watcher in watchers:
        next(watcher)
    assert probe.check() == NOT_SERVING
    for watcher in watchers:
        watcher.cancel()
    # A change finds those that are gone, where the engine has not told yet.
    while probe.health.watchers:
        probe.health.set_serving(not probe.health.serving)


def test_watchers_are_bounded(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MAX_WATCHERS", 1)
    first, second = probe.watch(), None
    next(first)
    second = probe.watch()
    with pytest.raises(grpc.RpcError) as error:
        next(second)
    assert status_of(error.value)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    probe.health.set_serving(True)
    assert next(first).status == SERVING


@pytest.mark.parametrize("engine", ENGINES)
def test_reflection_names_services_and_messages_when_asked_for(tmp_path: Path, engine: EngineChoice) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("x"))
    with ServeProcess(handlers, f"--engine={engine}", "--reflection") as service, service.client() as client:
        described = ProtoReflectionDescriptorDatabase(client.channel)
        assert set(described.get_services()) >= {SERVICE, health_module.SERVICE}
        file = described.FindFileContainingSymbol(SERVICE)
        assert [method.name for method in file.service[0].method] == ["Dispatch", "DispatchEvent"]


@pytest.mark.parametrize("engine", ENGINES)
def test_unknown_methods_and_reflection_that_is_off_are_unimplemented(
    tmp_path: Path, engine: EngineChoice
) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("x"))
    with ServeProcess(handlers, f"--engine={engine}") as service, service.client() as client:
        assert check(client) == SERVING
        for method in ("/coprocess.Dispatcher/Nothing", "/other.Service/Dispatch"):
            with pytest.raises(grpc.RpcError) as error:
                call_raw(client, method, b"")
            assert status_of(error.value)[0] is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as error:
            ProtoReflectionDescriptorDatabase(client.channel).get_services()
        assert status_of(error.value)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_not_serving_while_loading(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    loading = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.01)\n"
    handlers = write(tmp_path / "handlers", a=loading + stamping("x"))
    listen = f"unix:{tmp_path}/s"
    with ServeProcess(handlers, listen=listen, wait=False) as service, Client(listen) as client:
        service.wait_for("admin")
        updates = watch(client)
        assert next(updates).status == NOT_SERVING
        assert service.http("GET", "/readyz")[0] == 503
        with ThreadPoolExecutor(1) as pool:
            # It waits, and is answered by the handler that was being loaded.
            early = pool.submit(client.dispatch, make_object(hook_name="stamp"))
            time.sleep(0.1)
            assert not early.done()
            gate.touch()
            assert dict(early.result(PATIENCE_S).request.set_headers) == {"X-Stamp": "x"}
        assert next(updates).status == SERVING
        assert service.http("GET", "/readyz")[0] == 200


def test_our_engine_does_without_grpcio() -> None:
    """It is large, and slow to load."""
    code = (
        "import sys, coprocess.process.app, coprocess.transport.http2_engine, coprocess.process.admin, "
        "coprocess.process.metrics; sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_messages_are_the_protocols_own() -> None:
    assert health_pb2.DESCRIPTOR.services_by_name["Health"].full_name == health_module.SERVICE
