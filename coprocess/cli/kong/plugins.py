"""What the commands for Kong's plugins share: which files, and how they are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli.ending import bound_exit
from coprocess.errors import ConfigError, LoadError
from coprocess.gateways.kong.plugin import Plugin, PluginOptions
from coprocess.gateways.kong.plugin_file import has_plugin, name_in
from coprocess.gateways.kong.registration import load_handlers, load_plugins

PREFIX = Path("/usr/local/kong")

PluginFile = Annotated[Path | None, typer.Argument(metavar="PLUGIN.py", help="The plugin's file.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="The plugin's name in Kong. Default: what its file says, else the file's name."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "-d", "--plugins-directory", "-plugins-directory", metavar="DIR", help="Plugins: the .py files in it."
    ),
]


Handlers = Annotated[
    list[Path] | None,
    typer.Option("--handlers", metavar="DIR", help="Native handlers instead of a plugin. Repeatable."),
]
#: How long a plugin may take to be loaded, where its name is asked.
_TELLING_S = 60.0
#: The plugin of native handlers, where nobody names it.
HANDLERS_NAME = "coprocess"


@dataclass(frozen=True, slots=True)
class PluginFiles:
    """Which files are plugins, and which of their folder are none: with the reason, as text."""

    paths: list[Path]
    left_out: list[str] = field(default_factory=list)
    #: Whether they are what a folder has: then one that cannot be loaded keeps no other from being served.
    of_folder: bool = False


def read_handlers(folders: Sequence[Path], name: str | None) -> Plugin:
    """As `read_plugins`, for the plugin of native handlers."""
    with _printing_aside():
        loaded, plugin = load_handlers(folders, name or HANDLERS_NAME)
    if plugin is None:
        raise LoadError("\n".join(map(str, loaded.problems)))
    return plugin


def expect_handlers_alone(file: Path | None, folder: Path | None, handlers: Sequence[Path] | None) -> None:
    """Raises ConfigError where a plugin is named beside native handlers: it would not be served."""
    if handlers and (file is not None or folder is not None):
        named = "PLUGIN.py" if file is not None else "-d DIR"
        raise ConfigError(f"{named} and --handlers go not together. Expected: one of them")


def plugin_files(file: Path | None, folder: Path | None) -> PluginFiles:
    """Raises ConfigError where there are none, or both are given."""
    if (file is None) == (folder is None):
        raise ConfigError("which plugin is meant? Expected: one of PLUGIN.py, -d DIR and --handlers DIR")
    if file is not None:
        return PluginFiles([file])
    assert folder is not None  # noqa: S101 - one of the two is given
    if not folder.is_dir():
        raise ConfigError(f"-d {folder}: no such folder. Expected: one with plugins, a file each")
    found, left_out = [], []
    for path in sorted(folder.glob("*.py")):
        if not path.is_file():
            left_out.append(f"{path}: it is no file")
        elif path.name.startswith(("_", ".")):
            left_out.append(f"{path}: its name begins with {path.name[0]}")
        elif not has_plugin(path):
            # What plugins import, as with kong-pdk.
            left_out.append(f"{path}: it has no Plugin")
        else:
            found.append(path)
    if not found:
        raise ConfigError(
            "\n".join((f"{folder}: no .py file has a Plugin. Expected: plugins, a file each", *left_out))
        )
    # Where two files say one name, the file that has it is meant, and not a copy beside it.
    found.sort(key=lambda path: name_in(path, of_folder=True) != path.stem)
    return PluginFiles(found, left_out, of_folder=True)


def read_plugins(files: PluginFiles, options: PluginOptions) -> list[Plugin]:
    """Load them. What they print meanwhile goes to standard error, as what is left out of a folder.

    Raises LoadError for what is wrong; with those of a folder, where none is good.
    """
    with _printing_aside():
        loaded, plugins = load_plugins(files.paths, options, files.left_out)
    for problem in loaded.problems:
        if problem.traceback:
            sys.stderr.write(problem.traceback)
    if loaded.problems and not (files.of_folder and plugins):
        raise LoadError("\n".join(map(str, loaded.problems)))
    for text in (*loaded.left_out, *loaded.problems):
        sys.stderr.write(f"left out: {text}\n")
    return plugins


def told_name(path: Path) -> str:
    """The name of a plugin whose file computes it: what the query command tells.

    It runs in a process of its own, as the file may do at import what can be done once. The file's name where
    it fails: then Kong does not start either.
    """
    words = [sys.executable, "-m", "coprocess", "kong", "dump", str(path)]
    try:
        ran = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=_TELLING_S)  # noqa: S603
        return str(json.loads(ran.stdout)[0]["Name"])
    except (OSError, subprocess.SubprocessError, ValueError):
        return path.stem


def dump_plugins(read: Callable[[], list[Plugin]]) -> None:
    """Print one JSON value and nothing else, as Kong takes it from the query command.

    What else is printed, until the process ends, goes to standard error: also what threads, exit handlers
    and C code print.
    """
    sys.stdout.flush()
    # Python started with it, where a plugin's file is run itself: see there.
    own = getattr(sys.modules.get("sitecustomize"), "coprocess_stdout", None)
    if own is None:
        own = os.dup(1)
        os.dup2(2, 1)
    status = 1
    try:
        text = json.dumps([each.info() for each in read()])
        with open(own, "w", closefd=False) as out:
            out.write(text)
        status = 0
    finally:
        # Kong waits for it, and a plugin's thread may never end.
        bound_exit(status)


@contextmanager
def _printing_aside() -> Iterator[None]:
    """Have standard output, also that of C code and of processes, go to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
        sys.stdout.flush()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
