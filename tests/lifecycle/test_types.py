"""Handlers with an App pass mypy strict, which is what a new project's `make types` asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODULE = """
from collections.abc import AsyncIterator

from coprocess import App, Event, Post, Pre, Reply, Request, Response, State, respond

app = App()

@app.resource
async def db() -> AsyncIterator[dict[str, str]]:
    yield {}

@app.before
def always(state: State) -> None:
    state.n = 1

@app.before(Pre, Post, Event)
def count(state: State) -> None:
    state.n += 1

@app.after(Response)
async def stamp(response: Response) -> None:
    response.headers["X-A"] = "1"

@app.teardown
def end(error: Exception | None) -> None: ...

@app.errorhandler(KeyError)
def missing(error: KeyError) -> Reply:
    return respond(404)

@Pre
async def first(request: Request, db: dict[str, str], state: State) -> None:
    request.headers["X-N"] = str(state.n)

always(State())
"""


def test_code_around_handlers_keeps_its_types(tmp_path: Path) -> None:
    """`before`, `after` and `teardown` made functions untyped, which mypy strict refuses."""
    path = tmp_path / "orders.py"

    def complaints(module: str) -> str:
        path.write_text(module)
        words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(path)]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False).stdout

    assert complaints(MODULE).startswith("Success")
    assert 'incompatible type "int"' in complaints(MODULE + "always(1)\n")
    assert "No overload variant" in complaints(MODULE + 'app.before("Pre")\n')
