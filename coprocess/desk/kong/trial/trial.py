"""One request through the simulated Kong and the plugins, with all that happened on the way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coprocess.desk.kong.simulator.entities import Entities, load_entities
from coprocess.desk.kong.simulator.exchange import Exchange, Facts
from coprocess.desk.kong.simulator.gateway import Kong
from coprocess.desk.kong.simulator.http import ClientRequest, Headers
from coprocess.desk.kong.trial.driver import TIMEOUT_S, Driver
from coprocess.desk.kong.trial.findings import Finding, find
from coprocess.desk.kong.trial.server import PhaseRun, PluginServers
from coprocess.desk.kong.trial.upstream import as_upstream
from coprocess.errors import ConfigError
from coprocess.gateways.kong.schema import as_text, configured

_SERVICE = "http://upstream.test"


@dataclass(slots=True)
class Trial:
    """What became of one request."""

    exchange: Exchange
    method: str
    target: str
    runs: list[PhaseRun]
    seconds: float
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        """What the client got; None where it got no answer."""
        return self.exchange.response.status if self.exchange.response else None

    @property
    def ok(self) -> bool:
        """Whether the client got an answer below 500, and nothing failed."""
        failed = any(finding.severity == "error" for finding in self.findings)
        return self.status is not None and self.status < 500 and not failed


class TrialKong:
    """A simulated Kong before plugin servers. It keeps instances and connections from request to request."""

    def __init__(
        self,
        servers: PluginServers,
        upstream: Any = None,
        *,
        configs: Mapping[str, Any] | None = None,
        declarative: Any = None,
        facts: Facts | None = None,
        timeout_s: float = TIMEOUT_S,
        may_lack: bool = False,
    ) -> None:
        """`configs`: plugin → its configuration; `declarative`: Kong's whole configuration instead.

        Without the latter every plugin is put on everything, and all goes to one service. `may_lack`: plugins
        that need a configuration may be given one by `configure`, before the first request.

        Raises ConfigError for what Kong would refuse.
        """
        self._servers = servers
        #: Plugins that need a configuration, and have none yet: with what Kong says of them.
        self._lacking: dict[str, str] = {}
        if declarative is None:
            declarative = default_declarative(servers, configs or {}, self._lacking if may_lack else None)
        self.kong = Kong(self._entities(declarative), facts or _facts())
        #: Whom an auth plugin of Kong's has found, as a Lua table; None: nobody.
        self.caller: Any = None
        self._driver = Driver(servers.sockets, as_upstream(upstream), timeout_s=timeout_s)

    def _entities(self, declarative: Any) -> Entities:
        infos = self._servers.infos
        unchecked = {name: replace(infos[name], fields=[]) for name in self._lacking}
        entities = load_entities(declarative, {**infos, **unchecked})
        for entity in entities.plugins:
            entity.info = infos.get(entity.name)
        return entities

    @property
    def upstream(self) -> Any:
        return self._driver.upstream

    @upstream.setter
    def upstream(self, upstream: Any) -> None:
        self._driver.upstream = as_upstream(upstream)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        scheme: str = "http",
    ) -> Trial:
        """Send one request. Header text holds one character a byte.

        Raises ConfigError for no target, and where a plugin lacks its configuration.
        """
        for text in self._lacking.values():
            raise ConfigError(f"{text}. Expected: kong.configure({{…}}), or config={{…}} of the marker")
        if not target.startswith("/") or any(ord(each) <= 0x20 or ord(each) > 0xFF for each in target):
            raise ConfigError(f"{target!r} is no target of a request: it begins with a slash, without blanks")
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        request = ClientRequest(method, target.encode("latin-1"), 1.1, Headers(lines), body, scheme)
        if request.headers.get(b"host") is None:
            request.headers.lines.insert(0, (b"Host", b"localhost"))
        if body and request.headers.get(b"content-length") is None:
            request.headers.add(b"Content-Length", [b"%d" % len(body)])
        x = self.kong.exchange(request)
        if scheme == "https":
            x.sni = (request.headers.get(b"host") or b"").decode("latin-1").partition(":")[0]
        x.consumer = self.caller
        self._servers.runs.clear()
        started = time.perf_counter()
        self._driver.run(self.kong.serve(x))
        seconds = time.perf_counter() - started
        self._servers.wait_for_events()
        trial = Trial(x, method, target, list(self._servers.runs), seconds)
        trial.findings = find(trial)
        return trial

    def configure(self, name: str, config: Any) -> None:
        """Give a plugin's entities another configuration. Raises ConfigError where Kong would refuse it."""
        info = self._servers.infos.get(name)
        if info is None:
            raise ConfigError(f"there is no plugin {name!r}. There are: {', '.join(self._servers.infos)}")
        filled, problems = configured(info.fields, config)
        if problems:
            raise ConfigError(f"Kong refuses the configuration of {name!r} ({as_text(problems)})")
        self._lacking.pop(name, None)
        for entity in self.kong.entities.plugins:
            if entity.name == name:
                entity.config = filled
                entity.sequence += 1

    def close(self) -> None:
        self._driver.close()


def default_declarative(
    servers: PluginServers, configs: Mapping[str, Any], lacking: dict[str, str] | None
) -> dict[str, Any]:
    """Every plugin on everything, and one service that takes all. Raises ConfigError.

    `lacking` takes plugins that have no configuration and need one; None: that is an error.
    """
    plugins = []
    for name in configs:
        if name not in servers.infos:
            known = ", ".join(servers.infos)
            raise ConfigError(f"a configuration for plugin {name!r}, which is not there. There are: {known}")
    for name, info in servers.infos.items():
        _, problems = configured(info.fields, configs.get(name))
        if problems:
            text = f"Kong refuses the configuration of {name!r} ({as_text(problems)})"
            if lacking is None or name in configs:
                raise ConfigError(text)
            lacking[name] = text
        plugins.append({"name": name, "config": configs.get(name)})
    return {
        "services": [{"name": "upstream", "url": _SERVICE, "routes": [{"name": "all", "paths": ["/"]}]}],
        "plugins": plugins,
    }


def _facts() -> Facts:
    return Facts(clock=time.time, new_request_id=lambda: secrets.token_hex(16).encode())
