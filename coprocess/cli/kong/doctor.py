"""`coprocess kong doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli.findings import AsJson, Sarif, tell_findings
from coprocess.errors import ConfigError
from coprocess.text import counted

_CONF = Path("kong.conf")
_DECLARATIVE = ("kong.yml", "kong.yaml", "kong.json")


def doctor(
    plugins: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PLUGIN.py…", help="Plugins, beside those that kong.conf starts."),
    ] = None,
    conf: Annotated[
        Path | None,
        typer.Option("--conf", metavar="FILE", help="kong.conf. Default: kong.conf, if there."),
    ] = None,
    declarative: Annotated[
        Path | None,
        typer.Option(
            "--declarative", metavar="FILE", help="Declarative configuration. Default: kong.yml, if there."
        ),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Run the query commands, as Kong does at start.")
    ] = True,
    as_json: AsJson = False,
    sarif: Sarif = None,
) -> None:
    """Find what is wrong between kong.conf, the declarative configuration and the plugins.

    Each problem is shown with its place, what would happen at run time, and how to mend it. Exit status 1
    where there is an error; warnings and notes do not count.
    """
    from coprocess.desk.kong.doctor import RULES, examine

    if conf is None and _CONF.is_file():
        conf = _CONF
    if declarative is None:
        declarative = next((Path(name) for name in _DECLARATIVE if Path(name).is_file()), None)
    if conf is None and declarative is None and not plugins:
        raise ConfigError("nothing to examine. Expected: --conf FILE, --declarative FILE or PLUGIN.py")
    files = [*(plugins or ()), *filter(None, (conf, declarative))]
    for path in files:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    findings = examine(conf, declarative, plugins or [], run=run)
    tell_findings(findings, RULES, examined=counted(len(files), "file"), as_json=as_json, sarif=sarif)
