"""`coprocess check`."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from coprocess import loader
from coprocess.cli.options import Config, Handlers
from coprocess.config import load_settings
from coprocess.hooks import Hook
from coprocess.route_settings import load_routes
from coprocess.tyk.compat import ALIASES


def check(handlers: Handlers = None, config: Config = None) -> None:
    """Load the handlers and list them. Exit status 1 where anything is wrong."""
    settings = load_settings({"handlers": handlers}, config)
    loaded = loader.load(settings.folders, ALIASES, load_routes(config))
    for line in table_lines(loaded.table):
        typer.echo(line)
    for problem in loaded.problems:
        typer.echo(problem.traceback or str(problem), err=True)
        if problem.traceback:
            typer.echo(str(problem), err=True)
    for note in loaded.notes:
        typer.echo(f"warning: {note}", err=True)
    if not len(loaded.table):
        typer.echo("no handlers found", err=True)
    typer.echo(f"{_count(len(loaded.table), 'hook')}, {_count(len(loaded.problems), 'problem')}", err=True)
    if loaded.problems or not len(loaded.table):
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table_lines(hooks: Iterable[Hook]) -> list[str]:
    """The hooks as a table of text, a line each."""
    rows: list[tuple[str, ...]] = [("TYPE", "NAME", "API", "VERSION", "STYLE", "KIND", "SOURCE")]
    rows += [
        (
            hook.type.name,
            hook.name,
            hook.api_id or "every",
            hook.version or "default",
            hook.style,
            "async" if hook.is_async else "sync",
            str(hook.source),
        )
        for hook in sorted(hooks, key=lambda hook: (hook.type, hook.name, hook.version))
    ]
    if all(row[3] == "default" for row in rows[1:]):
        rows = [(*row[:3], *row[4:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
