"""`coprocess reload`."""

from __future__ import annotations

from typing import Annotated

import typer

from coprocess.cli.admin import Admin, failure, post
from coprocess.cli.options import Config


def reload(
    force: Annotated[
        bool, typer.Option("--force", help="Take what can be loaded, also where hooks that serve are lost.")
    ] = False,
    admin: Admin = None,
    config: Config = None,
) -> None:
    """Have the service that runs on this machine load its handlers again. Exit status 1 where that fails."""
    page = post("/reload?force=1" if force else "/reload", admin, config)
    if not page.get("succeeded"):
        raise failure("reload", page, "the handlers from before serve on")
    typer.echo(f"reloaded: {page['hooks']} hooks")
    for hook in page.get("removed") or ():
        typer.echo(f"gone: {hook}", err=True)
    for warning in page.get("warnings") or ():
        typer.echo(f"warning: {warning}", err=True)
