"""`coprocess kong`: Kong's plugins, and native handlers in Kong."""

from __future__ import annotations

import typer

from coprocess.cli.kong import doctor, replay, try_

app = typer.Typer(no_args_is_help=True, help="Kong's Python plugins, and native handlers in Kong.")
app.command("try")(try_.try_)
app.command()(doctor.doctor)
app.command()(replay.replay)
