"""`coprocess kong conf`: the block of kong.conf for a plugin."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from coprocess.bounded import repr_of
from coprocess.cli.kong.plugins import (
    PREFIX,
    Handlers,
    Name,
    PluginFile,
    expect_handlers_alone,
    plugin_files,
    read_handlers,
    read_plugins,
)
from coprocess.errors import ConfigError
from coprocess.gateways.kong.plugin import Plugin, PluginOptions

#: A part of settings' names there, where a list has commas.
_NAME = re.compile(r"[A-Za-z0-9_-]+")
#: What start_cmd does not get of who starts Kong, and code may need.
_VARIABLES = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)


def conf(
    plugin: PluginFile = None,
    handlers: Handlers = None,
    name: Name = None,
    prefix: Annotated[
        Path, typer.Option("-p", "--kong-prefix", "-kong-prefix", metavar="DIR", help="Kong's prefix.")
    ] = PREFIX,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME", help="A variable that the plugin needs, with its value now. Repeatable."
        ),
    ] = None,
    flags: Annotated[
        str, typer.Option("--flags", metavar="'FLAGS'", help="Further flags for `coprocess kong serve`.")
    ] = "",
) -> None:
    """Print the block of kong.conf that starts the plugin here, with absolute paths."""
    expect_handlers_alone(plugin, None, handlers)
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise ConfigError(f"--flags {flags!r}: {error}. Expected: words as in a shell") from None
    if handlers:
        found = read_handlers(handlers, name)
        what = [word for folder in handlers for word in ("--handlers", str(folder.resolve()))]
    else:
        if plugin is None:
            raise ConfigError("which plugin is meant? Expected: one of PLUGIN.py and --handlers DIR")
        (found,) = read_plugins(plugin_files(plugin, None), PluginOptions(name=name))
        what = [str(plugin.resolve())]
    typer.echo(kong_conf(found, what, prefix, env or [], words, name))


def kong_conf(
    plugin: Plugin, what: list[str], prefix: Path, variables: list[str], flags: list[str], name: str | None
) -> str:
    """`what` names it on the command line.

    Raises ConfigError for a variable that is not set, and a name that kong.conf cannot have.
    """
    if not _NAME.fullmatch(plugin.name):
        raise ConfigError(
            f"the plugin's name is {repr_of(plugin.name, 60)}, which kong.conf cannot have. Expected: "
            "letters, digits, - and _; --name says another"
        )
    missing = [each for each in variables if each not in os.environ]
    if missing:
        raise ConfigError(f"--env {missing[0]}: it is not set here. Expected: a variable with a value")
    values = {each: os.environ[each] for each in (*_VARIABLES, *variables) if os.environ.get(each)}
    words = [sys.executable, "-m", "coprocess", "kong"]
    named = ["--name", name] if name else []
    serve = ["/usr/bin/env", *(f"{key}={value}" for key, value in values.items()), *words, "serve"]
    serve += [*what, "-p", str(prefix), *named, *flags]
    query = [*words, "dump", *what, *named]
    key = f"pluginserver_{plugin.name.lower().replace('-', '_')}"
    return "\n".join(
        (
            "# Kong starts the plugin server without the environment that it has itself: start_cmd says it.",
            f"plugins = bundled,{plugin.name}",
            f"pluginserver_names = {plugin.name}",
            f"{key}_socket = {prefix / f'{plugin.name}.socket'}",
            f"{key}_start_cmd = {shlex.join(serve)}",
            f"{key}_query_cmd = {shlex.join(query)}",
        )
    )
