"""`coprocess check`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import typer

from coprocess import loader
from coprocess.cli.options import Config, Handlers
from coprocess.config import load_settings
from coprocess.hooks import Hook
from coprocess.loader import Problem
from coprocess.route_settings import load_routes
from coprocess.tyk.compat import ALIASES
from coprocess.tyk.missing_modules import missing_module, remedy_for


def check(handlers: Handlers = None, config: Config = None) -> None:
    """Load the handlers and list them. Exit status 1 where anything is wrong."""
    settings = load_settings({"handlers": handlers}, config)
    loaded = loader.load(settings.folders, ALIASES, load_routes(config))
    for line in table_lines(loaded.table):
        typer.echo(line)
    for line in problem_lines(loaded.problems):
        typer.echo(line, err=True)
    if not len(loaded.table):
        typer.echo("no handlers found", err=True)
    typer.echo(
        f"{_count(len(_rows(loaded.table)), 'hook')}, {_count(len(loaded.problems), 'problem')}", err=True
    )
    if loaded.problems or not len(loaded.table):
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def problem_lines(problems: Iterable[Problem]) -> Iterator[str]:
    """What is wrong: with the traceback of handler code that raised; a missing module is one line."""
    wanted: dict[str, list[str]] = {}
    for problem in problems:
        if module := missing_module(str(problem)):
            wanted.setdefault(module, []).append(str(problem).partition(": ModuleNotFoundError: ")[0])
    for problem in problems:
        if (module := missing_module(str(problem))) in wanted:
            places = ", ".join(wanted.pop(module))
            yield f"{places}: the module {module} is not installed. {remedy_for(module)}"
        elif not module:
            # One that does not come by the handler's own code tells its author nothing.
            if f'File "{problem.path}' in problem.traceback:
                yield problem.traceback
            yield str(problem)


def _rows(hooks: Iterable[Hook]) -> list[tuple[Hook, bool]]:
    """The hooks, and whether each stands for all types; one that does is there once."""
    rows: dict[tuple[object, ...], tuple[Hook, bool]] = {}
    for hook in hooks:
        if hook.any_type:
            key: tuple[object, ...] = (hook.name, hook.api_id, hook.bundle, hook.version, hook.source)
            rows.setdefault(key, (hook, True))
        else:
            rows[id(hook),] = (hook, False)
    return sorted(rows.values(), key=lambda row: (row[1], row[0].type, row[0].name, row[0].version))


def table_lines(hooks: Iterable[Hook]) -> list[str]:
    """The hooks as a table of text, a line each."""
    rows: list[tuple[str, ...]] = [("TYPE", "NAME", "API", "VERSION", "STYLE", "KIND", "SOURCE")]
    rows += [
        (
            "Hook" if any_type else hook.type.name,
            hook.name,
            hook.api_id or "every",
            hook.version or "default",
            hook.style,
            "async" if hook.is_async else "sync",
            str(hook.source),
        )
        for hook, any_type in _rows(hooks)
    ]
    if all(row[3] == "default" for row in rows[1:]):
        rows = [(*row[:3], *row[4:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
