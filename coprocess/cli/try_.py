"""`coprocess try`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.addresses import normal_address
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
from coprocess.cli.options import Address, Config, Handlers, Tls, TlsCa, TlsCert, TlsKey, TlsName, client_tls
from coprocess.cli.output import print_json
from coprocess.errors import ConfigError
from coprocess.process.config import Settings
from coprocess.process.settings_loading import load_settings

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial import ClientTls, Trial
    from coprocess.loading.loaded import Loaded


def try_(
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    path: Annotated[str, typer.Argument(help="Path and query, the API's listen path included.")],
    api: Annotated[
        Path | None,
        typer.Option(
            "--api",
            metavar="FILE",
            help="API definition, classic or OAS. Default: api.json, or the only one in apis/, or a keyless "
            "API that names every loaded handler.",
        ),
    ] = None,
    header: Headers = None,
    data: Data = None,
    upstream: UpstreamUrl = None,
    upstream_body: UpstreamBody = None,
    address: Address = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
    redis: Redis = None,
    as_json: AsJson = False,
    watch: Watch = False,
    full: Full = False,
    handlers: Handlers = None,
    config: Config = None,
) -> None:
    """Send a request through a simulated gateway, and show what each hook does to it.

    Exit status 0 where the client gets an answer below 500 and no hook fails, else 1.
    """
    attempt = _Attempt(
        Asked.of(method, path, header, data, upstream, upstream_body),
        as_json,
        full,
        api=api,
        address=_address(address),
        tls=client_tls(address, tls, tls_ca, tls_cert, tls_key, tls_name),
        handlers=handlers,
        config=config,
    )
    with store_of_attempt(redis) if address is None else nullcontext():
        attempt.go(watch=watch)


@dataclass(frozen=True, slots=True)
class _Attempt(Attempt):
    api: Path | None
    address: str | None
    tls: ClientTls | None
    handlers: list[Path] | None
    config: Path | None

    def run(self) -> bool:
        from coprocess.api.app import configuring
        from coprocess.desk.output import captured_streams
        from coprocess.gateways.tyk.home import HOME
        from coprocess.loading import loader
        from coprocess.process.app_settings import load_app_settings
        from coprocess.process.route_settings import load_routes

        settings = load_settings({"handlers": self.handlers}, self.config)
        loaded: Loaded | None = None
        # Of a server elsewhere, the handlers are of interest only where they are named.
        if self.address is None or self.handlers:
            with redirect_stdout(sys.stderr), configuring(load_app_settings(self.config)):
                loaded = loader.load(settings.folders, HOME, load_routes(self.config))
        problems = [str(problem) for problem in loaded.problems] if loaded else []
        tell_not_loaded(problems)
        file = self.api if self.api is not None else self._default_api()
        try:
            with captured_streams():
                trial = self._trial(settings, loaded, file)
        finally:
            if loaded is not None:
                loaded.forget()
        self._show(trial, problems, file)
        return trial.ok

    def _default_api(self) -> Path | None:
        from coprocess.desk.tyk.trial import find_definition

        try:
            return find_definition(Path())
        except ConfigError as error:
            raise ConfigError(f"{error}, with --api") from None

    def _trial(self, settings: Settings, loaded: Loaded | None, file: Path | None) -> Trial:
        from coprocess.desk.tyk.simulator import ApiDefinition
        from coprocess.desk.tyk.trial import (
            GrpcDispatcher,
            InProcessDispatcher,
            ObservedGateway,
            dispatcher_of,
            keyless_definition,
        )

        if file is not None:
            definition = ApiDefinition.load(file)
        elif loaded is not None and len(loaded.table):
            definition = keyless_definition(loaded.table)
        elif loaded is not None:
            raise ConfigError("no handlers were found, and no API definition. Name them: --handlers, --api")
        else:
            raise ConfigError("--address needs --api: the definition says which hooks to call")
        dispatcher: InProcessDispatcher | GrpcDispatcher
        if self.address is not None:
            dispatcher = GrpcDispatcher(self.address, tls=self.tls)
        else:
            assert loaded is not None  # noqa: S101 - without an address, handlers are loaded
            dispatcher = dispatcher_of(loaded.table, settings)
        with ExitStack() as stack:
            stack.enter_context(dispatcher)
            if isinstance(dispatcher, InProcessDispatcher) and loaded is not None:
                tell_not_loaded(stack.enter_context(dispatcher.opening(loaded, settings.resource_timeout_s)))
            gateway = ObservedGateway(definition, dispatcher, self.asked.upstream())
            asked = self.asked
            try:
                return gateway.request(asked.method, asked.target, asked.headers, asked.body)
            except ValueError as error:
                raise ConfigError(f"no gateway takes this request: {error}") from None

    def _show(self, trial: Trial, problems: list[str], file: Path | None) -> None:
        if self.as_json:
            from coprocess.cli.try_json import trial_as_dict

            name = None if file is None else str(file)
            print_json(trial_as_dict(trial, problems=problems, definition_file=name))
            return
        from coprocess.cli.try_text import TrialText

        url = self.asked.upstream_url
        name = f"at {url}" if self.asked.has_real_upstream else "simulated: --upstream URL asks a real one"
        for line in TrialText(colour=has_colour(), full=self.full).lines(trial, name):
            typer.echo(line, color=True)

    def watched(self) -> tuple[Iterable[Path], Iterable[Path]]:
        settings = load_settings({"handlers": self.handlers}, self.config)
        file = self.api if self.api is not None else self._default_api()
        return settings.folders, [file] if file is not None else []


def _address(address: str | None) -> str | None:
    try:
        return None if address is None else normal_address(address)
    except ValueError as error:
        raise ConfigError(f"--address {error}") from None
