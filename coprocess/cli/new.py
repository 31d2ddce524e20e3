"""`coprocess new`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Gateway(StrEnum):
    """What the project is for."""

    tyk = "tyk"
    envoy = "envoy"
    kong = "kong"


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, and its folder's.")],
    gateway: Annotated[Gateway, typer.Option("--gateway", help="What the handlers are for.")] = Gateway.tyk,
) -> None:
    """Make a project: handlers or a plugin, tests, configuration, Makefile, containers.

    Nothing is overwritten.
    """
    from coprocess.scaffold import create

    for path in create(name, Path(), gateway.value):
        typer.echo(f"written: {path}")
    typer.echo(f"Next: cd {name} && make test")
