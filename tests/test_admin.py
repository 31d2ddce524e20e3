"""The admin listener: its pages, who may do what, and what happens where its address is taken."""

from __future__ import annotations

import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded
from coprocess.process import admin_http
from coprocess.process.admin import AdminPages
from coprocess.process.admin_client import ask
from coprocess.process.admin_http import AdminServer
from coprocess.process.reload import Outcome, Reloader, Rollback, RollbackTo
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.health import Health
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, until


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("one"), broken="nothing_like_it")


def test_pages(handlers: Path) -> None:
    with ServeProcess(handlers) as service:
        assert service.page("/healthz") == {"status": "alive"}
        ready = service.page("/readyz")
        assert (ready["status"], ready["hooks"], ready["last_reload"]) == ("ready", 1, None)
        assert ready["handlers"] == "those of the last load"
        assert "nothing_like_it" in ready["problems"][0]
        page = service.page("/hooks")
        assert page["hooks"] == [
            {
                "type": "Pre",
                "name": "stamp",
                "api": None,
                "version": None,
                "style": "native",
                "async": False,
                "source": f"{handlers / 'a.py'}:3",
            }
        ]
        (problem,) = page["problems"]
        assert problem.startswith(f"{handlers / 'broken.py'}:1: NameError")
        assert service.http("HEAD", "/healthz") == (200, "")
        assert service.http("GET", "/nothing")[0] == 404
        assert service.http("POST", "/hooks")[0] == 405
        assert service.http("GET", "/reload")[0] == 405
        assert service.http("GET", "/metrics")[0] == 200
        write(handlers, a="broken too")
        assert service.http("POST", "/reload")[0] == 409
        # Still ready: the old handlers serve.
        status, _ = service.http("GET", "/readyz")
        ready = service.page("/readyz")
        assert (status, ready["hooks"], ready["last_reload"]["succeeded"]) == (200, 1, False)
        assert ready["handlers"] == "those of before the last reload, which failed"
        assert "not served" not in str(ready["problems"])
        assert len(service.page("/hooks")["problems"]) == 2


COMMAND = {"HTTP_X_COPROCESS_ADMIN": "1", "HTTP_HOST": "127.0.0.1:9464"}


@pytest.mark.parametrize(
    ("address", "headers", "allowed"),
    [
        ("127.0.0.1", COMMAND, True),
        ("127.8.8.8", COMMAND, True),
        ("::1", COMMAND, True),
        ("::ffff:127.0.0.1", COMMAND, True),
        ("unix", {}, True),
        ("192.0.2.1", COMMAND, False),
        ("::ffff:192.0.2.1", COMMAND, False),
        ("", COMMAND, False),
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "localhost"}, True),
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "[::1]:9464"}, True),
        (
            "127.0.0.1",
            {**COMMAND, "HTTP_HOST": "Known.Example:1", "coprocess.names": {"known.example"}},
            True,
        ),
        ("127.0.0.1", {"HTTP_HOST": "localhost", "CONTENT_TYPE": "application/json; a=b"}, True),
        # A name that somebody else lets point here.
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "evil.example:9464"}, False),
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "127.0.0.1.evil.example"}, False),
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "192.0.2.1"}, False),
        ("127.0.0.1", {**COMMAND, "HTTP_HOST": "[evil"}, False),
        ("127.0.0.1", {"HTTP_X_COPROCESS_ADMIN": "1"}, False),
        # What a browser sends, with and without Origin.
        ("127.0.0.1", {**COMMAND, "HTTP_ORIGIN": "http://evil.example"}, False),
        ("127.0.0.1", {**COMMAND, "HTTP_ORIGIN": "null"}, False),
        ("127.0.0.1", {**COMMAND, "HTTP_SEC_FETCH_SITE": "cross-site"}, False),
        ("127.0.0.1", {"HTTP_HOST": "127.0.0.1:9464"}, False),
        ("127.0.0.1", {"HTTP_HOST": "127.0.0.1:9464", "CONTENT_TYPE": "text/plain"}, False),
    ],
)
@pytest.mark.parametrize("page", ["/reload", "/rollback"])
def test_commands_are_for_this_machine_and_no_browser(
    address: str, headers: dict[str, Any], allowed: bool, page: str
) -> None:
    asked: list[str] = []
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    reloader = Reloader(lambda: Loaded(HookTable()), service, strict=False)

    def reload(reason: str, force: bool) -> Future[Outcome]:
        asked.append(reason)
        future: Future[Outcome] = Future()
        future.set_result(reloader.reload(reason))
        return future

    def roll_back(to: RollbackTo | None) -> Future[Rollback]:
        asked.append("rollback")
        future: Future[Rollback] = Future()
        future.set_result(Rollback(RollbackTo.PREVIOUS, "done"))
        return future

    pages = AdminPages(Health(()), reloader, CollectorRegistry(), reload, roll_back)
    statuses: list[str] = []
    environ = {"PATH_INFO": page, "REQUEST_METHOD": "POST", "REMOTE_ADDR": address, **headers}
    list(pages(environ, lambda status, *rest: statuses.append(status)))  # type: ignore[arg-type]  # no write()
    assert statuses == ["200 OK" if allowed else "403 Forbidden"]
    assert bool(asked) == allowed


