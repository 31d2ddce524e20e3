"""A new installation of this package, made of files that are here already: a wheel, and what it requires.

The virtual environment of development has more in it than users have, and hides what is not declared.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RUN_REQUIREMENTS = ROOT / "requirements" / "run.txt"


def locked_names() -> set[str]:
    """The distributions of requirements/run.txt that are installed here; the rest is for other platforms."""
    return {
        name
        for name in re.findall(r"^([A-Za-z0-9._-]+)==", RUN_REQUIREMENTS.read_text(), re.MULTILINE)
        if _installed(name) is not None
    }


def required_names(*extras: str) -> set[str]:
    """What `pip install coprocess[…]` brings: the closure of what pyproject.toml declares."""
    found: set[str] = set()
    waiting = [("coprocess", extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        distribution = _installed(name)
        if distribution is None:
            continue
        found.add(name)
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                new = {(needed, part) for part in ("", *requirement.extras)} - seen
                seen |= new
                waiting += new
    return found - {"coprocess"}


def _installed(name: str) -> Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def build_wheel(folder: Path) -> Path:
    """The wheel of this package, built without the network."""
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def make_environment(folder: Path, wheel: Path, names: Iterable[str]) -> Path:
    """A virtual environment with the wheel and those distributions, and nothing else; gives its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    for name in names:
        for file in importlib.metadata.distribution(name).files or ():
            source, target = Path(str(file.locate())), packages / file
            # Without programs, which lie beside the packages. Compiled files are linked: they save seconds.
            if ".." not in file.parts and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return python


#: First what our modules import of others, where there are many commands: it takes most of their time. A
#: command ends by os._exit: to take all modules apart takes as long as many a command.
_RUN_MANY = """
import atexit, json, os, sys
commands = json.loads(sys.argv[1])
if len(commands) > 5:
    os.environ["GRPC_VERBOSITY"] = "NONE"  # As commands set it, before they import grpc.
    import grpc_health.v1.health_pb2_grpc, grpc_reflection.v1alpha.reflection_pb2_grpc, hpack, multidict
    import prometheus_client, pydantic_settings, redis.asyncio.cluster, structlog, typer, uvloop, watchfiles
from coprocess.cli import main
for number, arguments in enumerate(commands):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
        sys.argv = ["coprocess", *arguments]
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
        if isinstance(status, int):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        sys.exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    output: str
    errors: str


def run_many(python: Path, commands: Iterable[Iterable[str]], *, cwd: Path, scratch: Path) -> list[Done]:
    """Run commands of ours in turn, each in a fork of one process: it saves their common start."""
    done = subprocess.run(
        [str(python), "-c", _RUN_MANY, json.dumps([list(command) for command in commands]), str(scratch)],
        cwd=cwd,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        Done(int(status), (scratch / f"{number}.out").read_text(), (scratch / f"{number}.err").read_text())
        for number, status in enumerate(done.stdout.split())
    ]


def plain_environment() -> dict[str, str]:
    """The shell's variables without what leads Python, or our settings, elsewhere."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("COPROCESS_", "PYTHON", "PIP_"))
    }


def command_names(group: Any, prefix: str = "") -> Iterator[str]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from command_names(command, f"{prefix}{name} ")
        else:
            yield prefix + name
