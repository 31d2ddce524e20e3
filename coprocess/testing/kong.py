"""The `kong` fixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from coprocess.api.http import Headers, MultiHeaders
from coprocess.desk.kong.simulator.exchange import PdkCall as LuaCall
from coprocess.desk.kong.simulator.http import Headers as Lines
from coprocess.desk.kong.simulator.http import UpstreamRequest
from coprocess.desk.kong.simulator.lua import python, table
from coprocess.desk.kong.trial import Finding, PhaseRun, PluginServers, Trial, TrialKong
from coprocess.testing.readable import Readable, summary
from coprocess.testing.verbs import Verbs


@dataclass(frozen=True, slots=True)
class PdkCall:
    """One call of the PDK. Text that is no UTF-8 has surrogates for its bytes."""

    plugin: str
    phase: str
    #: `kong.request.get_header`
    method: str
    args: tuple[Any, ...]
    #: What Kong sent back; None is nil.
    result: Any
    #: What Kong raised.
    error: str | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of Kong's error.log. `level` is Kong's: `notice`, `err`, …"""

    level: str
    plugin: str
    text: str


class KongUpstreamRequest(Readable):
    """What reached the service."""

    _owner = "request"

    def __init__(self, request: UpstreamRequest) -> None:
        self.method = request.method
        #: Path and query.
        self.url = request.target.decode("latin-1")
        #: Where it went: host and port.
        self.address = (request.host, request.port)
        self.headers: Headers = _headers(request.headers)
        self.body = request.body

    def __repr__(self) -> str:
        return f"<KongUpstreamRequest {self.method} {self.url}>"


class KongResult(Readable):
    """What the client got, and all that happened on the way."""

    _owner = "response"

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        x = trial.exchange
        response = x.response
        #: None where the client got no answer.
        self.status: int | None = trial.status
        self.headers: Headers = _headers(response.headers) if response else MultiHeaders.unchecked(())
        self.body: bytes = response.body if response else b""
        #: None where the service was not asked.
        self.upstream: KongUpstreamRequest | None = (
            KongUpstreamRequest(x.sent) if x.sent is not None else None
        )
        #: What the plugins called, in order.
        self.calls: list[PdkCall] = [_call(call) for call in x.calls]
        #: What ran: each phase of each plugin, with what it printed and raised.
        self.runs: list[PhaseRun] = trial.runs
        self.log: list[LogLine] = [
            LogLine(line.level, line.plugin, line.text.decode("utf-8", "surrogateescape")) for line in x.log
        ]
        #: `kong.ctx.shared`, as the last phase left it.
        self.shared: dict[Any, Any] = {python(key): python(value) for key, value in x.shared.items()}
        #: What went otherwise than meant, in words; errors first.
        self.findings: list[Finding] = trial.findings
        self.seconds: float = trial.seconds

    @property
    def ok(self) -> bool:
        """Whether the client got an answer below 500, and nothing failed."""
        return self.trial.ok

    def __repr__(self) -> str:
        got = "no answer" if self.status is None else str(self.status)
        return summary(got, self.trial.method, self.trial.target, self.findings)


class Kong(Verbs[KongResult]):
    """A simulated Kong before the plugins. It keeps their instances during the test."""

    def __init__(
        self,
        servers: PluginServers,
        *,
        upstream: Any = None,
        configs: Mapping[str, Any] | None = None,
        declarative: Any = None,
    ) -> None:
        self._servers = servers
        self._upstream = upstream
        self._kong = TrialKong(servers, upstream, configs=configs, declarative=declarative, may_lack=True)

    @property
    def plugins(self) -> list[str]:
        """Their names."""
        return list(self._servers.infos)

    @property
    def upstream(self) -> Any:
        """What answers behind Kong: as `gateway.upstream`."""
        return self._upstream

    @upstream.setter
    def upstream(self, upstream: Any) -> None:
        self._upstream = self._kong.upstream = upstream

    def configure(self, config: Mapping[str, Any], *, plugin: str | None = None) -> None:
        """Give a plugin another configuration from now on: Kong starts a new instance, and closes the old.

        `plugin` can be left out where there is one only. Raises ConfigError where Kong would refuse it.
        """
        name = plugin if plugin is not None else only(self.plugins)
        self._kong.configure(name, dict(config))

    def consumer(self, username: str, **fields: Any) -> None:
        """Have `kong.client.get_consumer()` give this one from now on, as after an auth plugin of Kong's."""
        self._kong.caller = table(
            {"id": "11111111-1111-4111-8111-111111111111", "username": username} | fields
        )

    def module(self, plugin: str | None = None) -> ModuleType:
        """The plugin's module that runs, to put others in the place of what it uses."""
        return self._servers.modules[plugin if plugin is not None else only(self.plugins)]

    def _sent(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> KongResult:
        scheme = "http"
        if url.startswith(("http://", "https://")):
            scheme, _, rest = url.partition("://")
            host, slash, path = rest.partition("/")
            url = slash + path or "/"
            if not any(name.lower() == "host" for name, _ in headers):
                headers = [("Host", host), *headers]
        return KongResult(self._kong.request(method, url, headers, body, scheme=scheme))

    def close(self) -> None:
        self._kong.close()


def only(names: list[str]) -> str:
    """Raises ValueError where there is more than one name."""
    if len(names) != 1:
        raise ValueError(f"which plugin is meant? Expected: plugin=, one of {', '.join(names)}")
    return names[0]


def _call(call: LuaCall) -> PdkCall:
    args = call.args if isinstance(call.args, dict) else {1: call.args}
    values = tuple(python(args.get(index)) for index in range(1, max(args, default=0) + 1))
    return PdkCall(call.plugin, call.phase, str(python(call.method)), values, python(call.result), call.error)


def _headers(headers: Lines) -> Headers:
    return MultiHeaders.unchecked(
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.lines]
    )
