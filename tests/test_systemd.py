"""What systemd is told, over a real datagram socket, by a real service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from coprocess.process.systemd import take_sockets
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import PATIENCE_S, Client

Notes = dict[str, str]

UNIT = Path(__file__).parent.parent / "deploy" / "coprocess.service"

TELLS_VARIABLES = """
import os
from coprocess import Pre
NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")

@Pre
def stamp(request):
    request.headers["X-Stamp"] = ",".join(name for name in NAMES if name in os.environ) or "none"
"""


class Manager:
    """systemd's side."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.bind(address)

    def hear(self) -> Notes:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())


@pytest.fixture(
    params=[
        "path",
        pytest.param("abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")),
    ]
)
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    is_path = request.param == "path"
    name = str(tmp_path / "notify") if is_path else f"@coprocess-test-{os.getpid()}-{tmp_path.name}"
    manager = Manager(name if is_path else "\0" + name[1:])
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with manager.socket:
        yield manager


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=stamping("one"))


def test_it_tells_of_start_reloads_and_stop(manager: Manager, handlers: Path) -> None:
    with ServeProcess(handlers) as service:
        assert manager.hear() == {"READY": "1", "STATUS": "1 hooks, 0 problems with handlers"}
        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        service.process.send_signal(signal.SIGHUP)
        reloading = manager.hear()
        assert reloading["RELOADING"] == "1"
        assert (
            before_us
            <= int(reloading["MONOTONIC_USEC"])
            <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        )
        assert manager.hear()["READY"] == "1"
        write(handlers, a="broken it is")
        service.process.send_signal(signal.SIGHUP)
        assert manager.hear()["RELOADING"] == "1"
        assert manager.hear() == {"READY": "1", "STATUS": "the last reload failed; 1 hooks of before it"}
        service.process.send_signal(signal.SIGTERM)
        assert manager.hear()["STOPPING"] == "1"
        assert service.wait() == 0


def test_readiness_is_not_told_before_the_service_serves(manager: Manager, tmp_path: Path) -> None:
    code = "import pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.005)\n" + stamping(
        "one"
    )
    with ServeProcess(write(tmp_path / "handlers", a=code), wait=False) as service:
        service.wait_for("admin")
        manager.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            manager.hear()
        manager.socket.settimeout(PATIENCE_S)
        (tmp_path / "go").touch()
        assert manager.hear()["READY"] == "1"
        service.wait_for("serving")
        with service.client() as client:
            client.dispatch(make_object(hook_name="stamp"))


