"""`coprocess replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.errors import ConfigError
from coprocess.text import counted

if TYPE_CHECKING:
    from coprocess.desk.replay import ReplayReport

Recordings = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Recordings, or folders of them.")]


def replay(
    recordings: Recordings,
    apis: Annotated[
        Path, typer.Option("--apis", metavar="DIR", help="The API definitions that the recordings name.")
    ],
) -> None:
    """Play recordings of a real gateway through the simulated one, and print each difference.

    A recording that follows another one is played after it. Exit status 1 on any difference.
    """
    from coprocess.desk.tyk.simulator import replay

    if not apis.is_dir():
        raise ConfigError(f"--apis {apis}: no such folder")
    tell_replay(replay(recording_files(recordings), apis))


def tell_replay(report: ReplayReport) -> None:
    """Print each difference, and a last line that counts. Ends with exit status 1 on any."""
    for problem in report.problems:
        typer.echo(problem)
    for each in report.left_out:
        typer.echo(f"left out: {each}")
    typer.echo(
        f"{counted(len(report.replayed), 'recording')} replayed, "
        f"{counted(len(report.problems), 'difference')}"
    )
    if not report.ok:
        raise typer.Exit(1)


def recording_files(paths: list[Path]) -> list[Path]:
    """The files, and those in folders, each once. Raises ConfigError for what is not there."""
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{path}: no recordings (*.json) in this folder")
        # A file may be named by itself and with its folder.
        files.update((file.resolve(), file) for file in found)
    return list(files.values())
