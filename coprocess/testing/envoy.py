"""The `envoy` fixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coprocess.api.http import Headers, MultiHeaders
from coprocess.desk.as_upstream import as_upstream
from coprocess.desk.envoy.simulator import EnvoyConfig, ServerCall, UpstreamRequest
from coprocess.desk.envoy.trial import Finding, HandlerServer, HookRun, Trial, TrialEnvoy
from coprocess.testing.gateway import NoSuchHook
from coprocess.testing.readable import Readable, summary
from coprocess.testing.verbs import Verbs


class EnvoyUpstreamRequest(Readable):
    """What reached the upstream."""

    _owner = "request"

    def __init__(self, request: UpstreamRequest) -> None:
        self.method = request.method
        #: Path and query.
        self.url = request.target
        self.headers: Headers = MultiHeaders.unchecked(request.headers)
        self.body = request.body
        #: Why it is not whole; None where it is.
        self.error = request.error

    def __repr__(self) -> str:
        return f"<EnvoyUpstreamRequest {self.method} {self.url}>"


class EnvoyHooks(list[HookRun]):
    """The handlers that ran, in order; also by name, or by type and name."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (str, tuple)):
            return super().__getitem__(key)
        found = [run for run in self if key in (run.name, (run.type, run.name))]
        if len(found) == 1:
            return found[0]
        ran = ", ".join(f'{run.type} "{run.name}"' for run in self) or "none"
        raise NoSuchHook(f"{key!r} ran {len(found)} times. Ran: {ran}")

    def __contains__(self, key: object) -> bool:
        return any(key in (run.name, (run.type, run.name)) or key is run for run in self)


class EnvoyResult(Readable):
    """What the client got, and all that happened on the way."""

    _owner = "response"

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        response, request = trial.exchange.http_response, trial.exchange.upstream_request
        #: None where the client got no answer.
        self.status: int | None = response.status
        self.headers: Headers = MultiHeaders.unchecked(response.headers)
        self.body: bytes = response.body
        #: How the connection ended; None where it did as it should.
        self.error: str | None = response.error
        #: None where the upstream was not asked.
        self.upstream: EnvoyUpstreamRequest | None = (
            EnvoyUpstreamRequest(request) if request is not None else None
        )
        self.hooks = EnvoyHooks(trial.hooks)
        #: The streams of ext_proc and checks of ext_authz, with their messages.
        self.calls: list[ServerCall] = trial.exchange.calls
        #: Dynamic metadata by namespace, as other filters and the access log see it.
        self.metadata: dict[str, dict[str, Any]] = trial.exchange.dynamic_metadata
        #: What the access log has as `%RESPONSE_CODE_DETAILS%`, where a filter answered.
        self.details: str = trial.exchange.details
        #: What went otherwise than meant, in words; errors first.
        self.findings: list[Finding] = trial.findings
        self.seconds: float = trial.seconds

    @property
    def ok(self) -> bool:
        """Whether the client got an answer below 500, and no handler failed."""
        return self.trial.ok

    def __repr__(self) -> str:
        got = "no answer" if self.status is None else str(self.status)
        return summary(got, self.trial.method, self.trial.target, self.findings)


class Envoy(Verbs[EnvoyResult]):
    """A simulated Envoy before the handlers, which run in the code of `serve --envoy`."""

    def __init__(
        self, server: HandlerServer, config: Callable[[str, bool], EnvoyConfig], upstream: Any = None
    ) -> None:
        """`config` gives the configuration for a chain, and for ext_authz or not."""
        self._config = config
        self._envoy = TrialEnvoy(server, config("", False), as_upstream(upstream))

    def use(
        self, *, chain: str = "", authz: bool = False, config: Mapping[str, Any] | EnvoyConfig | None = None
    ) -> None:
        """Have other filters from now on: for a chain of the settings, as ext_authz, or as `config` says.

        `config` has the parts that recordings have: `http_filters`, `routes`, `vhost`, `hcm`, `listener`.
        Raises ConfigError for a chain that is not there, and for what is not simulated.
        """
        if config is None:
            config = self._config(chain, authz)
        self._envoy.config = config if isinstance(config, EnvoyConfig) else EnvoyConfig.read(dict(config))

    @property
    def upstream(self) -> Any:
        """What answers behind Envoy: as `gateway.upstream`."""
        return self._envoy.upstream

    @upstream.setter
    def upstream(self, upstream: Any) -> None:
        self._envoy.upstream = as_upstream(upstream)

    def _sent(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> EnvoyResult:
        return EnvoyResult(self._envoy.request(method, url, headers, body))
