"""What a new user installs has all that it imports, and every command runs there."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from coprocess.cli.app import app
from coprocess.desk.tyk.bundle_build import build
from coprocess.transport.engines import is_compiled
from tests.fresh_install import (
    ROOT,
    RUN_REQUIREMENTS,
    build_wheel,
    command_names,
    locked_names,
    make_environment,
    plain_environment,
    required_names,
    run_many,
)
from tests.server import PATIENCE_S

SLOW = pytest.mark.skipif("RUN_SLOW" not in os.environ, reason="installs from the index: make test-slow")

#: Modules that are loaded for one purpose, and what that purpose needs beside the package's own requirements.
NEEDS = {
    "coprocess.process.trace_export": "opentelemetry",
    "coprocess.process.trace_export_encoding": "opentelemetry",
    "coprocess.process.trace_export_spans": "opentelemetry",
    "coprocess.process.trace_sampling": "opentelemetry",
    "coprocess.process.tracing": "opentelemetry",
    # pytest itself loads it.
    "coprocess.testing.plugin": "pytest",
}
EXTRAS = {
    "opentelemetry": "otel",
    "cryptography": "bundle",
    "limits": "web",
    "yaml": "envoy",
    "uvicorn": "serve-web",
    "a2wsgi": "serve-web",
    "websockets": "serve-web",
}
_IMPORT_ALL = """
import importlib, pkgutil, coprocess
for module in pkgutil.walk_packages(coprocess.__path__, "coprocess."):
    if module.name != "coprocess.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(module.name, error.name.partition(".")[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if is_compiled():
        pytest.skip("a wheel is made of sources with nothing compiled beside them")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def locked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with what requirements/run.txt names."""
    return make_environment(tmp_path_factory.mktemp("locked") / "venv", wheel, locked_names())


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with what `pip install coprocess` brings, without an extra."""
    return make_environment(tmp_path_factory.mktemp("plain") / "venv", wheel, required_names())


