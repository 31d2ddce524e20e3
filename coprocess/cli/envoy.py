"""`coprocess envoy replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli.replay import counted, recording_files

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Envoy at the desk: handlers tried in a simulated one, its configuration printed and examined.",
)


@app.command()
def replay(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Recordings, or folders of them.")
    ],
) -> None:
    """Play recordings of a real Envoy through the simulated one, and print each difference.

    Exit status 1 on any difference.
    """
    from coprocess.desk.envoy.simulator import replay

    report = replay(recording_files(recordings))
    for problem in report.problems:
        typer.echo(problem)
    typer.echo(
        f"{counted(len(report.replayed), 'recording')} replayed, "
        f"{counted(len(report.problems), 'difference')}"
    )
    if not report.ok:
        raise typer.Exit(1)
