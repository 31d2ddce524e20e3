"""The `gateway` fixture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import ModuleType
from typing import Any

from coprocess.api.http import Headers, MultiHeaders
from coprocess.desk.tyk.simulator import ApiDefinition, UpstreamRequest
from coprocess.desk.tyk.trial import (
    EventTrial,
    Finding,
    HookTrial,
    InProcessDispatcher,
    ObservedGateway,
    Trial,
    as_upstream,
)
from coprocess.loading.loaded import Loaded
from coprocess.testing.readable import Readable, summary
from coprocess.testing.store import TrialStore
from coprocess.testing.verbs import Verbs


class SentRequest(Readable):
    """What reached the upstream."""

    _owner = "request"

    def __init__(self, request: UpstreamRequest) -> None:
        self.method = request.method
        #: Path and query.
        self.url = request.url
        self.headers: Headers = MultiHeaders.unchecked(request.headers)
        self.body = request.body

    def __repr__(self) -> str:
        return f"<SentRequest {self.method} {self.url}>"


class NoSuchHook(KeyError):
    """No hook, or more than one, was called by that name."""

    def __str__(self) -> str:
        # Not as KeyError, which shows its text in quotes.
        return str(self.args[0])


class HookResults(Mapping[str, HookTrial]):
    """The hooks that were called, in order. Where two types share a name: `hooks["Post", "name"]`."""

    def __init__(self, hooks: list[HookTrial]) -> None:
        self._hooks = hooks

    def __getitem__(self, key: str | tuple[str, str]) -> HookTrial:
        found = [hook for hook in self._hooks if key in (hook.name, (hook.type, hook.name))]
        if len(found) == 1:
            return found[0]
        called = ", ".join(f'{hook.type} "{hook.name}"' for hook in self._hooks) or "none"
        if found:
            raise NoSuchHook(f"{key!r} was called {len(found)} times: name the type too. Called: {called}")
        raise NoSuchHook(f"{key!r} was not called. Called: {called}")

    def __contains__(self, key: object) -> bool:
        return any(key in (hook.name, (hook.type, hook.name)) for hook in self._hooks)

    def __iter__(self) -> Iterator[str]:
        return (hook.name for hook in self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def values(self) -> list[HookTrial]:  # type: ignore[override]  # a list has the two of one name
        return list(self._hooks)

    def __repr__(self) -> str:
        return f"<hooks {[(hook.type, hook.name) for hook in self._hooks]}>"


class Result(Readable):
    """What the client got, and all that happened on the way."""

    _owner = "response"

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        response = trial.exchange.http_response
        #: None where the gateway dropped the connection.
        self.status: int | None = trial.status
        self.headers: Headers = MultiHeaders.unchecked(response.headers if response else ())
        self.body: bytes = response.body if response else b""
        #: Why a real gateway drops the connection here; None where it does not.
        self.dropped: str | None = trial.exchange.dropped
        request = trial.exchange.upstream_request
        #: None where the upstream was not asked.
        self.upstream: SentRequest | None = SentRequest(request) if request is not None else None
        self.hooks = HookResults(trial.hooks)
        #: One for each handler that an event was sent to.
        self.events: list[EventTrial] = trial.events
        #: What went otherwise than meant, in words; errors first.
        self.findings: list[Finding] = trial.findings
        self.seconds: float = trial.seconds

    @property
    def ok(self) -> bool:
        """Whether the client got an answer below 500, and no hook failed."""
        return self.trial.ok

    def __repr__(self) -> str:
        got = "dropped" if self.status is None else str(self.status)
        return summary(got, self.trial.method, self.trial.target, self.findings)


class Gateway(Verbs[Result]):
    """A simulated Tyk Gateway with one API. It keeps sessions, rates and quotas during the test."""

    def __init__(
        self,
        definition: ApiDefinition,
        dispatcher: InProcessDispatcher,
        upstream: Any,
        loaded: Loaded | None = None,
        store: TrialStore | None = None,
    ) -> None:
        self._skipped_s = 0.0
        self._store = store
        self._loaded = loaded
        self._gateway = ObservedGateway(
            definition, dispatcher, as_upstream(upstream), clock=lambda: time.time() + self._skipped_s
        )

    @property
    def definition(self) -> ApiDefinition:
        return self._gateway.definition

    @property
    def upstream(self) -> Any:
        """What answers behind the gateway. Assign a status, `respond(...)`, a dict (JSON), an http URL, a
        function of the UpstreamRequest that returns one of the former, or a WSGI or ASGI app."""
        return self._gateway.upstream

    @upstream.setter
    def upstream(self, upstream: Any) -> None:
        self._gateway.upstream = as_upstream(upstream)

    def override(self, **resources: Any) -> AbstractContextManager[object]:
        """Put others in the place of resources, by name: from now on or, in `with`, until its end.

        Raises KeyError for a name that no App of the handlers has.
        """
        lifecycles = self._loaded.lifecycles if self._loaded is not None else []
        for name, value in resources.items():
            found = [each.resources for each in lifecycles if name in each.resources.all]
            if not found:
                known = ", ".join(name for each in lifecycles for name in each.resources.all) or "none"
                raise KeyError(f"no resource {name!r}; there are: {known}")
            for each in found:
                each.override(name, value)
        undo = ExitStack()
        for lifecycle in lifecycles:
            undo.callback(lifecycle.resources.restore)
        return undo

    def module(self, name: str, version: str = "") -> ModuleType:
        """The module of that name that runs: what `import` of it in a handler's folder gives.

        `version` is the name of a route; without it, the one of the default version.
        """
        modules = self._loaded.modules(version) if self._loaded is not None else []
        found = [module for module in modules if module.__name__.rpartition(".")[2] == name]
        if len(found) != 1:
            known = ", ".join(sorted(module.__name__.rpartition(".")[2] for module in modules))
            raise KeyError(f"{len(found)} modules {name!r} are loaded; there are: {known}")
        return found[0]

    def advance(self, seconds: float) -> None:
        """Set the gateway's clock forward, for rates, quotas, expiry and cached sessions; and the store's.

        That of the handlers stays.
        """
        self._skipped_s += seconds
        if self._store is not None:
            self._store.advance(seconds)

    def _sent(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> Result:
        return Result(self._gateway.request(method, url, headers, body))
