"""`coprocess doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli.findings import AsJson, Sarif, tell_findings
from coprocess.cli.options import Config, Handlers
from coprocess.process.settings_loading import load_settings
from coprocess.text import counted

_DEFAULT_CONF = Path("tyk.conf")
_DEFAULT_APIS = Path("apis")


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
    as_json: AsJson = False,
    sarif: Sarif = None,
    config: Config = None,
) -> None:
    """Find what is wrong between the gateway's configuration, API definitions, bundles and the handlers.

    Each problem is shown with its place, what would happen at run time, and how to mend it. Exit status 1
    where there is an error; warnings and notes do not count.
    """
    from coprocess.desk.tyk.doctor import RULES, examine, read_project

    settings = load_settings({"handlers": handlers, "listen": listen}, config)
    if conf is None and _DEFAULT_CONF.is_file():
        conf = _DEFAULT_CONF
    if apis is None:
        apis = [_DEFAULT_APIS] if _DEFAULT_APIS.is_dir() else []
    project = read_project(settings, conf=conf, apis=apis, bundles=bundles or [])
    # @Hook makes several hooks of a function.
    functions = {(hook.source, hook.name, hook.version) for hook in project.loaded.table}
    examined = (
        f"{counted(len(project.apis), 'definition')}, {counted(len(project.bundles), 'bundle')}, "
        f"{counted(len(functions), 'handler')}"
    )
    tell_findings(examine(project), RULES, examined=examined, as_json=as_json, sarif=sarif)
