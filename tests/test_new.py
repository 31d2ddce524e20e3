"""`coprocess new`: what it makes works at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import coprocess
from coprocess import scaffold
from coprocess.errors import ConfigError
from tests import forked
from tests.images import assert_listens_where_it_says_and_reaps
from tests.loading import write

ROOT = Path(__file__).parents[1]
#: The cache of `make types` saves most of the time, where what it goes by is alike.
MYPY = ("mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "--warn-unreachable", "--python-version", "3.11")
COPROCESS = str(Path(sys.executable).with_name("coprocess"))


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COPROCESS_")}
    environment |= variables
    return forked.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    scaffold.create("demo-api", tmp_path)
    return tmp_path / "demo-api"


def test_its_tests_pass(tmp_path: Path) -> None:
    made = run(COPROCESS, "new", "demo-api", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path / "demo-api")

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
    for command in (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        MYPY,
    ):
        done = run(sys.executable, "-m", *command, cwd=project)
        assert done.returncode == 0, done.stdout


def test_the_code_of_a_project_with_a_long_name_is_tidy_too(tmp_path: Path) -> None:
    scaffold.create("x" * 50, tmp_path)

    for command in (("check",), ("format", "--check")):
        done = run(sys.executable, "-m", "ruff", *command, ".", cwd=tmp_path / ("x" * 50))
        assert done.returncode == 0, done.stdout


def test_its_makefile_names_what_it_was_made_by(project: Path) -> None:
    makefile = (project / "Makefile").read_text()

    assert f"COPROCESS ?= {scaffold.installed_from()}\n" in makefile
    assert f"COPROCESS_VERSION ?= {coprocess.__version__}\n" in makefile


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (str(ROOT), f"{ROOT}"),
        ("/x/coprocess-1-py3-none-any.whl", "/x/coprocess-1-py3-none-any.whl"),
        ("git+https://host.test/c@1", "coprocess @ git+https://host.test/c@1"),
        ("coprocess", f"coprocess=={coprocess.__version__}"),
    ],
)
def test_its_makefile_installs_from_wherever_coprocess_comes(
    given: str, expected: str, project: Path
) -> None:
    options = ("--dry-run", "--always-make", f"COPROCESS={given}", f"PYTHON={sys.executable}")

    assert f'"{expected}" -r requirements.txt ' in run("make", *options, "test", cwd=project).stdout
    up = run("make", *options, "up", cwd=project).stdout
    assert f'wheel --quiet --no-deps --wheel-dir wheels "{given}"' in up


@pytest.mark.parametrize(
    ("origin", "expected", "elsewhere"),
    [
        (None, "coprocess", "coprocess"),
        ({"url": f"{ROOT.as_uri()}", "dir_info": {}}, str(ROOT), "coprocess"),
        (
            {"url": f"{(ROOT / 'pyproject.toml').as_uri()}", "archive_info": {}},
            f"{ROOT}/pyproject.toml",
            "coprocess",
        ),
        ({"url": "file:///gone/x.whl", "archive_info": {}}, "coprocess", "coprocess"),
        ({"url": "https://host.test/c.whl", "archive_info": {}}, *["https://host.test/c.whl"] * 2),
        (
            {"url": "https://host.test/c", "vcs_info": {"vcs": "git", "commit_id": "1a"}},
            *["git+https://host.test/c@1a"] * 2,
        ),
    ],
)
def test_where_coprocess_comes_from(
    origin: dict[str, Any] | None,
    expected: str,
    elsewhere: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As pip notes it beside an installed package."""
    files = {"METADATA": "Metadata-Version: 2.1\nName: coprocess\nVersion: 1\n"}
    if origin is not None:
        files["direct_url.json"] = json.dumps(origin)
    write(tmp_path / "coprocess-1.dist-info", files)
    monkeypatch.syspath_prepend(tmp_path)

    assert scaffold.installed_from() == expected
    assert scaffold.public_source() == elsewhere


def test_its_own_dependencies_are_one_file_that_make_and_the_image_install(project: Path) -> None:
    makefile, image = (project / "Makefile").read_text(), (project / "Dockerfile").read_text()

    assert "$(READY): Makefile requirements.txt " in makefile
    assert "-r requirements.txt" in makefile
    assert re.search(r"^COPY requirements.txt .*^RUN pip install .*-r requirements.txt", image, re.M | re.S)


def test_its_make_and_its_ci_check_lint_and_types(project: Path) -> None:
    done = run("make", "--dry-run", "check", f"PYTHON={sys.executable}", cwd=project)

    for tool in ("ruff check .", "ruff format --check .", "mypy", "coprocess doctor"):
        assert tool in done.stdout
    assert "make check test" in (project / ".github/workflows/test.yml").read_text()


def test_its_image_listens_where_it_says_and_reaps_its_children(project: Path) -> None:
    image = (project / "Dockerfile").read_text()

    assert_listens_where_it_says_and_reaps(image)
    # The network reaches the port in the image alone: `make run` stays on loopback.
    assert 'listen = ["127.0.0.1:5555"]' in (project / "coprocess.toml").read_text()


def test_the_doctor_of_a_project_for_envoy_finds_nothing(tmp_path: Path) -> None:
    scaffold.create("shop", tmp_path, "envoy")
    folder = tmp_path / "shop"
    done = run("make", "--dry-run", "doctor", f"PYTHON={sys.executable}", cwd=folder)
    # Without what sets up its environment, and what make says where another one runs the tests.
    [[environment, command]] = re.findall(r"^(.+) \.venv/bin/coprocess (.+)$", done.stdout, re.MULTILINE)
    variables = dict(each.split("=") for each in environment.split())

    found = run(COPROCESS, *command.split(), cwd=folder, **variables)

    assert found.stderr.endswith("0 errors, 0 warnings, 0 notes\n"), found.stdout


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
