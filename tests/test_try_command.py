"""`coprocess try` on the command line: its text, its options and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coprocess import Request, respond
from coprocess.cli.app import app
from coprocess.cli.try_text import TrialText
from coprocess.cli.watch import run_watched
from coprocess.desk.tyk.trial import Trial
from coprocess.errors import CoprocessError
from coprocess.gateways.tyk.wire import Object
from tests import forked
from tests.server import PATIENCE_S
from tests.trial import document, foreign_server, try_handler

# The text


def text_of(trial: Trial, *, full: bool = False, colour: bool = False) -> str:
    return "\n".join(TrialText(colour=colour, full=full).lines(trial, "simulated"))


def raising() -> None:
    raise KeyError("missing")


def test_long_output_is_folded() -> None:
    def hook(request: Request) -> None:
        for number in range(100):
            print(f"line {number}")
        request.body = "x" * 1000

    trial = try_handler(hook)
    folded, full = text_of(trial), text_of(trial, full=True)
    assert "… 88 more lines: --full" in folded
    assert "line 11" in folded
    assert "line 12" not in folded
    assert "characters: --full)" in folded
    assert "x" * 200 not in folded
    assert "line 99" in full
    assert "x" * 1000 in full
    assert "--full" not in full


def test_one_line_more_is_not_folded_away() -> None:
    def hook() -> None:
        for number in range(13):
            print(f"line {number}")

    assert "line 12" in text_of(try_handler(hook))


def test_colour_only_where_asked_for() -> None:
    trial = try_handler(raising)
    assert "\x1b[" not in text_of(trial)
    assert "\x1b[31m" in text_of(trial, colour=True)


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal(project: Path, variables: dict[str, str], coloured: bool) -> None:
    terminal, inner = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "coprocess", "try", "GET", "/api/"]
    with os.fdopen(terminal, "rb", buffering=0) as output:
        process = forked.Process(
            command, cwd=project, stdout=inner, env={**environment, "TERM": "xterm", **variables}
        )
        os.close(inner)
        text = b""
        # At its end, a terminal is not empty but broken (Linux), or both (macOS).
        with contextlib.suppress(OSError):
            while part := output.read(65536):
                text += part
        assert process.wait(PATIENCE_S) == 0
    assert b"client gets" in text
    assert (b"\x1b[" in text) is coloured


def test_control_characters_of_a_body_do_not_reach_the_terminal() -> None:
    text = text_of(try_handler(lambda: None, upstream=respond(200, "\x1b[31mred\tx")))
    assert "\x1b" not in text
    assert "\\x1b[31mred\tx" in text


# The command


HANDLERS = """
from coprocess import CustomKeyCheck, Pre, Reject, Request, Session, store

@Pre
def stamp(request: Request) -> None:
    print("stamping")
    request.headers["X-Stamp"] = str(store.increment("seen"))

@Pre
def broken() -> None:
    raise RuntimeError("broken on purpose")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COPROCESS_HANDLERS", raising=False)
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "shop.py").write_text(HANDLERS)
    (tmp_path / "api.json").write_text(json.dumps(document(name="stamp")))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["try", *arguments])


def test_command_in_a_project(project: Path) -> None:
    result = run("POST", "/api/a", "-H", "X-B: é", "-d", '{"a":1}')
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "POST /api/a  at API API"
    assert "     | stamping" in lines
    assert "     + request.set_headers.X-Stamp: 1" in lines
    assert "     X-Stamp: 1" in lines
    assert '     {"a":1}' in lines
    assert any(line.startswith("client gets 200 OK") for line in lines)
    assert any(line.endswith("handlers/shop.py:4") for line in lines)
    assert "\x1b" not in result.stdout


def test_command_as_json(project: Path) -> None:
    (project / "handlers" / "noise.py").write_text("print('loading')\n")
    result = run("GET", "/api/a", "--json", "--upstream", "404", "--upstream-body", "gone")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert list(content) == [
        "ok",
        "ms",
        "request",
        "definition",
        "not_loaded",
        "hooks",
        "events",
        "upstream",
        "response",
        "dropped",
        "failure",
        "findings",
    ]
    assert content["definition"] == {"name": "API", "api_id": "api", "file": "api.json"}
    assert content["hooks"][0]["changes"] == {"request.set_headers": {"X-Stamp": "1"}}
    assert content["hooks"][0]["output"] == ["stamping"]
    assert content["upstream"]["request"]["url"] == "/a"
    assert content["response"]["status"] == 404
    assert content["response"]["body"] == "gone"


