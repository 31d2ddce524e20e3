"""The admin listener: its pages, who may do what, and what happens where its address is taken."""

from __future__ import annotations

import socket
import stat
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from coprocess.hooks import HookTable
from coprocess.loader import Loaded
from coprocess.server.admin import AdminPages
from coprocess.server.health import Health
from coprocess.server.reload import Outcome, Reloader, Rollback, RollbackTo
from coprocess.server.service import Service, ServiceOptions
from coprocess.tyk.dispatcher import Dispatcher
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("one"), broken="nothing_like_it")


def test_pages(handlers: Path) -> None:
    with ServeProcess(handlers) as service:
        assert service.page("/healthz") == {"status": "alive"}
        ready = service.page("/readyz")
        assert (ready["status"], ready["hooks"], ready["last_reload"]) == ("ready", 1, None)
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
        assert (status, service.page("/readyz")["last_reload"]["succeeded"]) == (200, False)
        assert len(service.page("/hooks")["problems"]) == 2


@pytest.mark.parametrize(
    ("address", "headers", "allowed"),
    [
        ("127.0.0.1", {}, True),
        ("127.8.8.8", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("unix", {}, True),
        ("192.0.2.1", {}, False),
        ("::ffff:192.0.2.1", {}, False),
        ("", {}, False),
        ("127.0.0.1", {"HTTP_ORIGIN": "http://evil.example"}, False),
    ],
)
@pytest.mark.parametrize("page", ["/reload", "/rollback"])
def test_commands_are_for_this_machine_and_no_browser(
    address: str, headers: dict[str, str], allowed: bool, page: str
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


def test_idle_and_slow_clients_keep_nobody_out(handlers: Path) -> None:
    with ServeProcess(handlers) as service:
        host, _, port = service.admin.rpartition(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(20)]
        assert service.page("/healthz") == {"status": "alive"}
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(service.http("GET", "/metrics")[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        for connection in idle:
            connection.close()
