"""`coprocess kong replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli.replay import counted, recording_files


def replay(
    recordings: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Recordings, or folders of them.")
    ],
) -> None:
    """Play recordings of a real Kong through the simulated one, and print each difference.

    The simulated Kong is given what the recorded plugin server answered: what it sends, and what becomes of
    the request, must be as recorded. Exit status 1 on any difference.
    """
    from coprocess.desk.kong.replay import replay

    report = replay(recording_files(recordings))
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
