"""What wheels have compiled: `make test-compiled` runs the tests on it, and these need no compiler."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.build import get_requires_for_build_wheel
from packaging.requirements import Requirement

from coprocess import __version__
from coprocess.transport.engines import is_compiled
from hatch_build import COMPILED

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for pattern in COMPILED for path in ROOT.glob(pattern))


@pytest.mark.parametrize("pattern", COMPILED)
def test_what_is_to_be_compiled_is_there(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


def test_the_compilers_are_asked_for_with_the_versions_that_the_project_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("COMPILE_COPROCESS", raising=False)
    assert get_requires_for_build_wheel() == []
    monkeypatch.setenv("COMPILE_COPROCESS", "1")
    needed = [Requirement(each) for each in get_requires_for_build_wheel()]
    assert [each.name for each in needed] == ["mypy", "setuptools", "hpack", "structlog"]
    assert all(each.specifier for each in needed)


def test_what_compiles_within_the_image_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COMPILE_COPROCESS", "1")
    text = (ROOT / "requirements/build.txt").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+) ", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for needed in map(Requirement, [*project["build-system"]["requires"], *get_requires_for_build_wheel()]):
        assert needed.specifier.contains(locked[needed.name]), needed


@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_nothing_is_called_twice_within_a_slice(path: Path) -> None:
    """Once, compiled, all that went out over TLS went out twice: mypyc 2.4 makes a slice's bounds again."""
    found = [
        ast.unparse(each)
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.Slice)
        for call in ast.walk(each)
        # `len` may be called as often as one likes.
        if isinstance(call, ast.Call) and ast.unparse(call.func) != "len"
    ]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=[path.stem for path in SOURCES])
def test_nothing_is_raised_from_a_cause(path: Path) -> None:
    """Once, compiled, the log had no traceback of a handler: mypyc 2.4 drops the cause."""
    found = [
        ast.unparse(each)
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.Raise) and each.cause is not None
    ]
    assert not found


def test_the_version_says_whether_the_engine_is_compiled() -> None:
    words = [sys.executable, "-m", "coprocess", "--version"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[:2] == [
        f"coprocess {__version__}",
        f"engine http2, {'compiled' if is_compiled() else 'in Python'}",
    ]