def missing_modules(python: Path) -> dict[str, str]:
    """Our modules that cannot be imported, and what each misses."""
    done = subprocess.run(
        [str(python), "-W", "error", "-c", _IMPORT_ALL],
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def test_every_module_can_be_imported_with_the_locked_requirements(locked: Path) -> None:
    assert missing_modules(locked) == {"coprocess.testing.plugin": "pytest"}


def test_without_extras_only_what_they_are_for_is_missing(plain: Path) -> None:
    assert missing_modules(plain) == NEEDS


def test_every_import_is_of_a_declared_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = {
        None: {_name(text) for text in project["dependencies"]},
        **{extra: {_name(text) for text in texts} for extra, texts in extras.items()},
    }
    # An extra's own requirements belong to it, as opentelemetry-api does.
    provided_by = {
        module: {_name(each) for each in distributions}
        for module, distributions in importlib.metadata.packages_distributions().items()
    }
    undeclared = []
    for path, module in third_party_imports():
        found = provided_by.get(module, set()) & (declared[None] | declared.get(EXTRAS.get(module), set()))
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not found and NEEDS.get(name) != module:
            undeclared.append(f"{path}: {module}")
    assert undeclared == []


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def third_party_imports() -> Iterator[tuple[Path, str]]:
    for path in (ROOT / "coprocess").rglob("*.py"):
        for node in _statements(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for top in {name.partition(".")[0] for name in names}:
                if top not in sys.stdlib_module_names and top != "coprocess":
                    yield path, top


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Without what they consist of: imports are in none of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from _statements(child)


RECORDING = ROOT / "tests/data/recordings/auth_ok.json"
ENVOY_RECORDING = ROOT / "tests/data/envoy/recordings/chain.json"
KONG_PLUGIN = ROOT / "examples/kong/plugins/py_hello.py"
#: A command line for each command, in this order, in the folder of a new project; and what it prints.
COMMANDS = {
    "version": ((), "coprocess "),
    "events config": (("--url", "http://127.0.0.1:9000"), "script type"),
    "check": ((), "authenticate"),
    "doctor": (("--sarif", "out.sarif"), ""),
    "call": (("CustomKeyCheck", "authenticate"), "401"),
    "try": (("GET", "/demo/items", "-H", "Authorization: demo-key"), "client gets 200 OK"),
    "replay": ((str(RECORDING), "--apis", str(ROOT / "tests/data/apis")), "0 differences"),
    "import": (("handlers",), "works unchanged"),
    "envoy replay": ((str(ENVOY_RECORDING),), "0 differences"),
    "envoy config": (("--form", "static"), "ext_proc"),
    "envoy try": (("GET", "/items"), "client gets 401"),
    "kong dump": ((str(KONG_PLUGIN),), "py-hello"),
    "kong conf": ((str(KONG_PLUGIN),), "pluginserver"),
    "kong try": ((str(KONG_PLUGIN), "GET", "/"), "hello localhost"),
    "kong replay": ((str(ROOT / "tests/data/kong/req-query.json"),), "0 differences"),
    "bundle build": (("handlers", "-o", "b.zip"), "authenticate"),
    "bundle verify": (("b.zip",), "checksum is right"),
}
#: Run by tests of their own.
OTHERS = {"new", "serve", "reload", "rollback", "bundle sign", "envoy doctor", "kong serve", "kong doctor"}


def new_project(python: Path, folder: Path) -> Path:
    scratch = folder / "scratch"
    scratch.mkdir()
    [done] = run_many(python, [("new", "demo")], cwd=folder, scratch=scratch)
    assert done.status == 0, done.errors
    return folder / "demo"


@pytest.mark.parametrize("which", [pytest.param("locked", marks=SLOW), "plain"])
def test_every_command_runs_in_a_fresh_install(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert set(COMMANDS) | OTHERS == set(command_names(typer.main.get_command(app)))
    python: Path = request.getfixturevalue(which)
    project = new_project(python, tmp_path)

    lines = [(*name.split(), *arguments) for name, (arguments, _) in COMMANDS.items()]
    for (name, (_, printed)), done in zip(
        COMMANDS.items(), run_many(python, lines, cwd=project, scratch=tmp_path / "scratch"), strict=True
    ):
        assert (done.status, printed in done.output) == (0, True), (name, done)
        assert "Traceback" not in done.errors, (name, done)


def test_a_fresh_install_serves(plain: Path, tmp_path: Path) -> None:
    project = new_project(plain, tmp_path)
    admin, address = ("--admin", f"unix:{tmp_path}/admin.sock"), f"unix:{tmp_path}/grpc.sock"
    process = subprocess.Popen(
        [str(plain), "-m", "coprocess", "serve", "--listen", address, *admin],
        cwd=project,
        env=plain_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == "serving" for line in process.stderr)
        called, reloaded, rolled_back = run_many(
            plain,
            [
                ("call", "CustomKeyCheck", "authenticate", "--address", address),
                ("reload", *admin),
                ("rollback", *admin),
            ],
            cwd=project,
            scratch=tmp_path / "scratch",
        )
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert (called.status, "401" in called.output) == (0, True), called
    assert reloaded.output == "reloaded: 3 hooks\n"
    assert rolled_back.status == 0
    assert process.returncode == 0


def test_what_needs_an_extra_names_it(plain: Path, tmp_path: Path) -> None:
    project = new_project(plain, tmp_path)
    build(project / "handlers", project / "b.zip")
    (project / "key.pem").write_text("")
    commands = {
        "bundle": ("bundle", "sign", "b.zip", "--key", "key.pem"),
        "otel": ("serve", "--traces", "otlp", "--admin", "off"),
    }

    found = run_many(plain, commands.values(), cwd=project, scratch=tmp_path / "scratch")

    for extra, done in zip(commands, found, strict=True):
        assert done.status == 1
        assert f"coprocess[{extra}]" in done.errors
        assert "Traceback" not in done.errors


@SLOW
@pytest.mark.timeout(900)
def test_the_locked_requirements_install_and_suffice(wheel: Path, tmp_path: Path) -> None:
    """The real thing: pip, the index, hashes; a program on the path; a project, and its README's commands."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "-r", str(RUN_REQUIREMENTS)], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    assert missing_modules(venv / "bin" / "python") == {"coprocess.testing.plugin": "pytest"}

    def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=plain_environment(), capture_output=True, text=True, check=False
        )

    done = run(str(venv / "bin" / "coprocess"), "new", "fresh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for target in ("test", "check"):
        done = run("make", f"PYTHON={sys.executable}", target, cwd=tmp_path / "fresh")
        assert done.returncode == 0, done.stdout + done.stderr
    for command in readme_commands(tmp_path / "fresh"):
        done = run(*command, cwd=tmp_path / "fresh")
        assert done.returncode == 0, (command, done.stdout + done.stderr)


def readme_commands(project: Path) -> Iterator[list[str]]:
    """The command lines of a project's README that end by themselves and need no containers."""
    for line in (project / "README.md").read_text().splitlines():
        command = shlex.split(line, comments=True) if line.startswith("    ") else []
        if command and command[:2] not in (["make", "run"], ["make", "up"]):
            yield command
