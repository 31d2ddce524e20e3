"""One request through the simulated Envoy and the handlers, watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from coprocess.desk.envoy.simulator import (
    Envoy,
    EnvoyConfig,
    Exchange,
    HttpRequest,
    UpstreamReply,
    UpstreamRequest,
)
from coprocess.desk.envoy.trial.findings import Finding, find
from coprocess.desk.envoy.trial.handlers import HandlerServer
from coprocess.desk.hook_runs import HookRun
from coprocess.desk.upstreams import Upstream as PlainUpstream
from coprocess.desk.upstreams import UpstreamRequest as PlainRequest

_DEFAULT_HOST = "example.test"


@dataclass(slots=True)
class Trial:
    """One request, and all that came of it."""

    method: str
    target: str
    exchange: Exchange
    hooks: list[HookRun]
    seconds: float
    #: Handlers of events that the others have fired.
    events: list[HookRun] = field(default_factory=list)
    #: Why the upstream could not be asked; empty where it could, or was not.
    upstream_error: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        """What the client got; None where it got nothing."""
        return self.exchange.http_response.status

    @property
    def ok(self) -> bool:
        """Whether the client got an answer below 500, and no handler failed."""
        return (
            self.status is not None
            and self.status < 500
            and not any(run.failed for run in (*self.hooks, *self.events))
        )


class TrialEnvoy:
    """A simulated Envoy before the handlers of `server`."""

    def __init__(
        self,
        server: HandlerServer,
        config: EnvoyConfig,
        upstream: PlainUpstream,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.server = server
        self.config = config
        self.upstream = upstream
        self._clock = clock

    def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Trial:
        """Send one request through. Raises ConfigError for what is configured and not simulated."""
        adapted = _Adapted(self.upstream)
        envoy = Envoy(self.config, self.server, adapted, clock=self._clock)
        self.server.forget_runs()
        started = time.perf_counter()
        exchange = envoy.request(_request(method, target, list(headers), body))
        seconds = time.perf_counter() - started
        trial = Trial(
            method, target, exchange, self.server.runs, seconds, self.server.event_runs, adapted.error
        )
        trial.findings = find(trial)
        return trial


def _request(method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> HttpRequest:
    named = {name.lower() for name, _ in headers}
    if "host" not in named:
        headers.insert(0, ("host", _DEFAULT_HOST))
    if body and not named & {"content-length", "transfer-encoding"}:
        headers.append(("content-length", str(len(body))))
    return HttpRequest(method, target, tuple(headers), body)


class _Adapted:
    """A neutral upstream behind the simulated Envoy."""

    def __init__(self, upstream: PlainUpstream) -> None:
        self._upstream = upstream
        self.error = ""

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        try:
            reply = self._upstream(
                PlainRequest(request.method, request.target, request.headers, request.body)
            )
        except OSError as error:
            self.error = str(error) or type(error).__name__
            raise
        headers = list(reply.headers)
        named = {name.lower() for name, _ in headers}
        if reply.body and not named & {"content-length", "transfer-encoding"}:
            headers.append(("content-length", str(len(reply.body))))
        return UpstreamReply(reply.status, tuple(headers), reply.body)
