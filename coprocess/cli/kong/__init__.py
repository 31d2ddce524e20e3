"""`coprocess kong`: Kong's plugins, and native handlers in Kong."""

from __future__ import annotations

import typer

from coprocess.cli.kong import conf, dump, replay, serve, try_

app = typer.Typer(no_args_is_help=True, help="Kong's Python plugins, and native handlers in Kong.")
app.command(context_settings={"help_option_names": ["-h", "--help"]})(serve.serve)
app.command()(dump.dump)
app.command()(conf.conf)
app.command("try")(try_.try_)
app.command()(replay.replay)
