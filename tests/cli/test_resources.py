"""Resources are open in `try` and `call`, as in a service."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import Command
from tests.lifecycle.desk_program import PROGRAM
from tests.loading import write


def test_call_and_try_open_resources(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/limits.py": PROGRAM, "coprocess.toml": '[app]\nurl = "x"\n'})

    assert "db of x" in coprocess("call", "Pre", "stamp").output
    assert "client of db of x" in coprocess("call", "Post", "late").output
    assert "client of db of x" in coprocess("try", "GET", "/").output
