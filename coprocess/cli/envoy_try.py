"""`coprocess envoy try`."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.cli.options import Config, Handlers
from coprocess.cli.output import print_json
from coprocess.cli.try_ import asked_upstream, has_colour, request_body, request_header, request_target
from coprocess.errors import ConfigError, CoprocessError
from coprocess.process.config import Settings, load_settings
from coprocess.text import indented

if TYPE_CHECKING:
    from coprocess.desk.envoy.simulator import EnvoyConfig
    from coprocess.desk.envoy.trial import Trial
    from coprocess.gateways.envoy.chain import Chains
    from coprocess.loading.loader import Loaded

_DEFAULT_FILE = Path("envoy.yaml")


def try_(
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    path: Annotated[str, typer.Argument(help="Path and query.")],
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME: VALUE", help="Header of the request. Repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="BODY", help="Body of the request; @FILE reads it.")
    ] = None,
    chain: Annotated[
        str,
        typer.Option("--chain", metavar="NAME", help="A table [chains.NAME]. Default: all handlers."),
    ] = "",
    authz: Annotated[bool, typer.Option("--authz", help="By ext_authz, for CustomKeyCheck alone.")] = False,
    envoy: Annotated[
        Path | None,
        typer.Option(
            "--envoy",
            metavar="FILE",
            help="Envoy's configuration. Default: envoy.yaml, if there, or what `envoy config` prints.",
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            metavar="URL|STATUS",
            help="Service to ask, or status of a simulated one. Default: a simulated one answers 200.",
        ),
    ] = None,
    upstream_body: Annotated[
        str | None, typer.Option("--upstream-body", metavar="BODY", help="Body of the simulated upstream.")
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", help="Store. Default: a temporary one, empty at the start."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Run again when a file changes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Fold nothing.")] = False,
    handlers: Handlers = None,
    config: Config = None,
) -> None:
    """Send a request through a simulated Envoy and the handlers, and show each message and what comes of it.

    The handlers run in the code of `serve --envoy`. Exit status 0 where the client gets an answer below 500
    and no handler fails, else 1.
    """
    from coprocess.desk.store import trial_store

    if envoy is not None and (chain or authz):
        raise ConfigError("--envoy says which handlers run, and how: it does not go with --chain or --authz")
    target, host = request_target(path)
    headers = [request_header(line) for line in header or []]
    if host and not any(name.lower() == "host" for name, _ in headers):
        headers.append(("Host", host))
    attempt = _Attempt(
        method=method.upper(),
        target=target,
        headers=headers,
        data=data,
        chain=chain,
        authz=authz,
        envoy=envoy,
        upstream=upstream,
        upstream_body=upstream_body,
        handlers=handlers,
        config=config,
        as_json=as_json,
        full=full,
    )
    with ExitStack() as stack:
        try:
            stack.enter_context(trial_store(redis))
        except CoprocessError as error:
            if redis is not None:
                raise
            typer.echo(f"no store: {error}", err=True)
        ok = attempt.watch() if watch else attempt.run()
    if not ok:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What was asked for; each `run` reads the files anew."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    data: str | None
    chain: str
    authz: bool
    envoy: Path | None
    upstream: str | None
    upstream_body: str | None
    handlers: list[Path] | None
    config: Path | None
    as_json: bool
    full: bool

    def run(self) -> bool:
        """Whether the client got an answer below 500 and no handler failed."""
        from coprocess.cli.envoy_loading import loaded_handlers
        from coprocess.desk.as_upstream import as_upstream
        from coprocess.desk.envoy.trial import HandlerServer, TrialEnvoy
        from coprocess.desk.output import captured_streams
        from coprocess.process.chain_settings import load_chains

        settings = load_settings({"handlers": self.handlers}, self.config)
        chains = load_chains(self.config)
        with ExitStack() as stack:
            with redirect_stdout(sys.stderr):
                loaded = loaded_handlers(settings, self.config)
                stack.callback(loaded.forget)
                for problem in loaded.problems:
                    typer.echo(f"not loaded: {indented(str(problem))}", err=True)
                envoy_config = self._envoy_config(settings, loaded, chains)
                server = stack.enter_context(
                    HandlerServer(
                        loaded,
                        chains=lambda: chains,
                        timeout_s=settings.timeout_s,
                        failure_status=settings.failure_status,
                        max_body_bytes=settings.max_message_bytes,
                    )
                )
                for problem in server.problems:
                    typer.echo(f"not loaded: {indented(str(problem))}", err=True)
            envoy = TrialEnvoy(
                server, envoy_config, as_upstream(asked_upstream(self.upstream, self.upstream_body))
            )
            with captured_streams():
                trial = envoy.request(self.method, self.target, self.headers, request_body(self.data))
        self._show(trial)
        return trial.ok

    def _envoy_config(self, settings: Settings, loaded: Loaded, chains: Chains) -> EnvoyConfig:
        from coprocess.desk.envoy.trial import config_in, config_of
        from coprocess.desk.envoy.wanted import wanted_of

        path = self.envoy
        if path is None and not self.chain and not self.authz and _DEFAULT_FILE.is_file():
            path = _DEFAULT_FILE
        if path is not None:
            host = next((value for name, value in self.headers if name.lower() == "host"), "")
            return config_in(path, host)
        return config_of(wanted_of(settings, loaded.table, chains, self.chain, is_authz=self.authz))

    def _show(self, trial: Trial) -> None:
        from coprocess.cli.envoy_text import TrialText, trial_as_dict

        if self.as_json:
            print_json(trial_as_dict(trial))
            return
        for line in TrialText(colour=has_colour(), full=self.full).report(trial):
            typer.echo(line, color=True)

    def watch(self) -> bool:
        """Run now and after each change, until Ctrl-C; as `run`, of the last one."""
        from coprocess.cli.watch import run_watched

        settings = load_settings({"handlers": self.handlers}, self.config)
        files = [self.envoy] if self.envoy is not None else []
        if self.data and self.data.startswith("@"):
            files.append(Path(self.data[1:]))
        return run_watched(self.run, folders=settings.folders, files=files, rule=not self.as_json)
