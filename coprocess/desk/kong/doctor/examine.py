"""All rules, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coprocess.bounded import repr_of
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.kong.declarative import NoYaml, plugins_named, read_declarative
from coprocess.desk.kong.doctor.commands import (
    environment_findings,
    names_of,
    plugins_of,
    program_of,
    program_problem,
    remedy_of,
    served_sockets,
    words_of,
)
from coprocess.desk.kong.doctor.conf import KONGS_OWN, Conf, PluginServer, read_conf
from coprocess.desk.kong.doctor.findings import NO_START, finding
from coprocess.desk.kong.doctor.query import phase_findings, queried
from coprocess.desk.kong.doctor.styles import PluginCode, read_code
from coprocess.desk.kong.simulator.dump import PluginInfo
from coprocess.desk.kong.simulator.entities import load_entities
from coprocess.errors import ConfigError
from coprocess.gateways.kong.plugin import is_version

#: Longer ones do not fit in a unix address.
_LONGEST_SOCKET = 107


def examine(
    conf_path: Path | None, declarative_path: Path | None, plugins: Sequence[Path], *, run: bool = True
) -> list[FileFinding]:
    """What would go wrong, by file and place. `run`: run query commands, as Kong does at start."""
    return sorted(
        set(_Examination(conf_path, declarative_path, plugins, run).found()), key=lambda each: each.order
    )


class _Examination:
    def __init__(
        self, conf_path: Path | None, declarative_path: Path | None, plugins: Sequence[Path], run: bool
    ) -> None:
        self.conf_path = conf_path
        self.declarative_path = declarative_path
        self.run = run
        self.files: dict[Path, PluginServer | None] = dict.fromkeys(plugins)
        self.infos: dict[str, PluginInfo] = {}
        #: Plugins of servers that have not told of them, by what their files and kong.conf call them.
        self.untold: list[str] = []

    def found(self) -> Iterator[FileFinding]:
        if self.conf_path is not None:
            try:
                conf = read_conf(self.conf_path)
            except ConfigError as error:
                yield finding("conf-unreadable", self.conf_path, 0, f"{error}.", NO_START, "Mend the file.")
            else:
                yield from self._conf(conf)
        for path, server in self.files.items():
            yield from self._code(path, server)
        if self.declarative_path is not None:
            yield from self._declarative(self.declarative_path)

    # kong.conf

    def _conf(self, conf: Conf) -> Iterator[FileFinding]:
        for line in conf.odd_lines:
            yield finding(
                "conf-unreadable",
                conf.path,
                line,
                "The line is no setting.",
                "Kong does not read it.",
                "Write name = value, or put a # before it.",
            )
        servers = conf.servers
        for setting in conf.settings.values():
            if not setting.name.startswith("pluginserver_") or setting.name == "pluginserver_names":
                continue
            if not any(setting.name in _settings_of(server) for server in servers):
                names = ", ".join(server.name for server in servers) or "none"
                yield finding(
                    "conf-unknown-setting",
                    conf.path,
                    setting.line,
                    f"{setting.name} belongs to no plugin server. pluginserver_names lists: {names}.",
                    "Kong does not look at it.",
                    "Write names in lower case, _ for -, then _socket, _start_cmd or _query_cmd.",
                )
        for server in servers:
            yield from self._server(server)
        yield from self._enabled(conf)

    def _server(self, server: PluginServer) -> Iterator[FileFinding]:
        path = server.conf.path
        if not server.query_cmd:
            yield finding(
                "conf-no-query-cmd",
                path,
                server.line("query_cmd"),
                f"The plugin server {server.name!r} has no query command.",
                NO_START,
                f"Set {server.key}_query_cmd; `coprocess kong conf PLUGIN.py` prints the block.",
            )
        if not server.start_cmd:
            yield finding(
                "conf-no-start-cmd",
                path,
                server.line("start_cmd"),
                f"The plugin server {server.name!r} has no start command.",
                "Kong starts no server: somebody else must, before the first request.",
                f"Set {server.key}_start_cmd, or see that the server runs.",
                Severity.WARNING,
            )
        cannot_run = False
        for what, command in (("query_cmd", server.query_cmd), ("start_cmd", server.start_cmd)):
            if command:
                told = list(self._command(server, what, command))
                yield from told
                cannot_run = cannot_run or (bool(told) and what == "query_cmd")
        yield from self._socket(server)
        info: PluginInfo | None = None
        if server.query_cmd and self.run:
            for outcome in queried(server):
                if not isinstance(outcome, FileFinding):
                    info = outcome
                elif not (cannot_run and outcome.rule == "dump-broken"):  # Else it is told.
                    yield outcome
        if info is not None:
            self.infos[info.name] = info
            yield from phase_findings(server, info)
        files = plugins_of(words_of(server.start_cmd))
        self.files.update(dict.fromkeys(files, server))
        if info is None:
            self.untold += names_of(words_of(server.start_cmd)) or [server.name]

    def _command(self, server: PluginServer, what: str, command: str) -> Iterator[FileFinding]:
        path, line = server.conf.path, server.line(what)
        effect = (
            NO_START
            if what == "query_cmd"
            else ("No server listens: requests get 500, or pass without the plugin. Kong tries each second.")
        )
        words = words_of(command)
        if not words:
            yield finding(
                "conf-command",
                path,
                line,
                f"{what} cannot be read as a command: {command!r}.",
                effect,
                "Mend its quotes.",
            )
            return
        program = program_of(words)
        if program is not None:
            problem = program_problem(program, what)
            if problem:
                yield finding("conf-command", path, line, f"{what}: {problem}", effect, remedy_of(program))
        if what == "start_cmd":
            yield from environment_findings(server, command, words)

    def _socket(self, server: PluginServer) -> Iterator[FileFinding]:
        path, line = server.conf.path, server.line("socket")
        if len(server.socket.encode()) > _LONGEST_SOCKET:
            yield finding(
                "conf-socket",
                path,
                line,
                f"The socket's path has {len(server.socket.encode())} bytes: {_LONGEST_SOCKET} is the most.",
                "No server can listen there: requests get 500.",
                "Choose a shorter prefix.",
            )
        words = words_of(server.start_cmd)
        served = served_sockets(words)
        if served and "$" not in served[0] and server.socket not in served:
            yield finding(
                "conf-socket",
                path,
                line,
                f"Kong connects to {server.socket}; the start command listens on {' and '.join(served)}.",
                "Kong finds no server: each request gets 500.",
                f"Set {server.key}_socket = {served[0]}, or the server's -p and --socket-name.",
            )

    def _enabled(self, conf: Conf) -> Iterator[FileFinding]:
        enabled = conf.names("plugins") or ["bundled"]
        line = conf.line("plugins")
        for name in self.infos:
            if name not in enabled:
                yield finding(
                    "conf-not-enabled",
                    conf.path,
                    line,
                    f"plugins = {', '.join(enabled)} lacks {name!r}, of which a plugin server tells.",
                    "Kong does not know the plugin: a configuration that uses it is refused.",
                    f"Write plugins = {', '.join([*enabled, name])}.",
                )
        known = [*self.infos, *self.untold]
        for name in enabled:
            if name in known:
                continue
            if any(_alike(name, other) for other in known):
                yield finding(
                    "conf-not-enabled",
                    conf.path,
                    line,
                    f"plugins lists {name!r}, and the plugin calls itself {_nearest(name, known)!r}.",
                    f"{NO_START} It says: enabled but not installed.",
                    "Use one name, to the letter.",
                )
            elif name not in KONGS_OWN and conf.servers:
                yield finding(
                    "conf-not-enabled",
                    conf.path,
                    line,
                    f"plugins lists {name!r}, of which no server tells, and which is none of Kong's own.",
                    f"{NO_START} It says: enabled but not installed. A plugin in Lua may be installed there.",
                    f"Leave {name!r} out, or have a server tell of it: pluginserver_names and its query_cmd.",
                    Severity.WARNING,
                )

    # Code

    def _code(self, path: Path, server: PluginServer | None) -> Iterator[FileFinding]:
        try:
            code = read_code(path)
        except ConfigError as error:
            yield finding(
                "plugin-broken", path, 0, f"{error}.", "Its server does not start.", "Mend the file."
            )
            return
        for name, line, phase in code.misspelt:
            yield finding(
                "phase-never-runs",
                path,
                line,
                f"{name} is no phase of Kong's. Did you mean {phase}?",
                "Kong never runs it, and says nothing.",
                f"Name it {phase}, or otherwise than a phase.",
                Severity.WARNING,
            )
        for version, line in code.versions:
            if version is not None and not is_version(version):
                yield finding(
                    "dump-refused",
                    path,
                    line,
                    f"version is {repr_of(version, 60)}.",
                    "The plugin does not load, as Kong does not start with such a version.",
                    'Write text as "1.0.0".',
                )
        for problem, line in code.unknown:
            yield finding(
                "method-unknown",
                path,
                line,
                problem if problem.endswith("?") else f"{problem}.",
                "The call raises, which refuses the request. With kong-pdk it gave None.",
                "Write the name that is meant; kong.call asks Kong for any.",
            )
        for phase, line in code.yielding:
            yield finding(
                "phase-never-runs",
                path,
                line,
                f"{phase} yields: a call of it runs none of its code.",
                "The plugin does not load.",
                "Have it return; yield in a function of its own that it goes through.",
            )
        for method, line in code.unpacked:
            yield finding(
                "style-wrong",
                path,
                line,
                f"{method} is taken as (value, err). In an async phase it is the value alone.",
                "The plugin does not load.",
                f"Write value = await {method}(…): it raises where Kong tells of an error.",
            )
        command = server.start_cmd if server else ""
        yield from _styles(
            code, no_lua_style="--no-lua-style" in words_of(command), has_command=bool(command)
        )

    # The declarative configuration

    def _declarative(self, path: Path) -> Iterator[FileFinding]:
        try:
            document = read_declarative(path)
        except NoYaml:  # Nothing is wrong with the file.
            raise
        except ConfigError as error:
            yield finding("config-refused", path, 0, f"{error}.", NO_START, "Mend the file.")
            return
        used = plugins_named(document)
        others = {name: PluginInfo(name, (), 0, "0.0.0", []) for name in used}
        known = others | self.infos
        try:
            entities = load_entities(_without_configs(document, set(self.infos)), known)
        except ConfigError as error:
            yield finding(
                "config-refused",
                path,
                0,
                f"{error}.",
                f"{NO_START} With a database, the Admin API refuses it.",
                "Give the plugin what its Schema says.",
            )
            return
        for entity in entities.plugins:
            info = self.infos.get(entity.name)
            if info is None:
                continue
            is_global = entity.route is None and entity.service is None and entity.consumer is None
            for phase in ("rewrite", "certificate"):
                if phase in info.phases and not is_global:
                    yield finding(
                        "phase-never-runs",
                        path,
                        0,
                        f"{entity.name!r} has the phase {phase}, and is put on a route, service or consumer.",
                        f"In {phase}, Kong does not know those yet: it never runs.",
                        "Put the plugin on everything, or do it in access.",
                        Severity.WARNING,
                    )
            if "preread" in info.phases and not {"tcp", "tls", "udp"} & set(entity.protocols):
                yield finding(
                    "phase-never-runs",
                    path,
                    0,
                    f"{entity.name!r} has the phase preread, and its protocols lack tcp.",
                    "preread never runs.",
                    "Give the plugin entity protocols: [tcp].",
                    Severity.WARNING,
                )
        for name in self.infos:
            if name not in used:
                yield finding(
                    "config-unused",
                    path,
                    0,
                    f"{name!r} is used nowhere.",
                    "Kong never runs it.",
                    "Put it under plugins, or under a service's or route's plugins.",
                    Severity.WARNING,
                )


def _settings_of(server: PluginServer) -> tuple[str, ...]:
    return tuple(f"{server.key}_{what}" for what in ("socket", "start_cmd", "query_cmd"))


def _styles(code: PluginCode, *, no_lua_style: bool, has_command: bool) -> Iterator[FileFinding]:
    pairs, values = code.pairs, code.values
    if pairs and values:
        first = values[0] if not no_lua_style else pairs[0]
        yield finding(
            "style-mixed",
            code.path,
            first.line,
            f"{values[0].method} in line {values[0].line} is taken as a value, {pairs[0].method} in line "
            f"{pairs[0].line} as (value, err).",
            "One of both is wrong: a pair is always true, and a value cannot be unpacked.",
            "Take all in one style; --no-lua-style makes them values.",
        )
    elif values and not no_lua_style and not code.is_async:
        yield finding(
            "style-wrong",
            code.path,
            values[0].line,
            f"{values[0].method} is taken as a value. Without --no-lua-style it is (value, err).",
            "A pair is always true: `if not …` never holds.",
            "Write value, err = …, or start the server with --no-lua-style.",
            Severity.ERROR if has_command else Severity.WARNING,
        )
    elif pairs and no_lua_style:
        yield finding(
            "style-wrong",
            code.path,
            pairs[0].line,
            f"{pairs[0].method} is taken as (value, err), and the server runs with --no-lua-style.",
            "It raises, or takes the first two letters of a text.",
            "Take the value alone, or leave out --no-lua-style.",
        )


def _without_configs(document: Any, known: set[str]) -> Any:
    """Without the configuration of plugins that nobody here knows the schema of."""
    if isinstance(document, list):
        return [_without_configs(each, known) for each in document]
    if not isinstance(document, dict):
        return document
    copied = {name: _without_configs(value, known) for name, value in document.items()}
    if isinstance(copied.get("name"), str) and copied["name"] not in known and "config" in copied:
        del copied["config"]
    return copied


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _alike(one: str, other: str) -> bool:
    return one != other and _plain(one) == _plain(other)


def _nearest(name: str, names: Iterable[str]) -> str:
    return next(other for other in names if _alike(name, other))
