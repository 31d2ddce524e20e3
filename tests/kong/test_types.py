"""The PDK's type stubs: all its names, and a plugin that passes mypy strict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from coprocess.gateways.kong.pdk import METHODS
from coprocess.gateways.kong.stand_in import PATH

PLUGIN = """
from typing import Any

import kong_pdk.pdk.kong as kong

def helper(kong: kong.kong) -> str:
    host, err = kong.request.get_header("host")
    return host or ""

class Plugin:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def access(self, kong: kong.kong) -> None:
        kong.log("a", 1)
        kong.log.info(helper(kong))
        kong.service.request.set_header("x", 1)
        kong.response.exit(403, {"no": "entry"}, {"X": "y"})

    def log(self, kong: kong.python_kong) -> None:
        status: int | None = kong.response.get_status()

    async def rewrite(self, kong: kong.async_kong) -> None:
        value: str | None = await kong.request.get_header("x")
"""


def test_a_typed_plugin_passes_and_a_wrong_name_does_not(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(path)]
    environment = {**os.environ, "MYPYPATH": str(PATH)}
    path.write_text(PLUGIN)
    checked = subprocess.run(
        words, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert checked.returncode == 0, checked.stdout
    path.write_text(PLUGIN.replace("request.get_header", "request.get_heder"))
    checked = subprocess.run(
        words, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert '"get_heder"' in checked.stdout


def test_the_stubs_have_all_names() -> None:
    text = (PATH / "kong_pdk" / "pdk" / "kong" / "__init__.pyi").read_text()
    for method in METHODS - {"kong.log", "kong.log.inspect"}:
        assert len(re.findall(rf"def {method.rpartition('.')[2]}\(\s*self", text)) >= 3, method