def test_the_watchdog_hears_of_it(manager: Manager, handlers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    with ServeProcess(handlers):
        assert manager.hear()["READY"] == "1"
        assert [manager.hear() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3


def test_the_watchdog_of_another_process_does_not(
    manager: Manager, handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with ServeProcess(handlers) as service:
        assert manager.hear()["READY"] == "1"
        service.process.send_signal(signal.SIGTERM)
        assert manager.hear()["STOPPING"] == "1"


@pytest.mark.parametrize("workers", [1, 2])
def test_one_process_tells_and_nobody_else_can(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "600000000")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    handlers = write(tmp_path / "handlers", a=TELLS_VARIABLES)
    with ServeProcess(handlers, f"--workers={workers}") as service, service.client() as client:
        reply = client.dispatch(make_object(hook_name="stamp"))
        assert reply.request.set_headers["X-Stamp"] == "none"
        assert service.end() == 0
    heard = [manager.hear() for _ in range(3)]
    first, *others = [next(iter(notes)) for notes in heard]
    # The watchdog's notes come from a thread of their own: the first of them at about any time.
    assert (first, sorted(others)) == ("READY", ["STOPPING", "WATCHDOG"])
    manager.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.hear()


def test_without_a_listener_it_serves_all_the_same(
    tmp_path: Path, handlers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with ServeProcess(handlers) as service, service.client() as client:
        client.dispatch(make_object(hook_name="stamp"))
        assert service.end() == 0
        assert service.logged("systemd could not be told")["what"] == "READY=1"
        assert sum(line["event"] == "systemd could not be told" for line in service.lines) == 1


#: What systemd does before it runs a service: the sockets from descriptor 3 on, and the variables.
PASSES_SOCKETS = """
import fcntl, os, sys
given, command = sys.argv[1].split(","), sys.argv[2:]
copies = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in given]
for number, copy in enumerate(copies):
    os.dup2(copy, 3 + number, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="one:two")
os.execv(command[0], command)
"""


@contextmanager
def activated(
    handlers: Path, *sockets: socket.socket | None, flags: Sequence[str] = (), real_start: bool = False
) -> Iterator[ServeProcess]:
    """A service that is passed these; None: no socket."""
    with open(os.devnull, "rb") as nothing:
        given = [(nothing if each is None else each).fileno() for each in sockets]
        prefix: tuple[str, ...] = ()
        if real_start or "REAL_STARTS" in os.environ:
            numbers = ",".join(map(str, given))
            prefix = ("env", "-u", "NOTIFY_SOCKET", sys.executable, "-c", PASSES_SOCKETS, numbers)
        with ServeProcess(
            handlers, *flags, prefix=prefix, real_start=bool(prefix), wait=False, pass_fds=given
        ) as service:
            yield service


@pytest.fixture
def held(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """systemd's sockets: a port and a path."""
    path = socket.socket(socket.AF_UNIX)
    path.bind(str(tmp_path / "held.sock"))
    path.listen()
    port = socket.create_server(("127.0.0.1", 0))
    with path, port:
        yield [port, path]


@pytest.mark.parametrize("workers", [1, 2])
def test_sockets_that_are_passed_are_served(handlers: Path, held: list[socket.socket], workers: int) -> None:
    flags = [f"--workers={workers}"]
    with activated(handlers, *held, flags=flags, real_start=workers > 1) as service:
        service.wait_for("serving")
        addresses = [f"127.0.0.1:{held[0].getsockname()[1]}", f"unix:{held[1].getsockname()}"]
        assert service.logged("listening")["listen"] == addresses
        for address in addresses:
            with Client(address) as client:
                reply = client.dispatch(make_object(hook_name="stamp"))
            assert reply.request.set_headers["X-Stamp"] == "one"
        assert service.end() == 0
    # It was not the service's to remove.
    assert Path(held[1].getsockname()).exists()


def test_a_call_between_two_services_waits_for_the_second(handlers: Path, held: list[socket.socket]) -> None:
    """As systemd holds the socket: so a restart refuses nobody."""
    with activated(handlers, held[0]) as service:
        service.wait_for("serving")
        assert service.end() == 0
    with Client(f"127.0.0.1:{held[0].getsockname()[1]}") as client:
        call = client.future(make_object(hook_name="stamp"))
        with activated(handlers, held[0]) as service:
            service.wait_for("serving")
            assert call.result(PATIENCE_S)
            assert service.end() == 0


@pytest.mark.parametrize(
    ("sockets", "flags", "expected"),
    [
        ((None,), (), "descriptor 3 (one) is no socket that listens for streams. Expected: a .socket unit"),
        (("not listening",), (), "descriptor 3 (one) is no socket that listens"),
        (("port", None), (), "descriptor 4 (two) is no socket that listens"),
        (("port",), ("--engine=grpcio",), "the engine grpcio takes no socket that others opened"),
        (("public",), (), "other machines can reach it, and it is plaintext. Expected: ListenStream= with a"),
        (
            ("port",),
            ("--listen=127.0.0.1:0", "--workers=2", "--worker-listen=own"),
            "systemd passes sockets, which are the front's. Expected: front",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(
    handlers: Path,
    held: list[socket.socket],
    sockets: tuple[str | None, ...],
    flags: tuple[str, ...],
    expected: str,
) -> None:
    # Never called: others might.
    with socket.socket() as closed, socket.create_server(("", 0)) as public:
        known = {"port": held[0], "not listening": closed, "public": public, None: None}
        with activated(handlers, *(known[each] for each in sockets), flags=flags) as service:
            assert service.wait() == 1
    text = " ".join(line["event"] for line in service.lines)
    assert expected in text
    assert "Traceback" not in text


@pytest.mark.parametrize("flags", [("--insecure-public",), ()], ids=["so asked", "by path"])
def test_what_only_this_machine_reaches_needs_no_leave(
    handlers: Path, held: list[socket.socket], flags: tuple[str, ...]
) -> None:
    with (
        socket.create_server(("", 0)) as public,
        activated(handlers, public if flags else held[1], flags=flags) as service,
    ):
        service.wait_for("serving")
        assert service.end() == 0


def test_sockets_for_another_process_are_not_taken() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a"}
    assert take_sockets(environ) == []
    assert environ == {}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that exists, as that is looked for, too."""
    unit, listening = tmp_path / UNIT.name, tmp_path / UNIT.with_suffix(".socket").name
    unit.write_text(UNIT.read_text().replace("/opt/coprocess/bin/coprocess", sys.executable))
    listening.write_text(UNIT.with_suffix(".socket").read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", unit, listening],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
