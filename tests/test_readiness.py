"""Ready means that there are hooks; what could not be loaded, and a store that is gone, are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.parser import text_string_to_metric_families

from coprocess.process import store_watch
from coprocess.process.store_watch import StoreWatch
from coprocess.store import Store
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, until
from tests.valkey import ValkeyProcess


def health_of(service: ServeProcess) -> int:
    with service.client() as client:
        stub: Any = HealthStub(client.channel)
        status: int = stub.Check(HealthCheckRequest(), timeout=PATIENCE_S).status
        return status


def test_handlers_that_did_not_load_at_all_are_not_ready(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a="broken it is")
    with ServeProcess(handlers) as service:
        status, page = service.http("GET", "/readyz")
        assert status == 503
        assert "SyntaxError" in page
        assert health_of(service) == HealthCheckResponse.NOT_SERVING
        write(handlers, a=stamping("one"))
        assert service.http("POST", "/reload")[0] == 200
        assert service.http("GET", "/readyz")[0] == 200
        assert service.page("/readyz")["problems"] == []
        assert health_of(service) == HealthCheckResponse.SERVING


def test_workers_without_hooks_are_not_ready(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a="broken it is")
    with ServeProcess(handlers, "--workers=2") as service:
        status, page = service.http("GET", "/readyz")
        assert status == 503
        assert "SyntaxError" in page
        assert health_of(service) == HealthCheckResponse.NOT_SERVING
        write(handlers, a=stamping("one"))
        assert service.http("POST", "/reload")[0] == 200
        until(lambda: health_of(service) == HealthCheckResponse.SERVING)
        assert service.http("GET", "/readyz")[0] == 200


def gauge(service: ServeProcess, name: str) -> float | None:
    for family in text_string_to_metric_families(service.http("GET", "/metrics")[1]):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    return None


def test_a_store_that_cannot_be_reached_at_start_is_one_warning(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"))
    with ServeProcess(handlers, "--redis=redis://:geheim@127.0.0.1:1/0") as service:
        until(lambda: any(line["event"] == "the store cannot be reached" for line in service.lines))
        told = service.logged("the store cannot be reached")
        assert told["level"] == "warning"
        assert "refused" in told["reason"]
        page = service.page("/readyz")
        assert page["store"]["reachable"] is False
        assert "refused" in page["store"]["reason"]
        assert gauge(service, "coprocess_store_reachable") == 0
        assert "geheim" not in service.text + str(page)


def test_a_store_that_is_required_and_cannot_be_reached_ends_the_start(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"))
    with ServeProcess(handlers, "--store-required", wait=False) as service:
        assert service.wait() == 1
        last = service.lines[-1]["event"]
        assert last.startswith("coprocess: the store at ")
        assert "cannot be reached, and store_required is on" in last
        assert "refused" in last


def test_a_store_that_comes_back_is_reachable_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_watch, "INTERVAL_S", 0.01)
    store = Store()
    server = ValkeyProcess(tmp_path)
    store.configure(server.url, timeout_s=PATIENCE_S)
    watch = StoreWatch(store)
    watch.start()
    until(lambda: watch.is_reachable is False)
    with server:
        until(lambda: watch.is_reachable is True)
        assert watch.page() == {"reachable": True, "reason": None}
        watch.require()
    watch.stop()
    store.close()
