"""`coprocess envoy try`, `replay`, `doctor` and `config`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coprocess.cli import envoy_try
from coprocess.cli.envoy_loading import loaded_handlers
from coprocess.cli.findings import AsJson, Sarif, tell_findings
from coprocess.cli.options import Config, Handlers
from coprocess.cli.replay import Recordings, recording_files, tell_replay
from coprocess.errors import ConfigError
from coprocess.process.settings_loading import load_settings
from coprocess.text import counted, indented

_DEFAULT_FILE = Path("envoy.yaml")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Envoy at the desk: handlers tried in a simulated one, its configuration printed and examined.",
)

app.command("try")(envoy_try.try_)


@app.command()
def replay(recordings: Recordings) -> None:
    """Play recordings of a real Envoy through the simulated one, and print each difference.

    Exit status 1 on any difference.
    """
    from coprocess.desk.envoy.simulator import replay

    tell_replay(replay(recording_files(recordings)))


@app.command()
def doctor(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE|DIR…",
            help="Envoy's configuration, or Istio's and Envoy Gateway's resources. Default: envoy.yaml.",
        ),
    ] = None,
    handlers: Handlers = None,
    as_json: AsJson = False,
    sarif: Sarif = None,
    config: Config = None,
) -> None:
    """Find what is wrong between Envoy's configuration and the handlers.

    Each problem is shown with its place, what would happen at run time, and how to mend it. Exit status 1
    where there is an error; warnings and notes do not count.
    """
    from coprocess.desk.envoy.doctor import RULES, Service, examine
    from coprocess.process.chain_settings import load_chains

    settings = load_settings({"handlers": handlers}, config)
    paths = files or ([_DEFAULT_FILE] if _DEFAULT_FILE.is_file() else [])
    if not paths:
        raise ConfigError("no configuration of Envoy: expected envoy.yaml here, or files by name")
    loaded = loaded_handlers(settings, config)
    service = Service(
        loaded,
        load_chains(config),
        settings.timeout_s,
        settings.max_message_bytes,
        tuple(settings.listen),
        settings.tls_cert is not None,
    )
    findings, filters = examine(paths, service)
    examined = counted(filters, "filter")
    tell_findings(findings, RULES, examined=examined, as_json=as_json, sarif=sarif)


class Form(StrEnum):
    """Where the configuration goes."""

    parts = "parts"
    static = "static"
    istio = "istio"
    gateway = "gateway"


@app.command("config")
def config_(
    chain: Annotated[
        str,
        typer.Option("--chain", metavar="NAME", help="A table [chains.NAME]. Default: all handlers."),
    ] = "",
    form: Annotated[
        Form,
        typer.Option(
            "--form",
            help="parts: filter and cluster. static: a whole envoy.yaml. istio: an EnvoyFilter. gateway: "
            "a policy of Envoy Gateway.",
        ),
    ] = Form.parts,
    authz: Annotated[bool, typer.Option("--authz", help="ext_authz, for CustomKeyCheck alone.")] = False,
    handlers: Handlers = None,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="ADDRESS", help="Where the service listens, as for `serve`."),
    ] = None,
    config: Config = None,
) -> None:
    """Print Envoy's configuration for a chain of handlers: the filter, and the cluster of the service."""
    from coprocess.desk.envoy.configuration import FORMS
    from coprocess.desk.envoy.wanted import wanted_of
    from coprocess.process.chain_settings import load_chains

    settings = load_settings({"handlers": handlers, "listen": listen}, config)
    loaded = loaded_handlers(settings, config)
    for problem in loaded.problems:
        typer.echo(f"not loaded: {indented(str(problem))}", err=True)
    wanted = wanted_of(settings, loaded.table, load_chains(config), chain, is_authz=authz)
    typer.echo(FORMS[form.value](wanted), nl=False)
