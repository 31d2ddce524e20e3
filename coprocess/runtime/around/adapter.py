"""Handlers around one thing that answers requests: loaded, opened, closed, and loaded anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack

import structlog

from coprocess.api.app import configuring
from coprocess.errors import ConfigError, LoadError
from coprocess.loading.home import Home
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.loading.loader import load
from coprocess.loading.objects import load_objects
from coprocess.loading.resources import Spawn
from coprocess.runtime.around.gateway import AroundGateway
from coprocess.runtime.around.steps import Requests
from coprocess.runtime.held_spec import HeldSpec
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.runtime.session_limits import Limiter

log = structlog.get_logger("coprocess")

DEFAULT_MAX_BODY_BYTES = 4 << 20
DEFAULT_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0


class Options(TypedDict, total=False):
    """What a Middleware takes besides its app and its handlers."""

    #: The handlers of each moment, by name: `{"pre": ["name"], "auth_check": "name", "post_key_auth": […],
    #: "post": […], "response": […], "events": {"AuthFailure": ["name"]}}`. Without it, all that is loaded.
    chain: Mapping[str, Any] | None
    #: What `spec.config` gives.
    config: Mapping[str, Any] | None
    #: What `App.config` gives; for `App("NAME")`, its entry `NAME`.
    app_config: Mapping[str, Any] | None
    #: What `spec` says. Handlers with another `api_id=` do not run.
    api_id: str
    org_id: str
    #: Of handlers that set none. 30.
    timeout_s: float
    #: What clients get where a handler fails closed. 500.
    failure_status: int | None
    #: How much of a body handlers may use. 4 MiB.
    max_body_bytes: int
    #: Address of the Redis or Valkey server that keeps rates and quotas; without it, each process does.
    store: str | None
    #: Load the folders again when their files change.
    reload: bool
    #: Trace requests and handlers, by the OpenTelemetry tracer provider of the process.
    traces: bool


class Host(Protocol):
    """What loads handlers into a service, and what is told of that."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        service: Service,
        folders: list[Path],
        watches: bool,
        spawn: Spawn | None,
    ) -> None:
        """`watches`: load again when the folders change. `spawn` starts coroutines on the handlers' loop."""

    @property
    def problems(self) -> tuple[Problem, ...]: ...

    def open(self) -> Loaded:
        """Load, open the resources, and serve. It blocks."""

    def trace(self) -> None:
        """Trace the calls from now on. Raises ConfigError where the library is not installed."""

    def close(self) -> None:
        """Close the resources: no call runs any more. It blocks."""


HostT = TypeVar("HostT", bound=Host)


class Adapter(Requests, Generic[HostT]):
    """What a Middleware has besides its app, or a plugin besides its gateway.

    Raises LoadError, HandlerError and ConfigError for what is wrong.
    """

    def __init__(
        self, home: Home, handlers: Any, host_class: type[HostT], **options: Unpack[Options]
    ) -> None:
        unknown = options.keys() - Options.__annotations__.keys()
        for name in ("timeout_s", "max_body_bytes", "failure_status"):
            if (value := options.get(name)) is not None and type(value) not in (int, float):
                raise TypeError(f"{name}={value!r}. Expected: a number")
        status = options.get("failure_status")
        if status is not None and not 400 <= status <= 599:
            raise ConfigError(f"failure_status={status}. Expected: 400 to 599")
        if unknown:
            raise TypeError(
                f"no such option: {', '.join(sorted(unknown))}. "
                f"Expected: {', '.join(Options.__annotations__)}"
            )
        api_id, app_config = options.get("api_id", ""), options.get("app_config")
        self._home = home
        self._host_class = host_class
        self._folders, self._objects = _sorted(handlers)
        self._app_config = app_config
        self._options = ServiceOptions(
            timeout_s=options.get("timeout_s", DEFAULT_TIMEOUT_S),
            failure_status=options.get("failure_status"),
            owns_process=False,
        )
        self._watches = options.get("reload", False)
        self._traces = options.get("traces", False)
        self._loaded: Loaded | None = self._load(app_config)
        if self._loaded.problems:
            raise LoadError("; ".join(map(str, self._loaded.problems)))
        self._loaded.serve()
        spec = HeldSpec(api_id, options.get("org_id", ""), options.get("config") or {})
        super().__init__(
            AroundGateway(
                home.name,
                self._loaded.table,
                spec,
                lambda: options.get("chain"),
                needs_handlers=bool(self._folders),
            ),
            lambda: Limiter(options.get("store"), api_id),
            options.get("max_body_bytes", DEFAULT_MAX_BODY_BYTES),
        )
        self.gateway.check_table(self.gateway.table)
        self.gateway.table = self.gateway.table
        self._host: HostT | None = None

    @property
    def host(self) -> HostT:
        """Raises RuntimeError where it is not open."""
        if self._host is None:
            raise RuntimeError("the handlers are not open: nothing has been asked of the app yet")
        return self._host

    def open(self, spawn: Spawn | None) -> None:
        """Start the service and open the resources. It blocks.

        `spawn` starts coroutines on the handlers' loop; None: on the service's own. Where a resource does not
        open, `problem` says so, and requests are to be refused.
        """
        service = Service(self.gateway, self._options)
        service.start()
        self._host = host = self._host_class(self._load_again, service, self._folders, self._watches, spawn)
        if self._traces:
            host.trace()
        host.open()
        self.problem = "; ".join(map(str, host.problems)) or None
        if self.problem is not None:
            log.error("requests are refused, as a resource did not open", problem=self.problem)
        self.use(service)

    def _load(self, app_config: Mapping[str, Any] | None) -> Loaded:
        def config_of(name: str) -> Mapping[str, Any]:
            settings = (app_config or {}).get(name, {}) if name else app_config
            return settings if isinstance(settings, Mapping) else {}

        with configuring(config_of):
            loaded = load(self._folders, self._home) if self._folders else Loaded(HookTable())
        if self._objects:
            of_objects = load_objects(self._objects, self._home)
            for lifecycle in of_objects.lifecycles:
                if app_config is not None:
                    lifecycle.app.config = MappingProxyType(dict(config_of(lifecycle.app.name)))
            loaded.table = HookTable([*loaded.table, *of_objects.table])
            loaded.lifecycles += of_objects.lifecycles
        return loaded

    def _load_again(self) -> Loaded:
        """What is loaded already, the first time. Raises CoprocessError."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            loaded = self._load(self._app_config)
        self.gateway.check_table(loaded.table)
        return loaded

    def close(self) -> None:
        """Close the resources and end the service, in a few seconds at most. It blocks."""
        service, host, self._host = self.service, self._host, None
        calls = self.leave()
        if service is None or calls is None or host is None:
            return
        service.drain(_CLOSE_TIMEOUT_S)
        calls.end_left()
        host.close()
        service.stop(_CLOSE_TIMEOUT_S)

    def forget(self) -> None:
        """Let go of what another process has opened, and this one was forked from: that one closes it."""
        self.leave()
        self._host = None
        for lifecycle in {hook.lifecycle for hook in self.gateway.table if hook.lifecycle is not None}:
            lifecycle.resources.forget()


def _sorted(handlers: Any) -> tuple[list[Path], list[Any]]:
    """The folders among `handlers`, and what else there is."""
    given = (
        [handlers]
        if isinstance(handlers, (str, os.PathLike)) or not isinstance(handlers, Iterable)
        else handlers
    )
    folders, objects = [], []
    for each in given:
        if isinstance(each, (str, os.PathLike)):
            # It holds also where the app changes the working folder later.
            folders.append(Path(each).absolute())
        else:
            objects.append(each)
    return folders, objects
