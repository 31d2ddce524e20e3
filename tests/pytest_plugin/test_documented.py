"""The tests and commands of docs/testing.md do what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coprocess.cli.app import app
from tests.pytest_plugin.projects import run_inside

pytest_plugins = "pytester"


DOCS = Path(__file__).parents[2] / "docs" / "testing.md"


def blocks() -> list[tuple[str, str, str]]:
    """Name of the file (or empty), language and text of each block of the page."""
    pattern = re.compile(r"(?:^`([\w./-]+)`\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return pattern.findall(DOCS.read_text())


@pytest.fixture
def documented(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name, _, text in blocks():
        if name:
            path = pytester.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n')
    monkeypatch.chdir(pytester.path)
    return pytester


def test_documented_tests_pass(documented: pytest.Pytester) -> None:
    result = run_inside(documented)
    result.assert_outcomes(passed=7)


COMMANDS = [text for _, language, text in blocks() if language == "console" and "coprocess try" in text]


@pytest.mark.parametrize("number", range(2))
def test_documented_commands(documented: pytest.Pytester, number: int) -> None:
    command, *expected = COMMANDS[number].splitlines()
    result = CliRunner().invoke(app, shlex.split(command.removeprefix("$ coprocess ")))
    got = [same_time(line) for line in result.stdout.splitlines()]
    expected = [same_time(line) for line in expected]
    if expected[0] == "…":
        expected = expected[1:]
        got = got[-len(expected) :]
    assert got == expected


def same_time(line: str) -> str:
    return re.sub(r"\d+\.\d ms|Date: .*", "…", line)


def test_every_documented_command_is_run() -> None:
    assert len(COMMANDS) == 2


def test_documented_keys_of_the_json(documented: pytest.Pytester) -> None:
    table = DOCS.read_text().partition("## `coprocess try --json`")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    # The first has an event, the second a finding.
    for arguments, parts in (
        (["/orders/7"], ("hooks", "events")),
        (["/", "--api", "draft.json"], ("hooks", "findings")),
    ):
        result = CliRunner().invoke(app, ["try", "GET", *arguments, "--json"])
        content = json.loads(result.stdout)
        assert list(rows) == list(content)
        for part in parts:
            assert content[part]
            documented_keys = set(re.findall(r"`(\w+)`", rows[part]))
            assert set(content[part][0]) <= documented_keys
