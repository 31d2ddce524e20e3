"""A module that does not load takes what it would have put around handlers with it: they are not served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Load
from tests.loading import write

HANDLER = "from coprocess import Pre\n@Pre\ndef open_door(request): pass\n"
APP = "from coprocess import App\napp = App()\n"
CHECKS = "from app import app\n@app.before\ndef check(request): pass\n"
BROKEN = "import a_library_that_is_not_there\n"


@pytest.mark.parametrize(
    "files",
    [
        {"app.py": BROKEN + APP},
        {"app.py": APP + "def ("},
        {"app.py": APP, "checks.py": CHECKS + BROKEN},
        {"app.py": APP, "checks.py": BROKEN + CHECKS},
        {"app.py": APP, "checks/__init__.py": BROKEN, "checks/all.py": CHECKS},
    ],
)
def test_handlers_without_what_runs_before_them_are_not_served(
    load: Load, tmp_path: Path, files: dict[str, str]
) -> None:
    loaded = load(write(tmp_path / "handlers", {**files, "handler.py": HANDLER}))

    assert [hook.name for hook in loaded.table] == []
    assert "its handlers cannot be taken, as " in str(loaded.problems[-1])
    assert "did not load, and may declare what runs around them" in str(loaded.problems[-1])


@pytest.mark.parametrize(
    "files",
    [
        {"other.py": BROKEN},
        {"other.py": BROKEN + "import boto3\n@boto3.before\ndef f(): pass\n"},
        {"app.py": APP, "other.py": BROKEN},
    ],
)
def test_a_module_that_declares_nothing_around_them_costs_them_nothing(
    load: Load, tmp_path: Path, files: dict[str, str]
) -> None:
    loaded = load(write(tmp_path / "handlers", {**files, "handler.py": HANDLER}))

    assert [hook.name for hook in loaded.table] == ["open_door"]
    assert len(loaded.problems) == 1
