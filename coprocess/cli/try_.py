"""`coprocess try`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from coprocess.addresses import normal_address
from coprocess.cli.options import Config, Handlers, Tls, TlsCa, TlsCert, TlsKey, TlsName, client_tls
from coprocess.cli.output import print_json
from coprocess.errors import ConfigError, CoprocessError
from coprocess.process.config import Settings, load_settings
from coprocess.text import indented

if TYPE_CHECKING:
    from coprocess.desk.tyk.simulator import Upstream
    from coprocess.desk.tyk.trial import ClientTls, Trial
    from coprocess.loading.loader import Loaded


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
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME: VALUE", help="Header of the request. Repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="BODY", help="Body of the request; @FILE reads it.")
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
    address: Annotated[
        str | None,
        typer.Option("--address", help="A running server. Default: the handlers run here."),
    ] = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_name: TlsName = None,
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
    """Send a request through a simulated gateway, and show what each hook does to it.

    Exit status 0 where the client gets an answer below 500 and no hook fails, else 1.
    """
    target, host = request_target(path)
    headers = [request_header(line) for line in header or []]
    if host and not any(name.lower() == "host" for name, _ in headers):
        headers.append(("Host", host))
    attempt = _Attempt(
        method=method.upper(),
        target=target,
        headers=headers,
        data=data,
        api=api,
        upstream=upstream,
        upstream_body=upstream_body,
        address=_address(address),
        tls=client_tls(address, tls, tls_ca, tls_cert, tls_key, tls_name),
        handlers=handlers,
        config=config,
        as_json=as_json,
        full=full,
    )
    with ExitStack() as stack:
        if address is None:
            stack.enter_context(_store(redis))
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
    api: Path | None
    upstream: str | None
    upstream_body: str | None
    address: str | None
    tls: ClientTls | None
    handlers: list[Path] | None
    config: Path | None
    as_json: bool
    full: bool

    def run(self) -> bool:
        """Whether the client got an answer below 500 and no hook failed."""
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
        for problem in problems:
            typer.echo(f"not loaded: {indented(str(problem))}", err=True)
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
                for problem in stack.enter_context(dispatcher.opening(loaded, settings.resource_timeout_s)):
                    typer.echo(f"not loaded: {indented(str(problem))}", err=True)
            gateway = ObservedGateway(definition, dispatcher, self._make_upstream())
            try:
                return gateway.request(self.method, self.target, self.headers, request_body(self.data))
            except ValueError as error:
                raise ConfigError(f"no gateway takes this request: {error}") from None

    def _make_upstream(self) -> Upstream:
        from coprocess.desk.tyk.simulator import CannedUpstream
        from coprocess.desk.tyk.trial import as_upstream

        if self.upstream is not None and not self.upstream.isdecimal():
            if self.upstream_body is not None:
                raise ConfigError(
                    "--upstream-body is for a simulated upstream, and --upstream names a real one"
                )
            return as_upstream(self.upstream)
        status = int(self.upstream or 200)
        if not 200 <= status <= 999:
            raise ConfigError(f"--upstream {status}: expected a URL, or a status from 200 to 999")
        if self.upstream_body is None:
            return as_upstream(status)
        return CannedUpstream(status, [("Content-Type", "application/json")], _bytes_of(self.upstream_body))

    def _show(self, trial: Trial, problems: list[str], file: Path | None) -> None:
        if self.as_json:
            from coprocess.cli.try_json import trial_as_dict

            name = None if file is None else str(file)
            print_json(trial_as_dict(trial, problems=problems, definition_file=name))
            return
        from coprocess.cli.try_text import TrialText

        named = self.upstream is not None and not self.upstream.isdecimal()
        name = f"at {self.upstream}" if named else "simulated: --upstream URL asks a real one"
        for line in TrialText(colour=has_colour(), full=self.full).lines(trial, name):
            typer.echo(line, color=True)

    def watch(self) -> bool:
        """Run now and after each change, until Ctrl-C; as `run`, of the last one."""
        from coprocess.cli.watch import run_watched

        settings = load_settings({"handlers": self.handlers}, self.config)
        file = self.api if self.api is not None else self._default_api()
        files = [file] if file is not None else []
        if self.data and self.data.startswith("@"):
            files.append(Path(self.data[1:]))
        return run_watched(self.run, folders=settings.folders, files=files, rule=not self.as_json)


@contextmanager
def _store(url: str | None) -> Iterator[None]:
    from coprocess.desk.store import trial_store

    with ExitStack() as stack:
        try:
            stack.enter_context(trial_store(url))
        except CoprocessError as error:
            if url is not None:
                raise
            typer.echo(f"no store: {error}", err=True)
        yield


def has_colour() -> bool:
    """Whether the terminal shows colours, and is not asked to do without."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def asked_upstream(upstream: str | None, body: str | None) -> Any:
    """What `--upstream` and `--upstream-body` ask for: a URL, a status, or a reply. Raises ConfigError."""
    if upstream is None or upstream.isdecimal():
        status = int(upstream or 200)
        if not 200 <= status <= 599:
            raise ConfigError(f"--upstream {status}: expected a URL, or a status from 200 to 599")
        if body is None:
            return status
        from coprocess.api.messages import respond

        return respond(status, body, headers={"Content-Type": "application/json"})
    if body is not None:
        raise ConfigError("--upstream-body is for a simulated upstream, and --upstream names a real one")
    return upstream


def request_target(path: str) -> tuple[str, str]:
    """Path and query, and the host of a URL that was pasted whole."""
    if "://" in path:
        try:
            parts = urlsplit(path)
        except ValueError as error:
            raise ConfigError(f"{path!r} is no URL: {error}") from None
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), parts.netloc
    if not path.startswith("/"):
        raise ConfigError(f"{path!r} is no path: it begins with a slash")
    return path, ""


def request_body(data: str | None) -> bytes:
    """What `--data` says, or the file that it names. Raises ConfigError."""
    if data is None or not data.startswith("@"):
        return _bytes_of(data or "")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--data {data}: cannot be read: {error.strerror}") from None


def _bytes_of(text: str) -> bytes:
    """What was typed: a terminal's bytes need not be text."""
    return text.encode("utf-8", "surrogateescape")


def request_header(line: str) -> tuple[str, str]:
    """`NAME: VALUE`, one character a byte. Raises ConfigError."""
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header {line!r}: expected NAME: VALUE")
    # One character a byte, as headers travel.
    return name.strip(), _bytes_of(value.strip()).decode("latin-1")


def _address(address: str | None) -> str | None:
    try:
        return None if address is None else normal_address(address)
    except ValueError as error:
        raise ConfigError(f"--address {error}") from None
