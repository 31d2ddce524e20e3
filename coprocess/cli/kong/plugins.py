"""What the commands for Kong's plugins share: which files, and how they are loaded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from coprocess.errors import ConfigError, LoadError
from coprocess.gateways.kong.plugin import Plugin, PluginOptions, has_plugin
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
#: The plugin of native handlers, where nobody names it.
HANDLERS_NAME = "coprocess"


def read_handlers(folders: Sequence[Path], name: str | None) -> Plugin:
    """As `read_plugins`, for the plugin of native handlers."""
    with _printing_aside():
        loaded, plugin = load_handlers(folders, name or HANDLERS_NAME)
    if plugin is None:
        raise LoadError("\n".join(map(str, loaded.problems)))
    return plugin


def plugin_files(file: Path | None, folder: Path | None) -> list[Path]:
    """Raises ConfigError where there are none, or both are given."""
    if (file is None) == (folder is None):
        raise ConfigError("which plugin is meant? Expected: one of PLUGIN.py and -d DIR")
    if file is not None:
        return [file]
    assert folder is not None  # noqa: S101 - one of the two is given
    files = sorted(
        path for path in folder.glob("*.py") if path.is_file() and not path.name.startswith(("_", "."))
    )
    # Others are what the plugins import, as with kong-pdk.
    found = [path for path in files if has_plugin(path)]
    if not found:
        raise ConfigError(f"{folder}: no .py file has a Plugin. Expected: plugins, a file each")
    return found


def read_plugins(paths: Sequence[Path], options: PluginOptions) -> list[Plugin]:
    """Load them. What they print meanwhile goes to standard error. Raises LoadError for what is wrong."""
    with _printing_aside():
        loaded, plugins = load_plugins(paths, options)
    for problem in loaded.problems:
        if problem.traceback:
            sys.stderr.write(problem.traceback)
    if loaded.problems:
        raise LoadError("\n".join(map(str, loaded.problems)))
    return plugins


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


def print_dump(info: Any) -> None:
    """One JSON value and nothing else, as Kong takes it from the query command."""
    text = json.dumps(info)
    sys.stdout.flush()
    os.write(1, text.encode())
