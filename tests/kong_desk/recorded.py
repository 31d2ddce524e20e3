"""Recordings for the tests: the few beside them, and all others where the shared folder is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1] / "data" / "kong"
SHARED = Path(__file__).parents[3] / "shared" / "kong" / "recordings"


def files() -> list[Path]:
    found = {
        path.name: path for folder in (SHARED, HERE) if folder.is_dir() for path in folder.glob("*.json")
    }
    return [path for _, path in sorted(found.items())]


def content(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())
