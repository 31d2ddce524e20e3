"""`coprocess check`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence

import typer

from coprocess.api.moments import HookType
from coprocess.cli.options import Config, Handlers
from coprocess.desk.tyk.missing_modules import missing_module, remedy_for
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.hooks import Hook
from coprocess.loading.loaded import Loaded, Problem
from coprocess.process.config import DEFAULT_FOLDERS
from coprocess.process.route_settings import load_routes
from coprocess.process.settings_loading import load_settings
from coprocess.text import block, counted, indented, printable


def check(handlers: Handlers = None, config: Config = None) -> None:
    """Load the handlers, twice, as a reload does, and list them. Exit status 1 where anything is wrong."""
    settings = load_settings({"handlers": handlers}, config)
    routes = load_routes(config)
    loaded = loader.load(settings.folders, HOME, routes)
    # The second time in one process fails what is for the whole process. What it prints was seen before.
    with contextlib.redirect_stdout(io.StringIO()):
        again = loader.load(settings.folders, HOME, routes)
    lines = table_lines(loaded.table)
    for line in lines:
        typer.echo(line)
    for line in problem_lines(loaded.problems):
        typer.echo(line, err=True)
    warnings = [*loaded.left_out, *loaded.notes, *_only_the_second_time(loaded, again)]
    for warning in warnings:
        typer.echo(f"warning: {indented(warning)}", err=True)
    if not len(loaded.table):
        folders = ", ".join(map(str, settings.folders or DEFAULT_FOLDERS))
        there = "" if settings.folders else ": no such folders here. Expected: one of them, or --handlers DIR"
        typer.echo(f"no handlers found in {folders}{there}", err=True)
    counts = [counted(len(lines) - 1, "hook"), counted(len(loaded.problems), "problem")]
    counts += [counted(len(warnings), "warning")] if warnings else []
    typer.echo(", ".join(counts), err=True)
    if loaded.problems or not len(loaded.table):
        raise typer.Exit(1)


def _only_the_second_time(first: Loaded, second: Loaded) -> list[str]:
    known = set(map(str, first.problems))
    found = [f"every reload fails: {each}" for each in second.problems if str(each) not in known]
    if found:
        return found
    kept = {(hook.type, hook.name, hook.version) for hook in second.table}
    lost = [hook for hook in first.table if (hook.type, hook.name, hook.version) not in kept]
    return [f"every reload loses the hook {hook}: it is declared the first time only" for hook in lost]


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
                yield block(problem.traceback)
            yield indented(str(problem))


def table_lines(hooks: Iterable[Hook]) -> list[str]:
    """The hooks as a table of text, a line each; one that is there for every type is one line."""
    rows: list[tuple[str, ...]] = [("TYPE", "NAME", "API", "VERSION", "STYLE", "KIND", "SOURCE")]
    found = sorted(hooks, key=lambda hook: (hook.type, hook.name, hook.version))
    of_any_type = {(id(hook.handler), hook.name) for hook in found if hook.misfit}
    types: dict[tuple[str, ...], list[HookType]] = {}
    for hook in found:
        rest = (
            hook.name,
            hook.api_id or "every",
            hook.version or "default",
            hook.style,
            "async" if hook.is_async else "sync",
            str(hook.source),
        )
        is_any = (id(hook.handler), hook.name) in of_any_type
        types.setdefault(rest if is_any else (*rest, hook.type.name), []).append(hook.type)
    rows += [(_type_of(found), *rest[:6]) for rest, found in types.items()]
    if all(row[3] == "default" for row in rows[1:]):
        rows = [(*row[:3], *row[4:]) for row in rows]
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _type_of(types: Sequence[HookType]) -> str:
    # All but Event.
    return "any" if len(types) == len(HookType) - 1 else ",".join(each.name for each in types)
