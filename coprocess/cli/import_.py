"""`coprocess import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    bundle: Annotated[
        Path, typer.Argument(metavar="DIR|ZIP", help="A bundle of the gateway's embedded Python driver.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Write handlers, gRPC bundle and API definition there. Default: nothing is written.",
        ),
    ] = None,
) -> None:
    """Take over a bundle of the embedded Python driver: show what works unchanged and what needs a hand.

    Its code is loaded in a process of its own. Exit status 1 where something needs a hand, or has an error of
    those that `coprocess doctor` finds.
    """
    from coprocess.desk.tyk.doctor import Severity
    from coprocess.desk.tyk.importer import inspect_bundle, write_import

    found, report = inspect_bundle(bundle)
    if report.works:
        typer.echo(f"{report.name}: works unchanged:")
    elif not report.loads:
        typer.echo(f"{report.name}: no handler works yet")
    else:
        typer.echo(f"{report.name}:")
    for line in report.works:
        typer.echo(f"    {line}")
    if report.loads:
        typer.echo("can be loaded, but see below what its module needs:")
    for line in report.loads:
        typer.echo(f"    {line}")
    if report.concerns:
        typer.echo("needs a hand:")
        for concern in report.concerns:
            typer.echo(f"    {concern}")
    if report.findings:
        typer.echo("of the handlers' code, as `coprocess doctor` sees it:")
    for finding in report.findings:
        place = f"{finding.file}:{finding.line}: {finding.severity.value} [{finding.rule}]"
        typer.echo(f"    {place} {finding.problem} {finding.effect} {finding.remedy}")
    if report.events:
        typer.echo(
            f"event handlers are registered in the API definition; set the events that they are for: "
            f"{', '.join(report.events)}"
        )
    if output is not None:
        for path in write_import(found, report, output):
            typer.echo(f"written: {path}")
        typer.echo("listen_path and target_url of the definition are examples: set your own")
    if report.concerns or any(finding.severity is Severity.ERROR for finding in report.findings):
        raise typer.Exit(1)
