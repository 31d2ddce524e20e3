"""The `coprocess` command, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coprocess import __version__
from coprocess.config import Settings
from tests.loading import program, write
from tests.objects import RECORDINGS, make_object
from tests.server import PATIENCE_S, Client

HANDLERS = program("command_line")
GOOD = "from coprocess import Pre\n@Pre\ndef works(request): request.headers['X-Works'] = '1'\n"
BAD = "\nraise ValueError('wrong')\n"

Command = Callable[..., "Done"]


class Done:
    """A command that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.output = process.stdout
        self.errors = process.stderr

    def failed(self) -> list[str]:
        """The lines on standard error of a command that had to fail."""
        assert self.status == 1, (self.status, self.output, self.errors)
        assert not self.output, self.output
        return self.errors.splitlines()


def environment(changes: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, **(changes or {})}


@pytest.fixture
def coprocess(tmp_path: Path) -> Command:
    """Runs the command in `tmp_path` until it ends."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Done:
        return Done(
            subprocess.run(
                [sys.executable, "-m", "coprocess", *map(str, arguments)],
                cwd=tmp_path,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_S,
            )
        )

    return run


class Service:
    """`coprocess serve`, running. `log` is what it logged so far."""

    def __init__(self, arguments: tuple[str | Path, ...], folder: Path, env: dict[str, str] | None) -> None:
        command = [
            sys.executable,
            "-m",
            "coprocess",
            "serve",
            "--admin",
            "off",
            "--data-dir",
            folder / "data",
        ]
        self.log: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, arguments)],
            cwd=folder,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, event: str) -> None:
        """Until this is logged."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return
        raise AssertionError(f"it ended with {self.process.wait()}: {self.log}")

    @property
    def listening(self) -> dict[str, Any]:
        [entry] = [entry for entry in self.log if "listen" in entry]
        return entry

    @property
    def address(self) -> str:
        address: str = self.listening["listen"][0]
        return address

    def stop(self, number: int) -> int:
        """The exit status after a signal; the rest of the log is read."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        self.log += [json.loads(line) for line in errors.splitlines()]
        assert not output
        return self.process.returncode


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services in `tmp_path`; those that still run when the test ends are stopped."""
    services: list[Service] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None) -> Service:
        services.append(Service(arguments, tmp_path, env))
        services[-1].wait_for("serving")
        return services[-1]

    yield start
    for service in services:
        if service.process.poll() is None:
            # Not killed: its embedded store would run on.
            service.process.terminate()
        service.process.communicate()


# check


def test_check_lists_the_hooks(coprocess: Command) -> None:
    done = coprocess("check", "--handlers", HANDLERS)

    assert done.status == 0
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[0] == ["TYPE", "NAME", "API", "STYLE", "KIND", "SOURCE"]
    rows = {(line[0], line[1]): line[2:] for line in lines[1:]}
    source = f"{HANDLERS}/handlers.py"
    assert rows["Pre", "stamp"][:3] == ["every", "native", "sync"]
    assert rows["Pre", "stamp_async"][:3] == ["only-this", "native", "async"]
    assert rows["Post", "Old"][:3] == ["every", "embedded", "sync"]
    text = (HANDLERS / "handlers.py").read_text().splitlines()
    assert rows["CustomKeyCheck", "admit"][3] == f"{source}:{text.index('@CustomKeyCheck') + 1}"
    assert done.errors == f"{len(rows)} hooks, 0 problems\n"


def test_check_takes_the_default_folders(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "event_handlers/b.py": GOOD.replace("works", "second")})

    done = coprocess("check")

    assert (done.status, done.errors) == (0, "2 hooks, 0 problems\n")