def test_command_fails_where_a_hook_does(project: Path) -> None:
    (project / "api.json").write_text(json.dumps(document(name="broken")))
    result = run("GET", "/api/")
    assert result.exit_code == 1
    assert "It raised RuntimeError: broken on purpose (at handlers/shop.py:11)." in result.stdout


def test_command_fails_where_the_client_gets_5xx(project: Path) -> None:
    assert run("GET", "/api/", "--upstream", "503").exit_code == 1
    assert run("GET", "/api/", "--upstream", "404").exit_code == 0


def test_command_tells_of_handlers_that_do_not_load(project: Path) -> None:
    (project / "handlers" / "half.py").write_text("def (\n")
    result = run("GET", "/api/", "--json")
    assert "half.py:1: SyntaxError" in result.stderr
    assert "half.py:1: SyntaxError" in json.loads(result.stdout)["not_loaded"][0]


def test_command_without_definition(project: Path) -> None:
    (project / "api.json").unlink()
    result = run("GET", "/anything", "--json")
    assert [hook["name"] for hook in json.loads(result.stdout)["hooks"]] == ["stamp", "broken"]


def test_command_takes_a_pasted_url_and_a_body_file(project: Path) -> None:
    (project / "body.bin").write_bytes(b"\xff\xfe")
    result = run("PUT", "http://shop.test:8080/api/a?b=c", "-d", "@body.bin", "--json")
    content = json.loads(result.stdout)
    assert content["request"]["target"] == "/api/a?b=c"
    assert content["upstream"]["request"]["body"] is None
    assert content["upstream"]["request"]["body_base64"] == "//4="


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["GET", "api/"], "begins with a slash"),
        (["GET", "/api/", "-H", "nonsense"], "expected NAME: VALUE"),
        (["GET", "/api/", "-d", "@missing"], "--data @missing: cannot be read"),
        (["GET", "/api/", "--upstream", "elsewhere"], "not an http URL"),
        (["GET", "/api/", "--upstream", "42"], "expected a URL, or a status"),
        (["GET", "/api/", "--upstream", "http://a.test", "--upstream-body", "x"], "simulated upstream"),
        (["GET", "/api/", "--address", "nowhere"], "--address"),
        (["GET", "/api/", "--api", "missing.json"], "missing.json: cannot be read"),
        (["GET", "/api/%zz"], "no gateway takes this request"),
    ],
)
def test_command_refuses(project: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, CoprocessError), result.output
    assert message in str(result.exception)


def test_command_asks_which_definition(project: Path) -> None:
    (project / "api.json").unlink()
    (project / "apis").mkdir()
    for name in ("one", "two"):
        (project / "apis" / f"{name}.json").write_text("{}")
    result = run("GET", "/")
    assert "name one of one.json, two.json, with --api" in str(result.exception)


def test_command_over_grpc(project: Path) -> None:
    def reply(message: Object) -> bytes:
        message.request.set_headers["X-From"] = "afar"
        return message.SerializeToString()

    with foreign_server(reply) as address:
        result = run("GET", "/api/", "--address", address, "--json")
    [hook] = json.loads(result.stdout)["hooks"]
    assert hook["changes"] == {"request.set_headers": {"X-From": "afar"}}
    assert hook["source"] is None


def test_watch_runs_again(project: Path) -> None:
    command = [sys.executable, "-m", "coprocess", "try", "GET", "/api/", "--watch"]
    environment = {**os.environ, "NO_COLOR": "1"}
    with (project / "output").open("w") as output:
        process = forked.Process(command, cwd=project, stdout=output, stderr=output, env=environment)
        try:
            await_text(project / "output", "watching")
            (project / "handlers" / "shop.py").write_text(HANDLERS.replace("stamping", "changed this"))
            await_text(project / "output", "| changed this")
            (project / "api.json").write_text("{")
            await_text(project / "output", "not JSON")
            (project / "api.json").write_text(json.dumps(document(name="broken")))
            await_text(project / "output", "broken on purpose")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                status = process.wait(PATIENCE_S)
            finally:
                process.kill()
    assert status == 1  # Of the last run.


def test_a_change_while_the_first_run_is_under_way_is_seen(tmp_path: Path) -> None:
    runs: list[None] = []

    def run() -> bool:
        runs.append(None)
        if len(runs) == 2:
            raise KeyboardInterrupt
        (tmp_path / "a.py").write_text("")
        return True

    assert run_watched(run, folders=[tmp_path], files=[], rule=False)
    assert len(runs) == 2


def await_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + 2 * PATIENCE_S
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.02)
