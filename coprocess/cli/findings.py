"""How a doctor's findings are told: as text, as JSON, as SARIF, and by the exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.cli.output import print_json
from coprocess.cli.trial_text import from_here
from coprocess.errors import ConfigError
from coprocess.text import counted

if TYPE_CHECKING:
    from coprocess.desk.findings import FileFinding

_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "note": typer.colors.BLUE}

AsJson = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]
Sarif = Annotated[
    Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0 too.")
]


def tell_findings(
    findings: Iterable[FileFinding],
    rules: Mapping[str, str],
    *,
    examined: str,
    as_json: bool,
    sarif: Path | None,
) -> None:
    """Print them all, with a last line that counts them and names what was `examined`.

    Ends the command with exit status 1 where there is an error. Raises ConfigError where `sarif` cannot be
    written.
    """
    from coprocess import __version__
    from coprocess.desk.findings import Severity
    from coprocess.desk.sarif import sarif_log

    findings = list(findings)
    if sarif is not None:
        log = sarif_log(findings, version=__version__, base=Path.cwd(), rules=rules)
        try:
            sarif.write_text(json.dumps(log, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"--sarif {sarif}: cannot be written: {error.strerror}") from None
    counts = Counter(finding.severity.value for finding in findings)
    if as_json:
        print_json({"findings": [finding.as_dict() for finding in findings], "counts": dict(counts)})
    else:
        for finding in findings:
            _show(finding)
        found = ", ".join(counted(counts[each.value], each.value) for each in Severity)
        typer.echo(f"{examined} examined: {found}", err=True)
    if counts[Severity.ERROR.value]:
        raise typer.Exit(1)


def _show(finding: FileFinding) -> None:
    """Place, what is wrong, what comes of it, what to do."""
    severity = typer.style(finding.severity.value, fg=_COLOURS[finding.severity.value], bold=True)
    at = f" {finding.json_path}" if finding.json_path else ""
    typer.echo(f"{from_here(finding.source)}: {severity} [{finding.rule}]{at}")
    typer.echo(f"    {finding.problem}")
    typer.echo(f"    At run time: {finding.effect}")
    typer.echo(f"    To mend it: {finding.remedy}")
    typer.echo()
