"""`coprocess kong`: Kong's plugins, and native handlers in Kong."""

from __future__ import annotations

import typer

from coprocess.cli.app import Commands


class _KongCommands(Commands):
    package = "coprocess.cli.kong"
    modules = {  # noqa: RUF012 - as the class it is of has it: nobody changes it
        "serve": ("serve", "serve"),
        "dump": ("dump", "dump"),
        "conf": ("conf", "conf"),
    }


app = typer.Typer(cls=_KongCommands, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def kong() -> None:
    """Kong's Python plugins, and native handlers in Kong."""
