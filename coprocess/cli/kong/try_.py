"""`coprocess kong try`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coprocess.cli.attempt import (
    AsJson,
    Asked,
    Attempt,
    Data,
    Full,
    Headers,
    UpstreamBody,
    UpstreamUrl,
    Watch,
    given_bytes,
    has_colour,
    named_files,
    store_of_attempt,
)
from coprocess.errors import ConfigError
from coprocess.gateways.kong.plugin_file import has_plugin, name_in

if TYPE_CHECKING:
    from coprocess.desk.kong.trial import Trial


def try_(
    plugin: Annotated[
        Path, typer.Argument(metavar="PLUGIN.py", help="The plugin's file, or a folder of native handlers.")
    ],
    method: Annotated[str, typer.Argument(help="HTTP method.")],
    path: Annotated[str, typer.Argument(help="Path and query; https://HOST/PATH runs certificate, too.")],
    header: Headers = None,
    data: Data = None,
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
            help="Kong's declarative configuration, JSON or YAML; plugins that it names, and that lie beside "
            "PLUGIN.py, are taken, too. Default: the plugin on everything.",
        ),
    ] = None,
    upstream: UpstreamUrl = None,
    upstream_body: UpstreamBody = None,
    no_lua_style: Annotated[
        bool,
        typer.Option("--no-lua-style", help="PDK calls give the value and raise, instead of (value, err)."),
    ] = False,
    as_json: AsJson = False,
    watch: Watch = False,
    full: Full = False,
) -> None:
    """Send a request through a simulated Kong, and show what the plugin does with it, call by call.

    The plugin runs as under `coprocess kong serve`. Exit status 0 where the client gets an answer below 500
    and nothing fails, else 1.
    """
    attempt = _Attempt(
        Asked.of(method, path, header, data, upstream, upstream_body),
        as_json,
        full,
        plugins=[plugin, *(more or [])],
        scheme="https" if path.startswith("https://") else "http",
        plugin_config=plugin_config,
        declarative=declarative,
        lua_style=not no_lua_style,
    )
    attempt.go(watch=watch)


def _beside(given: list[Path], names: set[str]) -> list[Path]:
    """Plugins of these names that lie beside the one that is given first, and are not given."""
    if not names or not given[0].is_file():
        return []
    known = {name_in(path) for path in given if path.is_file()}
    beside = [path for path in sorted(given[0].parent.glob("*.py")) if has_plugin(path)]
    return [path for path in beside if name_in(path) in names - known]


@dataclass(frozen=True, slots=True)
class _Attempt(Attempt):
    plugins: list[Path]
    scheme: str
    plugin_config: str | None
    declarative: Path | None
    lua_style: bool

    def run(self) -> bool:
        from coprocess.desk.kong.declarative import plugins_named, read_declarative
        from coprocess.desk.kong.trial import TrialKong, plugin_servers
        from coprocess.desk.output import captured_streams

        document = read_declarative(self.declarative) if self.declarative else None
        config = self._config()
        plugins = [*self.plugins, *_beside(self.plugins, plugins_named(document))]
        with ExitStack() as stack:
            stack.enter_context(store_of_attempt(None))
            with redirect_stdout(sys.stderr):
                servers = stack.enter_context(plugin_servers(plugins, lua_style=self.lua_style))
            first = next(iter(servers.infos))
            configs = {} if config is None else {first: config}
            kong = TrialKong(
                servers,
                self.asked.upstream(),
                configs=configs,
                declarative=document,
            )
            stack.callback(kong.close)
            with captured_streams():
                asked = self.asked
                # As a client sends what is typed: its bytes.
                target = os.fsencode(asked.target).decode("latin-1")
                trial = kong.request(asked.method, target, asked.headers, asked.body, scheme=self.scheme)
        self._show(trial)
        return trial.ok

    def _config(self) -> Any:
        if self.plugin_config is None:
            return None
        if self.declarative is not None:
            raise ConfigError("--config and --declarative go not together: the file has the configuration")
        text = given_bytes("--config", self.plugin_config).decode("utf-8", "replace")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"--config: not JSON: {error}") from None

    def _show(self, trial: Trial) -> None:
        from coprocess.cli.kong.trial_text import TrialText, trial_as_dict

        text = TrialText(colour=has_colour(), full=self.full)
        self.show(lambda: trial_as_dict(trial), lambda: text.report(trial))

    def watched(self) -> tuple[Iterable[Path], Iterable[Path]]:
        files = [*self.plugins, *([self.declarative] if self.declarative else [])]
        folders = [path.resolve().parent for path in self.plugins]
        return folders, [*files, *named_files(self.plugin_config)]
