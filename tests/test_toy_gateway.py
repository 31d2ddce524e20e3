"""The seam: a gateway of the tests' own, added by one module and its registration, served as any other."""

from __future__ import annotations

import ast
import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from coprocess.errors import ConfigError
from coprocess.process.app import App
from coprocess.process.config import Settings
from tests.server import ENGINES, PATIENCE_S, status_of, until
from tests.toy_gateway import ASK, TOY

ROOT = Path(__file__).parents[1]
TOKEN = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"

SLOW = """
import pathlib, time
from coprocess import Pre

@Pre(concurrency=1)
def patient(request):
    request.headers["X-Waited"] = "1"
    while request.headers.get("X-Wait"):
        if pathlib.Path(request.headers["X-Wait"]).exists():
            break
        time.sleep(0.005)

@Pre
def broken():
    raise LookupError("nothing there")
"""


class Toy:
    """The running service, and a client of it."""

    def __init__(self, app: App, address: str, logs: list[Any]) -> None:
        self.app, self.logs = app, logs
        self.admin = next(entry["listen"] for entry in logs if entry["event"] == "admin")
        self.channel = grpc.insecure_channel(address)
        self._ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(ASK)

    def ask(self, **message: Any) -> Any:
        return json.loads(self._ask(json.dumps(message).encode(), timeout=PATIENCE_S))

    def ask_later(self, **message: Any) -> Any:
        return self._ask.future(json.dumps(message).encode(), timeout=PATIENCE_S)

    def page(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@contextmanager
def toy(folder: Path, **settings: Any) -> Iterator[Toy]:
    """`App` with the toy for its gateway, in a thread."""
    app = App(
        Settings(
            listen=["127.0.0.1:0"],
            admin="127.0.0.1:0",
            handlers=[folder],
            redis="redis://127.0.0.1:1/0",
            settle_s=0.0,
            **settings,
        ),
        gateway=TOY,
    )
    addresses: list[str] = []
    is_ready = threading.Event()

    def take(bound: list[str]) -> None:
        addresses.extend(bound)
        is_ready.set()

    with capture_logs() as logs:
        thread = threading.Thread(target=app.run, args=(take,))
        thread.start()
        try:
            assert is_ready.wait(PATIENCE_S)
            running = Toy(app, addresses[0], logs)
            yield running
            running.channel.close()
        finally:
            app.request_stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The sample handlers and two of the test's own."""
    folder = tmp_path / "handlers"
    shutil.copytree(ROOT / "handlers", folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "slow.py").write_text(SLOW)
    return folder


def test_the_toy_is_small_and_knows_no_other_gateway() -> None:
    text = (ROOT / "tests" / "toy_gateway.py").read_text()
    imported = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]

    assert len(text.splitlines()) <= 100
    assert "tyk" not in text.lower()
    assert not [module for module in imported if str(module).startswith("coprocess.process")]


@pytest.mark.parametrize("engine", ENGINES)
def test_sample_handlers_run_under_the_toy(samples: Path, engine: str) -> None:
    with toy(samples, engine=engine) as running:
        changed = running.ask(moment="Pre", name="append_header", api="a", headers={"X-Was": "there"})
        refused = running.ask(moment="CustomKeyCheck", name="auth_check", headers={"Authorization": "no"})
        admitted = running.ask(moment="CustomKeyCheck", name="auth_check", headers={"Authorization": TOKEN})
        with pytest.raises(grpc.RpcError) as unknown:
            running.ask(moment="Pre", name="append_heade")

    assert changed["headers"] == {"X-Was": "there", "Custom_header": "custom_value"}
    assert refused == {"status": 401, "body": "Not authorized (Python middleware)"}
    assert admitted["token"] == "mytoken"
    status, text = status_of(unknown.value)
    assert status is grpc.StatusCode.NOT_FOUND
    assert 'Pre "append_header"' in text


def test_a_full_hook_sheds_the_toys_calls(samples: Path, tmp_path: Path) -> None:
    go_on = tmp_path / "go_on"
    with toy(samples, queue_size=0, failure_status=503) as running:
        first = running.ask_later(moment="Pre", name="patient", headers={"X-Wait": str(go_on)})
        until(lambda: in_flight(running) == 1.0)

        shed = running.ask(moment="Pre", name="patient")
        go_on.touch()

        assert json.loads(first.result())["headers"]["X-Waited"] == "1"
    assert shed["status"] == 503


def in_flight(running: Toy) -> float:
    lines = running.page("/metrics").splitlines()
    shown = [line for line in lines if line.startswith("coprocess_calls_in_flight{") and '"patient"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in shown)


def test_metrics_and_log_name_the_toys_hooks(samples: Path) -> None:
    with toy(samples, failure_status=500) as running:
        running.ask(moment="Pre", name="append_header", api="orders")
        failed = running.ask(moment="Pre", name="broken", api="orders")
        metrics = running.page("/metrics")
        hooks = json.loads(running.page("/hooks"))["hooks"]
        logs = list(running.logs)

    assert failed["status"] == 500
    assert any('"append_header"' in line and '"orders"' in line for line in metrics.splitlines())
    assert "append_header" in {hook["name"] for hook in hooks}
    assert any("broken" in str(entry) and entry["log_level"] == "error" for entry in logs), logs


def test_the_toys_handlers_are_reloaded(samples: Path) -> None:
    with toy(samples) as running:
        before = running.ask(moment="Pre", name="append_header")
        twins = samples / "native_twins.py"
        twins.write_text(twins.read_text().replace("custom_value", "another value"))

        assert running.app.requests.reload("test").result(PATIENCE_S).succeeded

        after = running.ask(moment="Pre", name="append_header")
    assert before["headers"]["Custom_header"] == "custom_value"
    assert after["headers"]["Custom_header"] == "another value"


def test_a_gateway_that_sends_no_webhooks_has_no_listener_for_them(samples: Path) -> None:
    settings = Settings(
        listen=["127.0.0.1:0"],
        admin="off",
        handlers=[samples],
        redis="redis://127.0.0.1:1/0",
        events_listen="127.0.0.1:0",
        events_secret=SecretStr("long enough for a secret"),
    )

    with pytest.raises(ConfigError, match="events_listen: toy sends no webhooks"):
        App(settings, gateway=TOY)
