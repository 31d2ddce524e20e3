"""Events that come as webhooks: a real gateway's recordings, who may send, and what is refused."""

from __future__ import annotations

import base64
import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coprocess.api.messages import Event
from coprocess.api.moments import HookType
from coprocess.errors import ConfigError
from coprocess.loading.hooks import HookTable
from coprocess.process.config import Settings
from coprocess.process.settings_loading import load_settings
from coprocess.process.webhooks import listen_for_webhooks
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.listeners import SocketAccess
from tests.objects import hook_table
from tests.serve_process import ServeProcess
from tests.server import PATIENCE_S, Server, serving, until

HERE = Path(__file__).parent
SECRET = "a-secret-of-the-tests"
TEMPLATE = '<script type="application/json">%s</script>'
MESSAGE = '{"Type":"TokenCreated","Meta":{"Key":"k-1234567"},"TimeStamp":"2026-11-27 01:45:55.1 +0000 UTC"}'

Answer = tuple[int, str]


@dataclass
class Hooks:
    """A service that takes webhooks; `seen` are the events that its handler got."""

    server: Server
    address: str
    seen: queue.SimpleQueue[Event]

    def send(
        self,
        body: bytes | str,
        path: str = "/events/on_event?api_id=a&org_id=o",
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            given = {"X-Coprocess-Secret": SECRET} if headers is None else headers
            connection.request(method, path, body.encode() if isinstance(body, str) else body, given)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def event(self) -> Event:
        return self.seen.get(timeout=PATIENCE_S)


def settings(**given: Any) -> Settings:
    return Settings(**{"events_listen": "127.0.0.1:0", "events_secret": SECRET, **given})


@pytest.fixture(scope="module")
def hooks() -> Iterator[Hooks]:
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def on_event(event: Event) -> None:
        seen.put(event)

    with serving(hook_table(HookType.Event, on_event, name="on_event")) as server:
        bridge, start = listen_for_webhooks(
            settings(events_max_bytes=100_000), server.service, lambda: True, SocketAccess()
        )
        start()
        try:
            yield Hooks(server, bridge.address, seen)
        finally:
            bridge.close()


def recordings() -> list[Path]:
    """Those of the tests, and all there are where the tests run beside them."""
    found = {path.name: path for path in (HERE / "data" / "webhooks").glob("*.json")}
    for path in (HERE.parents[1] / "shared" / "tyk" / "webhooks").glob("*.json"):
        found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def body_of(webhook: dict[str, Any]) -> bytes:
    encoded = webhook.get("body_b64")
    return base64.b64decode(encoded) if encoded else webhook["body"].encode()


@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_a_recorded_webhook_gives_the_event_that_grpc_gave(hooks: Hooks, path: Path) -> None:
    recording = json.loads(path.read_text())
    over_grpc = {message["TimeStamp"] + message["Type"]: message for message in recording["grpc_events"]}
    for webhook in recording["webhooks"]:
        body = body_of(webhook)
        status, text = hooks.send(body, method=webhook["method"])
        if webhook["method"] != "POST":
            assert (status, "must be POST" in text) == (405, True)
        elif not body.startswith(b"<script"):
            is_default = b'"event":' in body[:20]
            assert (status, "default_webhook.json" in text) == (400, is_default)
            assert TEMPLATE % "{{.}}" in json.loads(text)["error"]
        else:
            assert (status, text) == (204, "")
            event = hooks.event()
            assert (event.api_id, event.org_id, event.handler) == ("a", "o", "on_event")
            same = over_grpc.get(event["message"]["TimeStamp"] + event.type)
            assert event.type
            assert event.timestamp is not None
            if same is None:
                continue
            payload = {"message": same, "handler_name": "on_event", "spec": {"APIID": "a", "OrgID": "o"}}
            hooks.server.client.send_event(json.dumps(payload))
            twin = hooks.event()
            assert {**event, "spec": None} == {**twin, "spec": None}
            assert (event.type, event.meta, event.timestamp) == (twin.type, twin.meta, twin.timestamp)
            assert event.originating_request == twin.originating_request


def test_a_burst_on_many_connections_loses_nothing(hooks: Hooks) -> None:
    with ThreadPoolExecutor(16) as clients:
        answers = list(
            clients.map(lambda number: hooks.send(MESSAGE, f"/events/on_event?api_id={number}"), range(300))
        )

    assert set(answers) == {(204, "")}
    assert {hooks.event().api_id for _ in range(300)} == set(map(str, range(300)))


@pytest.mark.parametrize("body", [MESSAGE, TEMPLATE % MESSAGE, f"\n {TEMPLATE % MESSAGE}\r\n", f"﻿{MESSAGE}"])
def test_the_message_comes_with_or_without_its_wrapper(hooks: Hooks, body: str) -> None:
    assert hooks.send(body, headers={"x-coprocess-secret": SECRET, "Content-Type": ""}) == (204, "")

    event = hooks.event()
    assert dict(event) == {
        "message": json.loads(MESSAGE),
        "handler_name": "on_event",
        "spec": {"APIID": "a", "OrgID": "o"},
    }


def test_the_whole_payload_comes_too_and_the_url_wins(hooks: Hooks) -> None:
    payload = f'{{"message": {MESSAGE}, "handler_name": "x", "spec": {{"APIID": "b", "OrgID": "p"}}}}'

    assert hooks.send(payload, "/events/on_event?api_id=url")[0] == 204

    event = hooks.event()
    assert (event.handler, event.api_id, event.org_id) == ("on_event", "url", "p")


def test_an_event_of_no_api_has_no_spec(hooks: Hooks) -> None:
    assert hooks.send(MESSAGE, "/events/on_event")[0] == 204

    assert hooks.event()["spec"] == {}


@pytest.mark.parametrize(
    ("status", "says", "given"),
    [
        (401, "X-Coprocess-Secret is missing or wrong", {"headers": {}}),
        (401, "missing or wrong", {"headers": {"X-Coprocess-Secret": ""}}),
        (401, "missing or wrong", {"headers": {"X-Coprocess-Secret": SECRET + "x"}}),
        (401, "missing or wrong", {"headers": {"X-Coprocess-Secret": "é"}}),
        (401, "missing or wrong", {"headers": {}, "body": "x" * 300_000}),
        (404, 'no Event hook "on_evnt" for API "a"; loaded', {"path": "/events/on_evnt?api_id=a"}),
        (404, "Expected: POST /events/HANDLER", {"path": "/events/"}),
        (404, "Expected: POST /events/HANDLER", {"path": "/"}),
        (405, "the webhook's method must be POST, not GET", {"method": "GET"}),
        (405, "not PUT", {"method": "PUT", "headers": {}}),
        (413, "larger than 100000 bytes", {"body": "x" * 300_000}),
        (400, "has no body", {"body": ""}),
        (400, "is no event", {"body": "x"}),
        (400, "is no event", {"body": "[" * 50_000}),
        (400, "is no event", {"body": "[1]"}),
        (400, "is no event", {"body": b"\xff\xfe\x00"}),
        (400, "is no event", {"body": '{"Type": "X", "Meta": {}}'}),
        (400, "default_webhook.json", {"body": '\n{\n  "event": "AuthFailure", "path": "\\x"}'}),
        (400, "default_webhook.json", {"body": '{"event": "AuthFailure", "message": "m"}'}),
        (400, "too many fields", {"path": "/events/on_event?" + "&".join(f"a{n}=1" for n in range(20))}),
    ],
)
def test_what_is_refused_is_told_why(hooks: Hooks, status: int, says: str, given: dict[str, Any]) -> None:
    before = hooks.server.service.refused_calls

    got, text = hooks.send(**{"body": MESSAGE, **given})

    assert got == status
    assert hooks.server.service.refused_calls == before + 1
    assert says in json.loads(text)["error"]
    assert hooks.seen.empty()


def test_a_body_without_length_is_refused(hooks: Hooks) -> None:
    before = hooks.server.service.refused_calls
    host, _, port = hooks.address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as client:
        client.sendall(
            f"POST /events/on_event HTTP/1.1\r\nX-Coprocess-Secret: {SECRET}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
        )
        assert b" 411 " in client.recv(1000)
    assert hooks.server.service.refused_calls == before + 1


def test_a_refusal_holds_no_key_and_is_counted_and_logged(hooks: Hooks) -> None:
    before = hooks.server.service.refused_calls
    with capture_logs() as logs:
        _, text = hooks.send('{"event": "AuthFailure", "key": "geheimer-key"}')

    assert "geheim" not in text + str(logs)
    assert hooks.server.service.refused_calls == before + 1


def test_an_event_is_accepted_before_it_runs_and_shed_where_too_many_wait() -> None:
    go_on, started = threading.Event(), threading.Event()

    def on_event(event: Event) -> None:
        started.set()
        assert go_on.wait(PATIENCE_S)

    table: HookTable = hook_table(HookType.Event, on_event, name="on_event")
    with serving(table, options=ServiceOptions(concurrency=1, queue_size=1)) as server:
        bridge, start = listen_for_webhooks(settings(), server.service, lambda: True, SocketAccess())
        start()
        hooks = Hooks(server, bridge.address, queue.SimpleQueue())
        try:
            assert hooks.send(MESSAGE)[0] == 204
            assert started.wait(PATIENCE_S)
            assert hooks.send(MESSAGE)[0] == 204
            status, text = hooks.send(MESSAGE)
            assert (status, json.loads(text)["error"]) == (503, 'Event hook "on_event" is overloaded')
            go_on.set()
            until(lambda: server.service.in_flight == 0)
            (counts,) = server.service.gates.totals().values()
            assert (sum(counts.durations), counts.shed) == (2, 1)
            assert server.service.drain(PATIENCE_S)
            assert hooks.send(MESSAGE)[0] == 503
        finally:
            go_on.set()
            bridge.close()


HANDLER = """
from coprocess import Event

@Event
def on_event(event):
    print("saw", event.type, event.api_id)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_served_by_the_service_and_the_secret_shows_nowhere(tmp_path: Path, workers: int) -> None:
    handlers, secret_file = tmp_path / "handlers", tmp_path / "secret"
    handlers.mkdir()
    (handlers / "a.py").write_text(HANDLER)
    secret_file.write_text(SECRET + "\n")
    flags = ["--events-listen=127.0.0.1:0", f"--events-secret-file={secret_file}", f"--workers={workers}"]
    with ServeProcess(handlers, *flags, wait=False) as service:
        address = service.wait_for("webhooks")["listen"]
        hooks = Hooks(None, address, queue.SimpleQueue())  # type: ignore[arg-type]  # the process is the server
        assert hooks.send(TEMPLATE % MESSAGE)[0] == 204
        service.wait_for("saw TokenCreated a")
        assert hooks.send(MESSAGE, headers={"X-Coprocess-Secret": "wrong"})[0] == 401
        assert service.end() == 0
        assert SECRET not in service.text
        assert "k-1234567" not in service.text


def test_a_unix_socket_takes_webhooks(tmp_path: Path) -> None:
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    path = tmp_path / "events.sock"
    with serving(hook_table(HookType.Event, lambda event: seen.put(event), name="on_event")) as server:
        given = settings(events_listen=f"unix:{path}")
        bridge, start = listen_for_webhooks(given, server.service, lambda: True, SocketAccess())
        start()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_S)
                client.connect(str(path))
                client.sendall(
                    f"POST /events/on_event HTTP/1.1\r\nX-Coprocess-Secret: {SECRET}\r\n"
                    f"Content-Length: {len(MESSAGE)}\r\n\r\n{MESSAGE}".encode()
                )
                assert b" 204 " in client.recv(1000)
            assert seen.get(timeout=PATIENCE_S).type == "TokenCreated"
        finally:
            bridge.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("says", "flags", "secret"),
    [
        ("one of events_secret and events_secret_file", {}, None),
        ("one of events_secret and events_secret_file", {"events_secret_file": "x"}, "geheim"),
        ("other machines can reach it", {"events_listen": "0.0.0.0:1"}, "geheim"),
        ("printable ASCII", {}, "geheim\n1"),
        ("is too short", {}, "g"),
    ],
)
def test_a_listener_that_is_not_safe_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, says: str, flags: dict[str, str], secret: str | None
) -> None:
    if secret is not None:
        monkeypatch.setenv("COPROCESS_EVENTS_SECRET", secret)

    with pytest.raises(ConfigError) as refused:
        load_settings({"events_listen": "127.0.0.1:1", **flags})

    assert says in str(refused.value)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\xff", "is not text"), (None, "No such file")]
)
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"events_secret_file .*{says}"):
        settings(events_secret=None, events_secret_file=path).read_events_secret()
