"""`coprocess replay`: finds the files, prints the differences, counts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coprocess.cli.app import app
from coprocess.errors import ConfigError
from tests.objects import APIS, RECORDINGS


def run(*arguments: str | Path, apis: Path = APIS) -> Result:
    return CliRunner().invoke(app, ["replay", "--apis", str(apis), *map(str, arguments)])


def falsified(folder: Path, name: str, **changes: Any) -> Path:
    content = json.loads((RECORDINGS / f"{name}.json").read_text())
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_all_recordings() -> None:
    result = run(RECORDINGS)
    number = len(list(RECORDINGS.glob("*.json")))
    assert result.stdout == f"{number} recordings replayed, 0 differences\n"
    assert result.exit_code == 0


def test_one_file_and_the_same_again() -> None:
    result = run(RECORDINGS / "add_params.json", RECORDINGS / "add_params.json")
    assert result.stdout == "1 recording replayed, 0 differences\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("first", [0, 1])
def test_order_is_that_of_follows(first: int) -> None:
    later = next(
        path for path in sorted(RECORDINGS.glob("*.json")) if json.loads(path.read_text())["follows"]
    )
    chain = [later]
    while (before := json.loads(chain[0].read_text())["follows"]) is not None:
        chain.insert(0, RECORDINGS / f"{before}.json")
    result = run(*(chain if first else reversed(chain)))
    assert result.exit_code == 0, result.stdout
    assert result.stdout.startswith(f"{len(chain)} recordings replayed, 0")


def test_falsified_recording(tmp_path: Path) -> None:
    path = falsified(tmp_path, "add_params", http_response={"status": 201, "headers": [], "body": ""})
    result = run(path)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert "add_params: http response: status: expected 201, got 200" in lines
    assert lines[-1] == f"1 recording replayed, {len(lines) - 1} differences"


def test_one_difference_is_one(tmp_path: Path) -> None:
    reply = json.loads((RECORDINGS / "add_params.json").read_text())["upstream_request"]
    path = falsified(tmp_path, "add_params", upstream_request=reply | {"method": "PUT"})
    assert run(path).stdout.splitlines() == [
        "add_params: upstream request: method: expected 'PUT', got 'GET'",
        "1 recording replayed, 1 difference",
    ]


def test_file_that_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "x.json: not a recording" in result.stdout


def test_recording_whose_forerunner_is_missing(tmp_path: Path) -> None:
    path = falsified(tmp_path, "add_params", follows="another")
    result = run(path)
    assert result.exit_code == 1
    assert "follows another, which is missing" in result.stdout


def test_definition_that_is_missing(tmp_path: Path) -> None:
    result = run(RECORDINGS / "add_params.json", apis=tmp_path)
    assert result.exit_code == 1
    assert "cannot be read" in result.stdout


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    for result, text in (
        (run(tmp_path / "missing.json"), "no such file or folder"),
        (run(tmp_path), "no recordings"),
        (run(RECORDINGS, apis=tmp_path / "missing"), "no such folder"),
    ):
        assert isinstance(result.exception, ConfigError)
        assert text in str(result.exception)
