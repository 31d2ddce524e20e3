"""Wheels in which the way of a call is compiled to C by mypyc, where COMPILE_COPROCESS=1 asks for it.

    COMPILE_COPROCESS=1 pip wheel --no-deps .
    python hatch_build.py FOLDER      # a copy of this project, compiled where it lies

It is the same source, so the pure wheel, which this makes otherwise, does the same, only more slowly. A C
compiler is needed, and none to use the wheel. A project that is installed as editable is never compiled: what
its files say would not be what runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The way of a call: the engine, what runs the calls, and what the gateways do for each of them. What is read
#: of a class that is left in Python costs more here than there: so a class and those who use it go together.
COMPILED = (
    "coprocess/transport/http2/[a-z]*.py",
    "coprocess/transport/http2_calls.py",
    "coprocess/transport/http2_engine.py",
    "coprocess/transport/http2_large_calls.py",
    "coprocess/transport/engine.py",
    "coprocess/transport/workers.py",
    "coprocess/transport/cancellations.py",
    "coprocess/runtime/call.py",
    "coprocess/runtime/held_call.py",
    "coprocess/runtime/chained.py",
    "coprocess/runtime/hook_state.py",
    "coprocess/runtime/gates.py",
    "coprocess/runtime/pace.py",
    "coprocess/runtime/service.py",
    "coprocess/runtime/in_process_rpc.py",
    "coprocess/runtime/at_once.py",
    "coprocess/runtime/async_calls.py",
    "coprocess/runtime/spare_task.py",
    "coprocess/runtime/around/request.py",
    "coprocess/gateways/envoy/stream.py",
    "coprocess/gateways/envoy/headers_only.py",
    "coprocess/gateways/envoy/header_messages.py",
    "coprocess/gateways/envoy/guard.py",
    "coprocess/gateways/envoy/encoding.py",
    "coprocess/gateways/envoy/call.py",
    "coprocess/gateways/envoy/check.py",
    "coprocess/gateways/envoy/checked.py",
    "coprocess/gateways/envoy/check_reply.py",
    "coprocess/gateways/tyk/call.py",
    "coprocess/gateways/tyk/guard.py",
)
_COMPILERS = ["mypy>=2.4,<3", "setuptools>=80"]
#: Of what this project depends on, those whose types the compiled modules use.
_TYPED = ("hpack", "structlog")

# Run in a process of its own: setuptools and mypyc change the one that they run in.
_COMPILE = """
import sys
from mypyc.build import mypycify
from setuptools import setup
quiet = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
modules = mypycify([*quiet, *sys.argv[1:]], opt_level="3", debug_level="0", group_name="coprocess")
sys.argv = ["setup.py", "--quiet", "build_ext", "--inplace"]
setup(name="coprocess-compiled", packages=[], py_modules=[], ext_modules=modules)
"""


class CompiledEngine(BuildHookInterface[Any]):
    """Hatchling finds it by its base."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        if not _is_wanted():
            return []
        typed = [each for each in self.metadata.core.dependencies if each.startswith(_TYPED)]
        return [*_COMPILERS, *typed]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _is_wanted() or version == "editable":
            return
        folder = Path(tempfile.mkdtemp(prefix="coprocess-compiled-"))
        self._made = folder
        shutil.copytree(Path(self.root, "coprocess"), folder / "coprocess", ignore=_IGNORED)
        build_data["force_include"].update(
            {str(module): str(module.relative_to(folder)) for module in compile_in(folder)}
        )
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if (folder := getattr(self, "_made", None)) is not None:
            shutil.rmtree(folder)


def compile_in(folder: Path) -> list[Path]:
    """Compile the package `coprocess` that lies in `folder`: the modules made, which are beside the sources.

    Raises SystemExit with what the compilers say where that fails.
    """
    sources = [str(path.relative_to(folder)) for pattern in COMPILED for path in sorted(folder.glob(pattern))]
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, *sources], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"It cannot be compiled:\n{done.stdout}{done.stderr}")
    shutil.rmtree(folder / "build")
    return [path for pattern in ("*.so", "coprocess/**/*.so") for path in folder.glob(pattern)]


def _is_wanted() -> bool:
    return os.environ.get("COMPILE_COPROCESS", "0") not in ("", "0")


_IGNORED = shutil.ignore_patterns("__pycache__", "*.so")


if __name__ == "__main__":
    for made in compile_in(Path(sys.argv[1])):
        print(made)
