"""Recordings of a real Kong: the few beside the tests, and the others where the shared folder is there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1] / "data" / "kong"
SHARED = Path(__file__).parents[3] / "shared" / "kong" / "recordings"


def recording(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def recordings() -> Iterator[Any]:
    """All cases that have frames, each once."""
    paths = {
        path.name: path for folder in (SHARED, HERE) if folder.is_dir() for path in folder.glob("*.json")
    }
    for _, path in sorted(paths.items()):
        case = json.loads(path.read_text())
        if isinstance(case, dict) and case.get("frames"):
            yield case


def raw_frames(case: Any) -> Iterator[tuple[str, bytes]]:
    """Direction and bytes of the frames that were not cut."""
    for frame in case["frames"]:
        if isinstance(frame.get("raw"), str):
            yield frame["dir"], base64.b64decode(frame["raw"])
