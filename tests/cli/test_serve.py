"""`coprocess serve`."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.commands import BAD, GOOD, HANDLERS, Command, Service, call
from tests.loading import program, write
from tests.objects import make_object
from tests.server import PATIENCE_S, Client


def test_serve_says_where_with_what_and_which_hooks(
    serve: Callable[..., Service], coprocess: Command
) -> None:
    service = serve("--listen", "127.0.0.1:0", "--handlers", HANDLERS, real_start=True)

    listening = service.listening
    assert not service.address.endswith(":0")
    assert listening["engine"] == "http2"
    assert listening["store"].startswith("embedded Valkey")
    hooks = {(entry["type"], entry["name"]): entry for entry in service.log if entry["event"] == "hook"}
    assert hooks["Pre", "stamp"]["source"].startswith(f"{HANDLERS}/handlers.py:")
    assert hooks["Pre", "stamp"]["style"] == "native"
    assert ("Response", "less") in hooks

    done = call(coprocess, "Pre", "stamp", "--api-id", "over-grpc", "--address", service.address)
    assert "over-grpc None None" in done.output, done.errors
    [line] = call(coprocess, "Pre", "fails", "--address", service.address).failed()
    assert line == f'coprocess: {service.address}: INTERNAL: Pre hook "fails" raised ValueError'

    assert service.stop(signal.SIGTERM) == 0
    [failure] = [entry for entry in service.log if "exception" in entry]
    assert "ValueError: the cause" in failure["exception"]
    assert service.log[-1]["event"] == "stopped"


def test_serve_ends_on_ctrl_c(serve: Callable[..., Service]) -> None:
    assert serve("--listen", "127.0.0.1:0", "--handlers", HANDLERS).stop(signal.SIGINT) == 0


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_serve_finishes_what_is_in_flight(serve: Callable[..., Service], engine: str) -> None:
    service = serve("--listen", "127.0.0.1:0", "--handlers", HANDLERS, "--engine", engine)
    assert service.listening["engine"] == engine
    with Client(service.address) as client, ThreadPoolExecutor(1) as pool:
        slow = client.future(make_object(hook_name="slow"))
        service.wait_for("slow has begun")
        stopped = pool.submit(service.stop, signal.SIGTERM)

        assert b"X-Slow" in slow.result(timeout=PATIENCE_S)
        assert stopped.result(timeout=PATIENCE_S) == 0


def test_serve_on_several_addresses_from_the_variable(serve: Callable[..., Service], tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    service = serve("--handlers", HANDLERS, env={"COPROCESS_LISTEN": f"unix://{path},127.0.0.1:0"})

    assert service.address == f"unix:{path}"
    for address in service.listening["listen"]:
        with Client(address) as client:
            reply = client.dispatch(make_object(hook_name="stamp", api_id="an-api"))
            assert reply.request.set_headers["X-Stamp"].startswith("an-api ")
    assert service.stop(signal.SIGTERM) == 0
    assert not path.exists()


def test_serve_takes_the_place_of_a_dead_socket(serve: Callable[..., Service], tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    service = serve("--listen", f"unix:{path}", "--handlers", HANDLERS)

    with Client(f"unix:{path}") as client:
        client.dispatch(make_object(hook_name="idle"))
    assert service.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("engine", ["http2", "grpcio"])
def test_serve_where_the_port_is_taken(coprocess: Command, engine: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"

        # A real start: gRPC is told to be silent before it is imported.
        words = ("serve", "--listen", address, "--admin", "off", "--engine", engine)
        [line] = coprocess(*words, real_start=True).failed()

    assert line.startswith(f"coprocess: cannot listen on {address}: ")
    assert "in use" in line


def test_serve_where_the_socket_is_taken(coprocess: Command, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        [line] = coprocess("serve", "--listen", f"unix:{path}", "--admin", "off").failed()

    assert line.startswith(f"coprocess: cannot listen on unix:{path}: ")


@pytest.mark.parametrize(
    ("arguments", "env", "line"),
    [
        (
            ("--listen", "5555"),
            {},
            "--listen: '5555': no port; expected HOST:PORT or unix:/path",
        ),
        (
            (),
            {"COPROCESS_LOG_LEVEL": "loud"},
            "COPROCESS_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error' (got 'loud')",
        ),
        (("--config", "none.toml"), {}, "none.toml: cannot be read: No such file or directory"),
        (
            ("--worker-fd", "999"),
            {},
            "--worker-fd 999: Bad file descriptor. It is what a front process tells its workers. "
            "Expected: --workers N",
        ),
    ],
)
def test_serve_with_a_bad_setting(
    coprocess: Command, arguments: tuple[str, ...], env: dict[str, str], line: str
) -> None:
    assert coprocess("serve", *arguments, env=env).failed() == [f"coprocess: {line}"]


def test_serve_with_a_bad_store_shows_no_password(coprocess: Command) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--admin", "off", "--redis", "http://:geheim@host/0")

    lines = coprocess("serve", *arguments).failed()

    assert len(lines) == 1
    assert lines[0].startswith("coprocess: ")
    assert "geheim" not in lines[0]


def test_serve_without_strict_serves_what_is_good(serve: Callable[..., Service], tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "handlers/bad.py": BAD})

    service = serve("--listen", "127.0.0.1:0")

    [problem] = [entry for entry in service.log if entry["level"] == "error"]
    assert problem["problem"] == f"{tmp_path}/handlers/bad.py:2: ValueError: wrong"
    assert "Traceback" in problem["traceback"]
    with Client(service.address) as client:
        reply = client.dispatch(make_object(hook_name="works"))
    assert dict(reply.request.set_headers) == {"X-Works": "1"}


def test_strict_refuses_to_start(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "handlers/bad.py": BAD})

    lines = coprocess(
        "serve", "--strict", "--listen", "127.0.0.1:0", "--admin", "off", "--data-dir", tmp_path / "data"
    ).failed()

    assert f"{tmp_path}/handlers/bad.py:2: ValueError: wrong" in [
        json.loads(line).get("problem") for line in lines[:-1]
    ]
    assert lines[-1].startswith("coprocess: 1 problem")


def test_serve_logs_what_handlers_print(serve: Callable[..., Service]) -> None:
    service = serve("--listen", "127.0.0.1:0", "--handlers", program("logging"))
    with Client(service.address) as client:
        client.dispatch(make_object(hook_name="prints", api_id="an-api"))

    assert service.stop(signal.SIGTERM) == 0
    [entry] = [entry for entry in service.log if entry["event"] == "one-2!"]
    assert (entry["hook"], entry["hook_type"], entry["api_id"]) == ("prints", "Pre", "an-api")


def test_serve_logs_text_when_told_to(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/bad.py": BAD})

    done = coprocess(
        *("serve", "--strict", "--listen", "127.0.0.1:0", "--admin", "off"),
        *("--data-dir", tmp_path / "data", "--log-format", "text"),
    )

    assert f"{tmp_path}/handlers/bad.py:2: ValueError: wrong" in done.errors
    assert not [line for line in done.errors.splitlines() if line.startswith("{")]