def test_check_fails_on_a_problem_and_lists_the_rest(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/a.py": GOOD, "handlers/bad.py": BAD, "handlers/worse.py": "def f(:"})

    done = coprocess("check")

    assert done.status == 1
    assert "works" in done.output
    lines = done.errors.splitlines()
    assert f"{tmp_path}/handlers/bad.py:2: ValueError: wrong" in lines
    assert "Traceback (most recent call last):" in lines
    assert f"{tmp_path}/handlers/worse.py:1: SyntaxError: invalid syntax" in lines
    assert lines[-1] == "1 hook, 2 problems"


def test_check_fails_where_there_is_nothing(coprocess: Command) -> None:
    done = coprocess("check")

    assert done.status == 1
    assert done.errors.splitlines() == ["no handlers found", "0 hooks, 0 problems"]


def test_check_of_a_folder_that_is_missing(coprocess: Command, tmp_path: Path) -> None:
    [line] = coprocess("check", "--handlers", "nowhere").failed()

    assert line == f"coprocess: {tmp_path}/nowhere: no such folder. Expected: a folder with handler modules"


def test_check_takes_folders_from_variable_and_file(coprocess: Command, tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a/x.py": GOOD, "b/x.py": GOOD.replace("works", "of_b"), "coprocess.toml": 'handlers = ["a"]'},
    )

    assert "works" in coprocess("check").output
    by_variable = coprocess("check", env={"COPROCESS_HANDLERS": "b"}).output
    assert "of_b" in by_variable
    assert "works" not in by_variable
    assert "works" in coprocess("check", "--handlers", "a", env={"COPROCESS_HANDLERS": "b"}).output


# call


def call(coprocess: Command, *arguments: str | Path) -> Done:
    return coprocess("call", *arguments, "--handlers", HANDLERS)


def test_call_from_flags(coprocess: Command) -> None:
    done = call(
        coprocess,
        *("Pre", "stamp", "-X", "PUT", "--url", "/a", "-H", "x-given: g", "--data", "four"),
        *("--api-id", "an-api", "--config-data", '{"colour": "red"}'),
    )

    assert done.status == 0, done.errors
    assert "an-api red g" in done.output
    assert [line for line in done.output.splitlines() if line.startswith("+") and "add_params" in line]
    assert not [line for line in done.output.splitlines() if line.startswith("- ")]


def test_call_that_changes_nothing_says_so(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "idle")

    assert (done.status, done.output) == (0, "nothing changed\n")


def test_call_of_an_async_hook_of_one_api(coprocess: Command) -> None:
    assert "async" in call(coprocess, "Pre", "stamp_async", "--api-id", "only-this").output
    [line] = call(coprocess, "Pre", "stamp_async", "--api-id", "other").failed()
    assert 'Pre "stamp_async" (API "only-this" only)' in line


def test_call_of_a_response_hook(coprocess: Command) -> None:
    done = call(coprocess, "Response", "less", "--status", "201", "--response-data", "quiet")

    for line in ("201", "203", "quiet", "QUIET"):
        assert line in done.output


def test_call_of_a_hook_that_stops_the_chain(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "stops")

    assert done.status == 0
    assert "402" in done.output
    assert "Pay first" in done.output


def test_call_has_a_store(coprocess: Command, tmp_path: Path) -> None:
    done = call(coprocess, "Pre", "stores")

    assert "from the store" in done.output, done.errors
    assert not list(tmp_path.iterdir()), "it left something in the working folder"


def test_call_shows_the_events_that_are_triggered(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "triggers")

    assert (done.status, done.errors) == (0, 'event on_something: {"n": 1}\n')


def test_call_of_a_handler_that_fails_shows_its_traceback(coprocess: Command) -> None:
    lines = call(coprocess, "Pre", "fails").failed()

    assert "ValueError: the cause" in lines
    assert lines[-1] == 'coprocess: Pre hook "fails" raised ValueError'


def test_call_of_an_unknown_hook(coprocess: Command) -> None:
    [line] = call(coprocess, "Post", "stamp").failed()

    assert line.startswith('coprocess: no Post hook "stamp" for API ""; loaded, nearest first: Pre "stamp"')


@pytest.mark.parametrize("arguments", [("Pre", "idle", "-H", "no colon"), ("Prae", "idle")])
def test_call_with_wrong_arguments(coprocess: Command, arguments: tuple[str, ...]) -> None:
    [line] = call(coprocess, *arguments).failed()

    assert line.startswith("coprocess: ")
    assert "xpected" in line


def test_call_from_a_recording(coprocess: Command) -> None:
    done = call(coprocess, "CustomKeyCheck", "admit", "--recording", RECORDINGS / "auth_ok.json")

    assert done.status == 0, done.errors
    assert "session" in done.output
    assert "tok" in done.output


def test_call_from_a_recording_without_such_a_dispatch(coprocess: Command) -> None:
    path = RECORDINGS / "auth_rejected_401.json"

    [line] = call(coprocess, "Response", "less", "--recording", path).failed()

    assert line.startswith(f"coprocess: {path}: has no Response dispatch. It has: ")
    assert line.endswith("It has: Pre, CustomKeyCheck")


@pytest.mark.parametrize(
    ("content", "text"), [("{}", "not a recording"), ("]", "not a recording"), (None, "cannot be read")]
)
def test_call_from_what_is_no_recording(
    coprocess: Command, tmp_path: Path, content: str | None, text: str
) -> None:
    if content is not None:
        write(tmp_path, {"x.json": content})

    [line] = call(coprocess, "Pre", "idle", "--recording", "x.json").failed()

    assert line.startswith(f"coprocess: x.json: {text}: ")


def test_call_of_a_server_that_is_not_there(coprocess: Command, tmp_path: Path) -> None:
    [line] = call(coprocess, "Pre", "idle", "--address", f"unix:{tmp_path}/none.sock").failed()

    assert line.startswith(f"coprocess: unix:{tmp_path}/none.sock: UNAVAILABLE")


# version and help


def test_version(coprocess: Command) -> None:
    done = coprocess("version")

    versions = dict(line.split(" ", 1) for line in done.output.splitlines())
    assert versions["coprocess"] == __version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["grpcio"][0].isdigit()


def test_help_is_the_manual_of_every_setting(coprocess: Command) -> None:
    text = " ".join(coprocess("serve", "--help", env={"COLUMNS": "200"}).output.split())

    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None
        assert " ".join(field.description.split()) in text


def test_help_lists_the_commands(coprocess: Command) -> None:
    done = coprocess("--help")

    assert done.status == 0
    for name in ("serve", "check", "call", "version"):
        assert f"\n  {name} " in done.output


def test_option_that_does_not_exist(coprocess: Command) -> None:
    done = coprocess("serve", "--lissten", "x")

    assert done.status == 2
    assert "No such option: --lissten" in done.errors


# serve


def test_serve_says_where_with_what_and_which_hooks(
    serve: Callable[..., Service], coprocess: Command
) -> None:
    service = serve("--listen", "127.0.0.1:0", "--handlers", HANDLERS)

    listening = service.listening
    assert not service.address.endswith(":0")
    assert listening["engine"] in ("native", "grpcio")
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


@pytest.mark.parametrize("engine", ["native", "grpcio"])
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


@pytest.mark.parametrize("engine", ["native", "grpcio"])
def test_serve_where_the_port_is_taken(coprocess: Command, engine: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"

        [line] = coprocess("serve", "--listen", address, "--admin", "off", "--engine", engine).failed()

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
            "--listen: '5555': expected HOST:PORT or unix:/path",
        ),
        (
            (),
            {"COPROCESS_LOG_LEVEL": "loud"},
            "COPROCESS_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error' (got 'loud')",
        ),
        (("--config", "none.toml"), {}, "none.toml: cannot be read: No such file or directory"),
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
