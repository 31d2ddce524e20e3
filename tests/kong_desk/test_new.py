"""`coprocess new --gateway kong NAME`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coprocess import scaffold
from coprocess.cli.app import app
from coprocess.desk.kong.declarative import read_declarative
from coprocess.desk.kong.doctor import examine
from coprocess.desk.kong.trial import TrialKong, plugin_servers

# Inner runs have processes of their own: in this one, they would have the half of the package imported anew.
pytest_plugins = ["pytester"]


def test_its_own_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    scaffold.create("my-Guard", pytester.path, "kong")
    monkeypatch.chdir(pytester.path / "my-Guard")
    result = pytester.runpytest_subprocess(
        "--rootdir", ".", "-p", "no:cacheprovider", "-p", "coprocess", "-p", "anyio", "tests"
    )
    result.assert_outcomes(passed=5)


def test_its_configuration_fits_its_plugin(tmp_path: Path) -> None:
    scaffold.create("my-Guard", tmp_path, "kong")
    project = tmp_path / "my-Guard"
    plugin = project / "plugins" / "my-Guard.py"
    conf = project / "container" / "kong.conf"
    text = conf.read_text().replace("/opt/coprocess/bin/coprocess", f"{sys.executable} -m coprocess")
    conf.write_text(text.replace("/kong/plugins", str(plugin.parent)))
    assert examine(conf, project / "kong.yml", [plugin]) == []
    with plugin_servers([plugin]) as servers:
        kong = TrialKong(servers, declarative=read_declarative(project / "kong.yml"))
        assert kong.request("GET", "/my-Guard/x").status == 401
        assert kong.request("GET", "/my-Guard/x", [("X-Key", "demo-key")]).status == 200
        kong.close()


def test_its_code_is_tidy(tmp_path: Path) -> None:
    scaffold.create("guard", tmp_path, "kong")
    for arguments in (["check", "."], ["format", "--check", "."]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--no-cache"],
            cwd=tmp_path / "guard",
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout


def test_another_gateway_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", "--gateway", "apisix", "x"])
    assert result.exit_code == 2
    assert "'apisix' is not one of 'tyk', 'envoy', 'kong'" in " ".join(result.output.split())
    assert not (tmp_path / "x").exists()
