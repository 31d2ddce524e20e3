"""`coprocess envoy try` and `coprocess new --gateway envoy`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coprocess import scaffold
from coprocess.cli.app import app
from coprocess.cli.attempt import Asked
from coprocess.cli.envoy_try import _Attempt
from tests import forked

HANDLERS = """
from coprocess import Pre, Response

@Pre
def shout(request):
    print("shouting")
    request.headers["X-Shout"] = request.text.upper()
    if request.path == "/broken":
        raise RuntimeError("no voice")

@Response
def tidy(response):
    response.headers["X-Tidy"] = "1"
"""
COPROCESS = str(Path(sys.executable).with_name("coprocess"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/shout.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["envoy", "try", *arguments])


def test_each_message_is_shown(project: Path) -> None:
    result = run("POST", "/say", "-d", "hello", "--upstream", "201")

    text = " ".join(result.stdout.split())
    assert result.exit_code == 0, result.output
    for part in (
        'Pre "shout"',
        "| shouting",
        "→ request headers (6 headers)",
        "asks for the request's body: BUFFERED",
        "→ request body (5 bytes, the end)",
        "+ x-shout: HELLO",
        "upstream POST /say",
        "client gets 201 Created",
        "x-tidy: 1",
    ):
        assert part in text


def test_a_failure_shows_where(project: Path) -> None:
    result = run("GET", "/broken")

    assert result.exit_code == 1
    assert "RuntimeError: no voice" in result.stdout
    assert "client gets 500" in result.stdout
    assert "upstream  was not asked" in result.stdout
    assert '✗ Pre "shout"  handlers/' in result.stdout
    assert "It raised RuntimeError: no voice" in result.stdout


def test_json(project: Path) -> None:
    content = json.loads(run("GET", "/a", "--json").stdout)

    assert content["ok"] is True
    assert [hook["name"] for hook in content["hooks"]] == ["shout", "tidy"]
    assert content["hooks"][0]["output"] == ["shouting"]
    assert [next(iter(message)) for message in content["calls"][0]["sent"]] == [
        "request_headers",
        "response_headers",
    ]
    assert content["http_response"]["status"] == 200


def test_a_file_that_is_not_simulated(project: Path) -> None:
    printed = CliRunner().invoke(app, ["envoy", "config", "--form", "static"]).stdout
    (project / "envoy.yaml").write_text(printed.replace("message_timeout", "message_timeouts"))

    result = run("GET", "/")

    assert result.exit_code == 1
    assert "message_timeouts: the simulated Envoy does not know this field" in str(result.exception)


def test_watch_sees_the_file_that_is_taken_where_none_is_named(project: Path) -> None:
    def watched(**given: Any) -> list[Path]:
        options = {"chain": "", "authz": False, "envoy": None, "handlers": None, "config": None, **given}
        asked = Asked.of("GET", "/", None, None, None, None)
        return list(_Attempt(asked, False, False, **options).watched()[1])

    assert watched() == []
    (project / "envoy.yaml").write_text("")
    assert watched() == [Path("envoy.yaml")]
    assert watched(chain="x") == []
    assert watched(envoy=Path("other.yaml")) == [Path("other.yaml")]


def test_chain_and_file_do_not_go_together(project: Path) -> None:
    result = run("GET", "/", "--envoy", "envoy.yaml", "--chain", "x")

    assert "--envoy says which handlers run" in str(result.exception)


def test_a_new_project_for_envoy_works_at_once(tmp_path: Path) -> None:
    forked.run([COPROCESS, "new", "demo", "--gateway", "envoy"], cwd=tmp_path, check=True)
    folder = tmp_path / "demo"
    for command in (
        (COPROCESS, "envoy", "doctor"),
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
    ):
        done = forked.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_of_another_gateway_is_left(tmp_path: Path) -> None:
    for path in scaffold.create("demo", tmp_path, "envoy"):
        text = path.read_text().lower()
        assert "@@" not in text
        assert "tyk" not in text, path


EVENTS = """
from coprocess import Event, Pre, Reject, trigger_event

@Pre
def guard(request):
    trigger_event("told", '{"a": 1}')
    trigger_event("breaks", "{}")

@Event
def told(event):
    print("heard", event.type)

@Event
def breaks(event):
    raise RuntimeError("not heard")
"""


def test_a_failure_is_not_within_the_json(project: Path) -> None:
    """Once, its log entry stood before it."""
    content = json.loads(run("GET", "/broken", "--json").stdout)
    assert content["hooks"][0]["error"] == 'Pre hook "shout" raised RuntimeError'


def test_events_that_handlers_fire_are_shown(project: Path) -> None:
    """Once, what their handlers printed and raised was nowhere to be seen."""
    (project / "handlers/shout.py").write_text(EVENTS)
    result = run("GET", "/a")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 1
    for part in (
        "event → told",
        "| heard told",
        "event → breaks",
        "RuntimeError: not heard",
        "client gets 200",
    ):
        assert part in text

    content = json.loads(run("GET", "/a", "--json").stdout)
    assert sorted(run["name"] for run in content["events"]) == ["breaks", "told"]
