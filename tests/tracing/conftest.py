"""The service, in each of its forms. What is asserted at its end holds for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.collector import Collector
from tests.serve_process import ServeProcess, write
from tests.tracing.service import COLLECTORS_KEY, FORMS, HANDLERS, PASSWORD, SECRETS, Traced
from tests.valkey import ValkeyProcess


@pytest.fixture(scope="package")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ValkeyProcess(tmp_path_factory.mktemp("store"), tcp=True, requirepass=PASSWORD) as server:
        yield server.url.replace("redis://", f"redis://:{PASSWORD}@")


@pytest.fixture(scope="package", params=FORMS)
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
        assert len({span.span_id for span in collector.spans}) == len(collector.spans), "one was sent twice"
        assert "ended span" not in service.text
        # Of no call: what the module of handlers does when it is loaded.
        assert "EXISTS" not in {span.name for span in collector.spans}
        for secret in SECRETS:
            assert not any(secret.encode() in body for body in collector.bodies), secret
        # What a handler raises is in the log: that is tested elsewhere.
        assert PASSWORD not in service.text
        assert COLLECTORS_KEY not in service.text
