"""`coprocess envoy try`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.cli.attempt import (
    AsJson,
    Asked,
    Attempt,
    Data,
    Full,
    Headers,
    Redis,
    UpstreamBody,
    UpstreamUrl,
    Watch,
    has_colour,
    store_of_attempt,
    tell_not_loaded,
)
from coprocess.cli.options import Config, Handlers
from coprocess.errors import ConfigError
from coprocess.process.config import Settings
from coprocess.process.settings_loading import load_settings

if TYPE_CHECKING:
    from coprocess.desk.envoy.simulator import EnvoyConfig
    from coprocess.desk.envoy.trial import Trial
    from coprocess.gateways.envoy.chain import Chains
    from coprocess.loading.loaded import Loaded

_DEFAULT_FILE = Path("envoy.yaml")


def try_(
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    path: Annotated[str, typer.Argument(help="Path and query.")],
    header: Headers = None,
    data: Data = None,
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
    upstream: UpstreamUrl = None,
    upstream_body: UpstreamBody = None,
    redis: Redis = None,
    as_json: AsJson = False,
    watch: Watch = False,
    full: Full = False,
    handlers: Handlers = None,
    config: Config = None,
) -> None:
    """Send a request through a simulated Envoy and the handlers, and show each message and what comes of it.

    The handlers run in the code of `serve --envoy`. Exit status 0 where the client gets an answer below 500
    and no handler fails, else 1.
    """
    if envoy is not None and (chain or authz):
        raise ConfigError("--envoy says which handlers run, and how: it does not go with --chain or --authz")
    attempt = _Attempt(
        Asked.of(method, path, header, data, upstream, upstream_body),
        as_json,
        full,
        chain=chain,
        authz=authz,
        envoy=envoy,
        handlers=handlers,
        config=config,
    )
    with store_of_attempt(redis):
        attempt.go(watch=watch)


@dataclass(frozen=True, slots=True)
class _Attempt(Attempt):
    chain: str
    authz: bool
    envoy: Path | None
    handlers: list[Path] | None
    config: Path | None

    def run(self) -> bool:
        from coprocess.cli.envoy_loading import loaded_handlers
        from coprocess.desk.envoy.trial import HandlerServer, TrialEnvoy
        from coprocess.desk.output import captured_streams
        from coprocess.process.chain_settings import load_chains

        settings = load_settings({"handlers": self.handlers}, self.config)
        chains = load_chains(self.config)
        with ExitStack() as stack:
            with redirect_stdout(sys.stderr):
                loaded = loaded_handlers(settings, self.config)
                stack.callback(loaded.forget)
                tell_not_loaded(loaded.problems)
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
                tell_not_loaded(server.problems)
            asked = self.asked
            envoy = TrialEnvoy(server, envoy_config, asked.upstream())
            with captured_streams():
                trial = envoy.request(asked.method, asked.target, asked.headers, asked.body)
        self._show(trial)
        return trial.ok

    def _envoy_config(self, settings: Settings, loaded: Loaded, chains: Chains) -> EnvoyConfig:
        from coprocess.desk.envoy.trial import config_in, config_of
        from coprocess.desk.envoy.wanted import wanted_of

        if (path := self._file()) is not None:
            return config_in(path, self.asked.host)
        return config_of(wanted_of(settings, loaded.table, chains, self.chain, is_authz=self.authz))

    def _file(self) -> Path | None:
        """Envoy's configuration; None: it is made."""
        if self.envoy is not None or self.chain or self.authz or not _DEFAULT_FILE.is_file():
            return self.envoy
        return _DEFAULT_FILE

    def _show(self, trial: Trial) -> None:
        from coprocess.cli.envoy_text import TrialText, trial_as_dict

        text = TrialText(colour=has_colour(), full=self.full)
        self.show(lambda: trial_as_dict(trial), lambda: text.report(trial))

    def watched(self) -> tuple[Iterable[Path], Iterable[Path]]:
        settings = load_settings({"handlers": self.handlers}, self.config)
        file = self._file()
        return settings.folders, [file] if file is not None else []
