"""`coprocess new`: what it makes works at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import coprocess
from coprocess import scaffold
from coprocess.errors import ConfigError

ROOT = Path(__file__).parents[1]
COPROCESS = str(Path(sys.executable).with_name("coprocess"))


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COPROCESS_")}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    done = run(COPROCESS, "new", "demo-api", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "demo-api"


def test_its_tests_pass(project: Path) -> None:
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=project)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_tests_can_fail(project: Path) -> None:
    handler = project / "handlers" / "headers.py"
    handler.write_text(handler.read_text().replace("X-Caller", "X-Callr"))

    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=project)

    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout


def test_the_doctor_finds_nothing(project: Path) -> None:
    done = run(COPROCESS, "doctor", cwd=project)

    assert done.returncode == 0
    assert done.stdout == ""
    assert "1 definition, 0 bundles, 3 handlers examined: 0 errors, 0 warnings, 0 notes" in done.stderr


def test_its_code_is_tidy_and_typed(project: Path) -> None:
    ruff = run(sys.executable, "-m", "ruff", "check", "--isolated", ".", cwd=project)
    assert ruff.returncode == 0, ruff.stdout

    mypy = run(sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), cwd=project)
    assert mypy.returncode == 0, mypy.stdout


def test_its_makefile_names_what_it_was_made_by(project: Path) -> None:
    makefile = (project / "Makefile").read_text()

    assert f"COPROCESS ?= {scaffold.installed_from()}\n" in makefile
    assert f"COPROCESS_VERSION ?= {coprocess.__version__}\n" in makefile
    # A checkout is installed from its folder, else name and version.
    for given, expected in (
        (str(ROOT), f"{ROOT}[native]"),
        ("coprocess", f"coprocess[native]=={coprocess.__version__}"),
    ):
        options = ("--dry-run", "--always-make", f"COPROCESS={given}", f"PYTHON={sys.executable}")
        done = run("make", *options, "test", cwd=project)
        assert f'"{expected}" pytest\n' in done.stdout


def test_nothing_is_left_to_fill_in(project: Path) -> None:
    texts = {path: path.read_text() for path in project.rglob("*") if path.is_file()}

    assert {"Makefile", "Dockerfile", "compose.yaml", ".gitignore", "test.yml", "demo-api.json"} <= {
        path.name for path in texts
    }
    assert [path for path, text in texts.items() if "@@" in text or path.suffix == ".tmpl"] == []
    tomllib.loads(texts[project / "pyproject.toml"])
    tomllib.loads(texts[project / "coprocess.toml"])


@pytest.mark.parametrize("name", ["", "1x", "a b", "../x", "a/b", "x-", "a--b", "-x", "é", "x" * 51, "a.b"])
def test_names_that_would_not_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        scaffold.create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Makefile").write_text("x")

    done = run(COPROCESS, "new", "mine", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == "coprocess: mine: is there already, and stays as it is\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["Makefile"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    assert scaffold.create("mine", tmp_path)


@pytest.mark.skipif("RUN_SLOW" not in os.environ, reason="makes a virtual environment: make test-slow")
@pytest.mark.timeout(600)
def test_make_test_works_the_first_time(tmp_path: Path) -> None:
    """With a virtual environment of its own, and packages from the index."""
    assert run(COPROCESS, "new", "fresh", cwd=tmp_path).returncode == 0

    done = run("make", f"COPROCESS={ROOT}", f"PYTHON={sys.executable}", "test", cwd=tmp_path / "fresh")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
