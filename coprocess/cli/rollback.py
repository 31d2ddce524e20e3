"""`coprocess rollback`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from urllib.parse import quote

import typer

from coprocess.cli.admin import Admin, failure, post
from coprocess.cli.options import Config


class Goal(StrEnum):
    """What is left as it was: no route has a share; or nothing was loaded last."""

    routes_off = "routes-off"
    previous = "previous"


def rollback(
    to: Annotated[
        Goal | None,
        typer.Option(
            "--to",
            metavar="routes-off|previous",
            help="Default: routes-off where a route has a share of the calls, else previous.",
        ),
    ] = None,
    admin: Admin = None,
    config: Config = None,
) -> None:
    """Take all calls from routes; or go back to the handlers from before the last reload.

    Asks the service that runs on this machine. It holds until the next reload. Exit status 1 where there is
    nothing to go back to.
    """
    page = post("/rollback" if to is None else f"/rollback?to={quote(to)}", admin, config)
    if not page.get("succeeded"):
        raise failure("rollback", page, "all is as it was")
    typer.echo(f"rolled back: {page['text']}")
