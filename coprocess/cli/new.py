"""`coprocess new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The project's name, and its folder's.")],
) -> None:
    """Make a project: handlers, tests, API definition, Makefile, containers. Nothing is overwritten."""
    from coprocess.scaffold import create

    for path in create(name, Path()):
        typer.echo(f"written: {path}")
    typer.echo(f"Next: cd {name} && make test")
