"""`coprocess reload`."""

from __future__ import annotations

import typer

from coprocess.cli.admin import Admin, post
from coprocess.cli.options import Config
from coprocess.errors import CoprocessError
from coprocess.server.admin_client import errors_of


def reload(admin: Admin = None, config: Config = None) -> None:
    """Have the service that runs on this machine load its handlers again. Exit status 1 where that fails."""
    page = post("/reload", admin, config)
    if not page.get("succeeded"):
        reasons = errors_of(page)
        raise CoprocessError("\n".join(["reload failed; the handlers from before serve on", *reasons]))
    typer.echo(f"reloaded: {page['hooks']} hooks")
