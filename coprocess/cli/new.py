"""`coprocess new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.errors import ConfigError


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, and its folder's.")],
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="tyk|kong", help="Whose: handlers for Tyk, a plugin for Kong.")
    ] = "tyk",
) -> None:
    """Make a project: handlers or a plugin, tests, configuration, Makefile, containers.

    Nothing is overwritten.
    """
    from coprocess.scaffold import TEMPLATES, create

    if gateway not in TEMPLATES:
        raise ConfigError(f"--gateway {gateway}: expected one of {', '.join(TEMPLATES)}")
    for path in create(name, Path(), gateway):
        typer.echo(f"written: {path}")
    typer.echo(f"Next: cd {name} && make test")