def test_a_unix_socket_is_for_its_owner(handlers: Path, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with ServeProcess(handlers, f"--admin=unix:{path}") as service:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b"alive" in client.makefile("rb").read()
        assert service.end() == 0
    assert not path.exists()


def test_off(handlers: Path) -> None:
    with ServeProcess(handlers, "--admin=off") as service:
        assert not any(line["event"] == "admin" for line in service.lines)


def test_an_address_that_was_asked_for_and_is_taken_ends_the_start(handlers: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with ServeProcess(handlers, f"--admin={address}", wait=False) as service:
            assert service.wait() == 1
            assert service.lines == [
                {"event": f"coprocess: admin: cannot listen on {address}: Address already in use"}
            ]


def test_the_default_address_that_is_taken_is_a_warning(handlers: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # Taken by somebody else: that does as well.
            taken.bind(("127.0.0.1", 9464))
            taken.listen()
        with ServeProcess(handlers, admin=None) as service:
            assert (
                "127.0.0.1:9464"
                in service.logged("the default admin address is taken: none is served")["reason"]
            )


def raw(service: ServeProcess, request: str) -> str:
    """The status line of the answer; empty where there is none."""
    host, _, port = service.admin.rpartition(":")
    with (
        suppress(ConnectionError),
        socket.create_connection((host, int(port)), timeout=PATIENCE_S) as client,
    ):
        client.sendall(request.encode())
        return client.makefile("rb").readline().decode().strip()
    return ""


def test_pages_of_a_loopback_address_are_shown_under_no_foreign_name(handlers: Path) -> None:
    with ServeProcess(handlers, "--admin-hosts=known.example") as service:
        for page in ("/hooks", "/metrics", "/readyz"):
            assert service.http("GET", page, {"Host": "evil.example"})[0] == 403
            # Probes and scrapes name an address.
            for host in (service.admin, "10.1.2.3:9464", "localhost", "known.example", socket.gethostname()):
                assert service.http("GET", page, {"Host": host})[0] == 200, host
        assert service.http("GET", "/healthz", {"Host": "evil.example"})[0] == 200
        assert service.http("POST", "/reload", {"Host": "evil.example", "X-Coprocess-Admin": "1"})[0] == 403
        assert service.http("POST", "/reload", {})[0] == 403
        assert service.http("POST", "/rollback", {})[0] == 403
        assert service.page("/readyz")["last_reload"] is None


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /healthz HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411 Length Required"),
        (f"GET /healthz HTTP/1.1\r\nContent-Length: {10**30}\r\n\r\n", "413 Content Too Large"),
        ("GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400 Bad Request"),
        ("GET /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\nab", "200 OK"),
        (f"GET /healthz HTTP/1.1\r\nX: {'a' * 70_000}\r\n\r\n", ""),
    ],
)
def test_requests_that_are_wrong_get_an_answer_or_an_end(
    running: ServeProcess, request_text: str, status: str
) -> None:
    assert raw(running, request_text).partition(" ")[2] == status
    assert running.page("/healthz") == {"status": "alive"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with ServeProcess(write(tmp_path_factory.mktemp("a") / "handlers", a=stamping("one"))) as service:
        yield service


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_slow_clients_keep_nobody_out(running: ServeProcess, sent: bytes) -> None:
    """However many they are."""
    host, _, port = running.admin.rpartition(":")
    with ExitStack() as at_end:
        for _ in range(400):
            slow = at_end.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            slow.sendall(sent)
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(running.http("GET", "/metrics")[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        assert running.page("/healthz") == {"status": "alive"}


def large_page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [bytes(4 * 2**20) if environ["PATH_INFO"] == "/metrics" else b"small"]


@pytest.fixture
def admin() -> Iterator[AdminServer]:
    server = AdminServer("127.0.0.1:0")
    yield server
    server.close()


def test_clients_that_read_no_answer_keep_nobody_out(admin: AdminServer) -> None:
    admin.start(large_page)
    with ExitStack() as at_end:
        for _ in range(300):
            client = at_end.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", int(admin.address.rpartition(":")[2])))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert ask(admin.address, "GET", "/healthz", PATIENCE_S) == (200, b"small")


def test_a_request_has_a_deadline_as_a_whole(admin: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that keeps coming, a little at a time, is ended, too."""
    monkeypatch.setattr(admin_http, "_READ_TIMEOUT_S", 0.3)
    admin.start(large_page)
    with socket.create_connection(("127.0.0.1", int(admin.address.rpartition(":")[2]))) as client:
        client.settimeout(0.02)
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            try:
                client.sendall(b"G")
                if client.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("it was never ended")


def test_a_page_that_fails_is_an_answer_and_a_line_in_the_log(admin: AdminServer) -> None:
    def broken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise ZeroDivisionError

    admin.start(broken)
    with capture_logs() as lines:
        assert ask(admin.address, "GET", "/hooks", PATIENCE_S)[0] == 500
    (line,) = lines
    assert line["event"] == "an admin page failed"
    assert "ZeroDivisionError" in line["errors"]


def test_a_page_that_hangs_keeps_no_other_waiting(admin: AdminServer) -> None:
    """As a command may, or the metrics of a worker that is silent."""
    go_on = threading.Event()

    def hanging(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            go_on.wait(PATIENCE_S)
        start_response("200 OK", [])
        return [b"done"]

    admin.start(hanging)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(admin.address, "GET", "/metrics", PATIENCE_S)[0]))
        for _ in range(60)
    ]
    for thread in threads:
        thread.start()
    until(lambda: 503 in statuses)
    assert ask(admin.address, "GET", "/healthz", PATIENCE_S)[0] == 200
    go_on.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
