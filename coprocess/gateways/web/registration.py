"""A web app as a gateway that the process serves: with an engine, as requests come over HTTP."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coprocess.error_text import format_error, is_not_ours
from coprocess.errors import ConfigError, LoadError
from coprocess.gateways.web import asgi, wsgi
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.server import WebServer, asgi_of
from coprocess.loading.chains import MOMENT_OF_KEY
from coprocess.loading.hooks import HookTable
from coprocess.runtime.around.gateway import AroundGateway
from coprocess.runtime.around.steps import Requests
from coprocess.runtime.held_spec import HeldSpec
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.runtime.service import Service
from coprocess.runtime.session_limits import Limiter
from coprocess.transport.engine import Engine, EngineOptions

#: Python's own code that imports.
_IMPORTING = (importlib.__file__, "<frozen importlib")
_KEYS = {moment: key for key, moment in MOMENT_OF_KEY.items()}


class _Served(AroundGateway):
    """With the server that lets requests in."""

    def __init__(self, table: HookTable, app: _App, options: GatewayOptions) -> None:
        super().__init__(HOME.name, table, app.spec, app.named(options), needs_handlers=True)
        self.requests = Requests(
            self, lambda: Limiter(options.limits_store(), app.spec.api_id), options.max_body_bytes
        )
        self.spawn = app.server.spawn if app.is_asgi else None
        app.around(self.requests)

    def use(self, service: Service) -> None:
        self.requests.use(service)


class _App:
    """The app of `MODULE:APP`, and the server around it, which begins to serve when all is made."""

    def __init__(
        self,
        name: str,
        interface: str,
        chain: str | None,
        spec: HeldSpec,
        timeout_s: float,
        shutdown_timeout_s: float,
        workers: int,
    ) -> None:
        self._app = _import(name)
        self.is_asgi = interface == "asgi" or (interface == "auto" and _is_asgi(self._app))
        self._chain = chain
        self.spec = spec
        self._timeout_s = timeout_s
        self._workers = workers
        self._inner: Any = None
        self.server = WebServer(self._serve, shutdown_timeout_s)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)

    def named(self, options: GatewayOptions) -> Callable[[], Mapping[str, Any] | None]:
        """The chain as the settings file has it now."""

        def read() -> Mapping[str, Any] | None:
            if self._chain is None:
                return None
            chains = options.chains()
            if self._chain not in chains:
                there = ", ".join(sorted(chains)) or "none"
                raise ConfigError(f"web_chain: no [chains.{self._chain}]; there are: {there}")
            return {_KEYS[moment]: names for moment, names in chains[self._chain].items()}

        return read

    def around(self, requests: Requests) -> None:
        if self.is_asgi:
            self._inner = asgi.Around(self._app, requests, self._timeout_s)
        else:
            self._inner = asgi_of(wsgi.Around(self._app, requests, self._timeout_s), self._workers)

    def engine(self, options: EngineOptions) -> Engine:
        return self.server


def web(
    name: str,
    *,
    interface: str = "auto",
    chain: str | None = None,
    api_id: str = "",
    org_id: str = "",
    config: Mapping[str, Any] | None = None,
    timeout_s: float,
    shutdown_timeout_s: float,
    threads: int,
) -> Registration:
    """The app of `MODULE:APP`. Raises ConfigError, LoadError and whatever its module raises."""
    for needed in ("uvicorn", "a2wsgi"):
        if importlib.util.find_spec(needed) is None:
            raise ConfigError(f'web: {needed} is not installed. Expected: pip install "coprocess[serve-web]"')
    spec = HeldSpec(api_id, org_id, config or {})
    app = _App(name, interface, chain, spec, timeout_s, shutdown_timeout_s, threads)
    return Registration(
        home=HOME,
        make=lambda table, options: _Served(table, app, options),
        services=(),
        methods=(),
        engine=app.engine,
        # Else requests would go by the handler that keeps them out.
        strict=True,
    )


def _import(name: str) -> Any:
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"web: {name!r}. Expected: MODULE:APP, as shop.main:app")
    here = Path.cwd()
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise LoadError(f"web: no module {error.name!r}, here or installed") from None
        raise _failed(module_name, error) from None
    except Exception as error:  # noqa: BLE001 - it is told
        raise _failed(module_name, error) from None
    own = here.joinpath(*module_name.split(".")).with_suffix(".py")
    file = getattr(found, "__file__", None)
    if own.exists() and (file is None or not own.samefile(file)):
        # Python had imported one of that name before.
        there = file or "a part of Python"
        raise LoadError(f"web: {module_name} is {there}, and not {own}. Expected: another name for that")
    for part in path.split("."):
        if not hasattr(found, part):
            raise LoadError(f"web: the module {module_name} has no {path!r}")
        found = getattr(found, part)
    if not callable(found):
        raise LoadError(f"web: {name} is of type {type(found).__name__}. Expected: a WSGI or ASGI app")
    return found


def _failed(module_name: str, error: Exception) -> LoadError:
    return LoadError(f"web: the module {module_name} was not imported:\n{format_error(error, _is_shown)}")


def _is_shown(filename: str) -> bool:
    """Not how Python imports: who looks for the mistake in the app has no use for it."""
    return is_not_ours(filename) and not filename.startswith(_IMPORTING)


def _is_asgi(app: Any) -> bool:
    """ASGI apps are called with three, and are async; WSGI apps with two."""
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004 - what it is, not whether it is there
        return True
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return False
    return len([each for each in parameters if each.default is each.empty]) == 3
