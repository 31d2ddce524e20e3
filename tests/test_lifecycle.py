"""From start to stop, as real processes: signals under load, sockets, what is left behind."""

from __future__ import annotations

import signal
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from coprocess.errors import ConfigError
from coprocess.process.settings_loading import load_settings
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object
from tests.serve_process import ServeProcess, stamping, write
from tests.server import ENGINES, PATIENCE_S, Client, status_of

SLOW = """
import os, pathlib, time
from coprocess import Event, Pre, trigger_event

begun = os.open(pathlib.Path({here!r}, "begun"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@Pre
def stamp(request):
    os.write(begun, b".")
    time.sleep(0.003)
    request.headers["X-Stamp"] = "done"

@Pre
def held(request):
    pathlib.Path({here!r}, "started").touch()
    while not pathlib.Path({here!r}, "go").exists():
        time.sleep(0.005)
    trigger_event("note", "last words")
    request.headers["X-Stamp"] = "held"

@Event
def note(event):
    time.sleep(0.3)
    pathlib.Path({here!r}, "noted").touch()
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    return write(tmp_path / "handlers", a=SLOW.format(here=str(tmp_path)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_every_call_that_was_taken(
    handlers: Path, tmp_path: Path, engine: EngineChoice, number: int
) -> None:
    for _ in range(2):
        (tmp_path / "begun").unlink(missing_ok=True)
        with ServeProcess(handlers, f"--engine={engine}") as service:
            endings: list[tuple[grpc.StatusCode, str]] = []
            answered = [0] * 8
            begun = threading.Barrier(9)

            def load(worker: int) -> None:
                with service.client() as client:
                    client.dispatch(make_object(hook_name="stamp"))
                    begun.wait()  # noqa: B023 - as above
                    while True:
                        try:
                            reply = client.dispatch(make_object(hook_name="stamp"))
                        except grpc.RpcError as error:
                            endings.append(status_of(error))  # noqa: B023 - as above
                            return
                        assert reply.request.set_headers["X-Stamp"] == "done"
                        answered[worker] += 1  # noqa: B023 - as above

            threads = [threading.Thread(target=load, args=(worker,)) for worker in range(8)]
            for thread in threads:
                thread.start()
            begun.wait()
            while min(answered) < 3:
                threading.Event().wait(0.001)
            assert service.end(number) == 0
            for thread in threads:
                thread.join()
            # Every call that began was answered; each worker's first is not in `answered`.
            assert (tmp_path / "begun").stat().st_size == sum(answered) + 8
            # The rest is refused. grpcio cancels what came when it had stopped looking for calls.
            assert {code for code, _ in endings} <= {
                grpc.StatusCode.UNAVAILABLE,
                *([grpc.StatusCode.CANCELLED] if engine == "grpcio" else []),
            }


@pytest.mark.parametrize("engine", ENGINES)
def test_what_runs_is_finished_and_its_events_too(
    handlers: Path, tmp_path: Path, engine: EngineChoice
) -> None:
    with ServeProcess(handlers, f"--engine={engine}") as service, service.client() as client:
        call = client.future(make_object(hook_name="held"))
        while not (tmp_path / "started").exists():
            threading.Event().wait(0.005)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_for("stopping")["in_flight"] == 1
        # Alive still, and no longer healthy.
        assert service.http("GET", "/readyz")[0] == 503
        assert service.http("GET", "/healthz")[0] == 200
        while True:  # New calls are refused, as soon as the stop has got there.
            try:
                client.dispatch(make_object(hook_name="stamp"))
            except grpc.RpcError as error:
                refusal = status_of(error)
                break
        assert refusal[0] is grpc.StatusCode.UNAVAILABLE
        (tmp_path / "go").touch()
        assert b"held" in call.result(PATIENCE_S)
        assert service.wait() == 0
        assert (tmp_path / "noted").exists()


def test_while_it_drains_it_serves_on(handlers: Path) -> None:
    with ServeProcess(handlers, "--drain-s=5") as service, service.client() as client:
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("stopping")
        assert service.http("GET", "/readyz")[0] == 503
        reply = client.dispatch(make_object(hook_name="stamp"))
        assert reply.request.set_headers["X-Stamp"] == "done"
        assert service.wait() == 0


def test_a_handler_that_never_ends_does_not_keep_the_service(handlers: Path, tmp_path: Path) -> None:
    with ServeProcess(handlers, "--shutdown-timeout-s=0.2") as service, service.client() as client:
        call = client.future(make_object(hook_name="held"))
        while not (tmp_path / "started").exists():
            threading.Event().wait(0.005)
        assert service.end() == 0
        assert service.logged("calls were still running")["in_flight"] == 1
        assert call.exception(PATIENCE_S) is not None


def test_a_second_signal_ends_at_once(handlers: Path, tmp_path: Path) -> None:
    with ServeProcess(handlers) as service, service.client() as client:
        call = client.future(make_object(hook_name="held"))
        while not (tmp_path / "started").exists():
            threading.Event().wait(0.005)
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("stopping")
        assert service.end() == 128 + signal.SIGTERM
        assert call.exception(PATIENCE_S) is not None


def test_the_embedded_store_keeps_its_data_over_a_stop(tmp_path: Path) -> None:
    code = "from coprocess import Pre, store\n@Pre\ndef count(request):\n"
    code += '    request.headers["X-Count"] = str(store.increment("n"))\n'
    handlers = write(tmp_path / "handlers", a=code)
    for expected in ("1", "2"):
        with ServeProcess(handlers, f"--data-dir={tmp_path / 'data'}") as service, service.client() as client:
            reply = client.dispatch(make_object(hook_name="count"))
            assert reply.request.set_headers["X-Count"] == expected
            running = tmp_path / "data" / "valkey" / "valkey.pid"
            assert running.exists()
            assert service.end() == 0
            # The server takes it away itself, when it ends in good order.
            assert not running.exists()


@pytest.mark.parametrize(("flags", "expected"), [((), "everysec"), (("--store-fsync=always",), "always")])
def test_the_embedded_store_writes_as_often_as_it_is_told(
    tmp_path: Path, handlers: Path, flags: tuple[str, ...], expected: str
) -> None:
    from redis import Redis

    new_client: Any = Redis  # Through Any, as it has no annotations.
    path = tmp_path / "data" / "valkey" / "valkey.sock"
    with ServeProcess(handlers, f"--data-dir={tmp_path / 'data'}", *flags) as service:
        with new_client(unix_socket_path=str(path)) as bare:
            assert bare.config_get("appendfsync") == {"appendfsync": expected}
        assert service.end() == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("flags", "mode"), [((), 0o600), (("--unix-socket-mode=0660",), 0o660)])
def test_unix_sockets_have_their_mode_and_go_with_the_service(
    tmp_path: Path, handlers: Path, engine: EngineChoice, flags: tuple[str, ...], mode: int
) -> None:
    path = tmp_path / "s"
    with ServeProcess(handlers, f"--engine={engine}", *flags, listen=f"unix:{path}") as service:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        with Client(f"unix:{path}") as client:
            client.dispatch(make_object(hook_name="stamp"))
        assert service.end() == 0
    assert not path.exists()


def test_a_socket_that_a_dead_service_left_is_taken_over(tmp_path: Path, handlers: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with ServeProcess(handlers, listen=f"unix:{path}"), Client(f"unix:{path}") as client:
        client.dispatch(make_object(hook_name="stamp"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_socket_in_use_is_left_alone(tmp_path: Path, handlers: Path, engine: EngineChoice) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(path))
        used.listen()
        with ServeProcess(handlers, f"--engine={engine}", listen=f"unix:{path}", wait=False) as service:
            assert service.wait() == 1
            expected = f"coprocess: cannot listen on unix:{path}: Address already in use"
            assert service.lines == [{"event": expected}]
        assert path.exists()


def test_strict_ends_the_start(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", a=stamping("one"), b="broken it is")
    with ServeProcess(handlers, "--strict", wait=False) as service:
        assert service.wait() == 1
        assert service.lines[-1]["event"].startswith("coprocess: 1 problem")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:5555", "example.com:5555"])
def test_nothing_public_in_plaintext_unless_told_so(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings({"listen": [address]})
    for word in (address, "plaintext", "tls_cert", "insecure_public"):
        assert word in str(error.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/a"])
def test_local_addresses_may_be_plaintext(address: str) -> None:
    assert load_settings({"listen": [address]}).listen == [address]


def test_public_in_plaintext_when_told_so(handlers: Path) -> None:
    with ServeProcess(handlers, "--insecure-public", listen="0.0.0.0:0") as service:
        port = service.address.rpartition(":")[2]
        with Client(f"127.0.0.1:{port}") as client:
            client.dispatch(make_object(hook_name="stamp"))
