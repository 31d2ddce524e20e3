"""Handlers around an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from coprocess.gateways.web.asgi_lifespan import Lifespan
from coprocess.gateways.web.asgi_messages import Message, Receive, Scope, Send
from coprocess.gateways.web.asgi_request import asgi_request
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.host import MiddlewareHost
from coprocess.loading.lifetime import Ending
from coprocess.runtime.around.adapter import DEFAULT_TIMEOUT_S, Adapter, Options
from coprocess.runtime.around.steps import Requests
from coprocess.runtime.handlers_task import note_tasks
from coprocess.runtime.tracing import CallTracing

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


_STARTS = ("http.response.start", "websocket.http.response.start")


class Around:
    """An ASGI app around `app`: handlers run before and after it. `requests` knows them."""

    def __init__(self, app: Any, requests: Requests, timeout_s: float) -> None:
        """`timeout_s`: what each step at the end of a request may take."""
        self.app = app
        self.requests = requests
        #: How code runs at the end of a request.
        self.ending = _OnLoop(timeout_s)
        #: The last one that came by: in a server, the only one.
        self._noted_loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" or kind == "websocket":
            requests, loop = self.requests, asyncio.get_running_loop()
            if loop is not self._noted_loop:
                note_tasks(loop)
                self._noted_loop = loop
            if not requests.is_open:
                await self.open()
            service, chain = requests.service, requests.gateway.chain
            if service is not None and (tracing := service.tracing) is not None:
                await self._traced(tracing, scope, receive, send)
            elif kind == "http" and not chain.has_app:
                # As `_request`, in place: most requests are such.
                await asgi_request(self, chain, scope, receive, send).run()
            else:
                await self._request(scope, receive, send)
        elif kind == "lifespan":
            await Lifespan(self, receive, send).run(scope)
        elif "headers" in scope:
            # A client's, of a kind that came later: past the handlers, nobody would have looked at it.
            raise RuntimeError(f"a request of the kind {kind!r} is refused, as handlers cannot see it")
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        requests = self.requests
        chain = requests.gateway.chain
        request = asgi_request(self, chain, scope, receive, send)
        running = request.run() if scope["type"] == "http" else request.shake_hands()
        if not chain.has_app:
            await running
            return
        requests.began(request)
        try:
            await running
        except BaseException as error:
            if request.lifetime is not None:
                request.lifetime.note(error)
            raise
        finally:
            await request.end()
            requests.ended(request)

    async def _traced(self, tracing: CallTracing, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        trace = tracing.request(scope.get("method", "WEBSOCKET"), self.requests.spec.api_id, headers)

        async def watched(message: Message) -> None:
            if message["type"] in _STARTS:
                trace.answered(message["status"])
            await send(message)

        failed: BaseException | None = None
        try:
            with trace.current():
                await self._request(scope, receive, watched)
        except BaseException as error:
            failed = error
            raise
        finally:
            trace.end(failed)

    async def open(self) -> None:
        """Make that the handlers can run. The server's lifespan does it, else the first request."""

    async def close(self) -> None:
        """Undo that. The server's lifespan does it."""


class Middleware(Around):
    """An ASGI app around `app`: handlers run before and after it.

    `handlers` is a folder, or an iterable of folders, decorated functions, modules and an App. The options
    are those of `coprocess.runtime.around.adapter.Options`, which says what each means. Raises LoadError,
    HandlerError and ConfigError for what is wrong.
    """

    #: What loads, reloads and counts.
    host_class: ClassVar[type[MiddlewareHost]]

    def __init__(self, app: Any, handlers: Any = (), **options: Unpack[Options]) -> None:
        self.adapter = Adapter(HOME, handlers, self.host_class, **options)
        super().__init__(app, self.adapter, options.get("timeout_s", DEFAULT_TIMEOUT_S))
        self._opening: asyncio.Lock | None = None

    async def open(self) -> None:
        """Open the resources, where they are not. The server's lifespan does it, else the first request."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if not self.adapter.is_open:
                loop = asyncio.get_running_loop()

                def spawn(coroutine: Any) -> Future[Any]:
                    return asyncio.run_coroutine_threadsafe(coroutine, loop)

                await asyncio.to_thread(self.adapter.open, spawn)

    async def close(self) -> None:
        """Close them. The server's lifespan does it."""
        await asyncio.to_thread(self.adapter.close)
        self._opening = None

    async def reload(self) -> Any:
        """Load the handlers anew: all or nothing. Requests end on those they began with.

        Gives the outcome: `succeeded`, `errors`, `hooks`. Raises RuntimeError where it is not open.
        """
        return await asyncio.to_thread(self.adapter.host.reload, "asked for")

    def metrics(self) -> bytes:
        """What Prometheus reads, as from `coprocess serve`. Raises RuntimeError where it is not open."""
        return self.adapter.host.metrics()

    def collector(self) -> Collector:
        """The same, for a registry of the app's own."""
        collector: Collector = self.adapter.host.collector()
        return collector


class _OnLoop(Ending):
    """At the end of a request: sync code that ran in threads does so again."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def finish(self, awaitable: Awaitable[Any]) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await awaitable

    async def block(self, function: Callable[..., Any], *arguments: Any) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.to_thread(function, *arguments)
