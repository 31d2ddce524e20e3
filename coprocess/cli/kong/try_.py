"""`coprocess kong try`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coprocess.cli.output import print_json
from coprocess.cli.try_ import asked_upstream, has_colour, request_body, request_header, request_target
from coprocess.errors import ConfigError

if TYPE_CHECKING:
    from coprocess.desk.kong.trial import Trial


def try_(
    plugin: Annotated[
        Path, typer.Argument(metavar="PLUGIN.py", help="The plugin's file, or a folder of native handlers.")
    ],
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    path: Annotated[str, typer.Argument(help="Path and query; https://HOST/PATH runs certificate, too.")],
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME: VALUE", help="Header of the request. Repeatable."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="BODY", help="Body of the request; @FILE reads it.")
    ] = None,
    plugin_config: Annotated[
        str | None,
        typer.Option(
            "--config", metavar="JSON", help="The plugin's configuration; @FILE reads it. Default: its own."
        ),
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="PLUGIN.py", help="Another plugin beside it. Repeatable."),
    ] = None,
    declarative: Annotated[
        Path | None,
        typer.Option(
            "--declarative",
            metavar="FILE",
            help="Kong's declarative configuration, JSON or YAML. Default: the plugin on everything.",
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
    no_lua_style: Annotated[
        bool,
        typer.Option("--no-lua-style", help="PDK calls give the value and raise, instead of (value, err)."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Run again when a file changes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Fold nothing.")] = False,
) -> None:
    """Send a request through a simulated Kong, and show what the plugin does with it, call by call.

    The plugin runs as under `coprocess kong serve`. Exit status 0 where the client gets an answer below 500
    and nothing fails, else 1.
    """
    target, host = request_target(path)
    headers = [request_header(line) for line in header or []]
    if host and not any(name.lower() == "host" for name, _ in headers):
        headers.append(("Host", host))
    attempt = _Attempt(
        plugins=[plugin, *(more or [])],
        method=method.upper(),
        target=target,
        scheme="https" if path.startswith("https://") else "http",
        headers=headers,
        data=data,
        plugin_config=plugin_config,
        declarative=declarative,
        upstream=upstream,
        upstream_body=upstream_body,
        lua_style=not no_lua_style,
        as_json=as_json,
        full=full,
    )
    if not (attempt.watch() if watch else attempt.run()):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What was asked for; each `run` reads the files anew."""

    plugins: list[Path]
    method: str
    target: str
    scheme: str
    headers: list[tuple[str, str]]
    data: str | None
    plugin_config: str | None
    declarative: Path | None
    upstream: str | None
    upstream_body: str | None
    lua_style: bool
    as_json: bool
    full: bool

    def run(self) -> bool:
        """Whether the client got an answer below 500 and nothing failed."""
        from coprocess.desk.kong.declarative import read_declarative
        from coprocess.desk.kong.trial import TrialKong, plugin_servers
        from coprocess.desk.output import captured_streams

        document = read_declarative(self.declarative) if self.declarative else None
        config = self._config()
        with ExitStack() as stack:
            with redirect_stdout(sys.stderr):
                servers = stack.enter_context(plugin_servers(self.plugins, lua_style=self.lua_style))
            first = next(iter(servers.infos))
            configs = {} if config is None else {first: config}
            kong = TrialKong(
                servers,
                asked_upstream(self.upstream, self.upstream_body),
                configs=configs,
                declarative=document,
            )
            stack.callback(kong.close)
            with captured_streams():
                trial = kong.request(
                    self.method, self.target, self.headers, request_body(self.data), scheme=self.scheme
                )
        self._show(trial)
        return trial.ok

    def _config(self) -> Any:
        if self.plugin_config is None:
            return None
        if self.declarative is not None:
            raise ConfigError("--config and --declarative go not together: the file has the configuration")
        text = self.plugin_config
        if text.startswith("@"):
            text = request_body(text).decode("utf-8", "replace")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--config: not JSON: {error}") from None

    def _show(self, trial: Trial) -> None:
        from coprocess.cli.kong.trial_text import TrialText, trial_as_dict

        if self.as_json:
            print_json(trial_as_dict(trial))
            return
        for line in TrialText(colour=has_colour(), full=self.full).report(trial):
            typer.echo(line, color=True)

    def watch(self) -> bool:
        """Run now and after each change, until Ctrl-C; as `run`, of the last one."""
        from coprocess.cli.watch import run_watched

        files = [*self.plugins, *([self.declarative] if self.declarative else [])]
        named = (self.data, self.plugin_config)
        files += [Path(text[1:]) for text in named if text and text.startswith("@")]
        folders = [path.resolve().parent for path in self.plugins]
        return run_watched(self.run, folders=folders, files=files, rule=not self.as_json)
