"""Run something again whenever a file changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import typer
import watchfiles

from coprocess.errors import ConfigError, CoprocessError

_SUFFIXES = (".py", ".json")
_DEBOUNCE_MS = 200
_TICK_MS = 100


def run_watched(
    run: Callable[[], bool], *, folders: Iterable[Path], files: Iterable[Path], rule: bool
) -> bool:
    """Run now, and when handler code in `folders` or one of `files` changes, until Ctrl-C; the last result.

    `rule` draws a line between runs. An error does not end it: the next change may mend it.
    """
    watched_files = {path.resolve() for path in files}
    watched_folders = {folder.resolve() for folder in folders}
    # Of a file its folder is watched: editors put a new file in its place.
    places = sorted(watched_folders | {path.parent for path in watched_files})
    if not places:
        raise ConfigError("there is nothing to watch: no handlers and no API definition")

    def concerns(_: watchfiles.Change, changed: str) -> bool:
        path = Path(changed)
        if path.resolve() in watched_files:
            return True
        inside = any(path.is_relative_to(folder) for folder in watched_folders)
        return inside and path.suffix in _SUFFIXES and "__pycache__" not in path.parts

    changes = watchfiles.watch(
        *places,
        watch_filter=concerns,
        debounce=_DEBOUNCE_MS,
        rust_timeout=_TICK_MS,
        yield_on_timeout=True,
    )
    ok = False
    with contextlib.suppress(KeyboardInterrupt):
        next(changes)  # It watches from here on: what changes while the first run is under way counts.
        ok = _run(run)
        typer.echo(f"\nwatching {', '.join(map(str, places))}; Ctrl-C ends it", err=True)
        for changed in changes:
            if not changed:
                continue
            if rule:
                typer.echo(f"\n{'─' * 60}\n")
            ok = _run(run)
    return ok


def _run(run: Callable[[], bool]) -> bool:
    try:
        return run()
    except CoprocessError as error:
        typer.echo(f"coprocess: {error}", err=True)
        return False
