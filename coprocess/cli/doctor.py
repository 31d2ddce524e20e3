"""`coprocess doctor`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.cli.options import Config, Handlers
from coprocess.cli.replay import counted
from coprocess.errors import ConfigError
from coprocess.process.config import load_settings

if TYPE_CHECKING:
    from coprocess.desk.tyk.doctor import Finding

_DEFAULT_CONF = Path("tyk.conf")
_DEFAULT_APIS = Path("apis")
_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "note": typer.colors.BLUE}


def doctor(
    conf: Annotated[
        Path | None,
        typer.Option("--conf", metavar="FILE", help="The gateway's tyk.conf. Default: tyk.conf, if there."),
    ] = None,
    apis: Annotated[
        list[Path] | None,
        typer.Option(
            "--apis",
            metavar="FILE|DIR",
            help="API definitions, classic or OAS. Default: apis/, if there. Repeatable.",
        ),
    ] = None,
    handlers: Handlers = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundles", metavar="DIR|ZIP", help="Bundles, or a folder of them. Repeatable."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="ADDRESS", help="Where the service listens, as for `serve`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0 too.")
    ] = None,
    config: Config = None,
) -> None:
    """Find what is wrong between the gateway's configuration, API definitions, bundles and the handlers.

    Each problem is shown with its place, what would happen at run time, and how to mend it. Exit status 1
    where there is an error; warnings and notes do not count.
    """
    from coprocess import __version__
    from coprocess.desk.tyk.doctor import Severity, examine, read_project, sarif_log

    settings = load_settings({"handlers": handlers, "listen": listen}, config)
    if conf is None and _DEFAULT_CONF.is_file():
        conf = _DEFAULT_CONF
    if apis is None:
        apis = [_DEFAULT_APIS] if _DEFAULT_APIS.is_dir() else []
    project = read_project(settings, conf=conf, apis=apis, bundles=bundles or [])
    findings = examine(project)
    if sarif is not None:
        log = sarif_log(findings, version=__version__, base=Path.cwd())
        try:
            sarif.write_text(json.dumps(log, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"--sarif {sarif}: cannot be written: {error.strerror}") from None
    counts = Counter(finding.severity.value for finding in findings)
    if as_json:
        content = {"findings": [finding.as_dict() for finding in findings], "counts": dict(counts)}
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            show_finding(finding)
        # @Hook makes several hooks of a function.
        functions = {(hook.source, hook.name, hook.version) for hook in project.loaded.table}
        looked_at = (
            f"{counted(len(project.apis), 'definition')}, {counted(len(project.bundles), 'bundle')}, "
            f"{counted(len(functions), 'handler')}"
        )
        found = ", ".join(counted(counts[each.value], each.value) for each in Severity)
        typer.echo(f"{looked_at} examined: {found}", err=True)
    if counts[Severity.ERROR.value]:
        raise typer.Exit(1)


def show_finding(finding: Finding) -> None:
    """Place, what is wrong, what comes of it, what to do."""
    place = ":".join(map(str, filter(None, (_shown(finding.file), finding.line, finding.column))))
    severity = typer.style(finding.severity.value, fg=_COLOURS[finding.severity.value], bold=True)
    at = f" {finding.json_path}" if finding.json_path else ""
    typer.echo(f"{place}: {severity} [{finding.rule}]{at}")
    for line in _lines(finding):
        typer.echo(f"    {line}")
    typer.echo()


def _lines(finding: Finding) -> Iterable[str]:
    yield finding.problem
    yield f"At run time: {finding.effect}"
    yield f"To mend it: {finding.remedy}"


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
