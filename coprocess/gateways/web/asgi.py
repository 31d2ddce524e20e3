"""Handlers around an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from coprocess.api.held import HeldResponse
from coprocess.gateways.web.asgi_body import ClientGone, RequestBody
from coprocess.gateways.web.asgi_lifespan import Lifespan
from coprocess.gateways.web.asgi_messages import (
    Message,
    Receive,
    Scope,
    ScopeRequest,
    Send,
    hide_unseen_bodies,
    scope_for_app,
    send_answer,
    telling,
)
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.host import MiddlewareHost
from coprocess.gateways.web.http import (
    RawHeaders,
    body_to_send,
    no_body_asked_for,
    quota_headers,
    with_edits,
)
from coprocess.loading.lifetime import Ending
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.around.adapter import DEFAULT_TIMEOUT_S, Adapter, Options
from coprocess.runtime.around.request import RequestCall, RequestExchange
from coprocess.runtime.around.steps import BODY, Need, Requests, Steps
from coprocess.runtime.tracing import CallTracing

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from coprocess.runtime.in_process import InProcess

_STARTS = ("http.response.start", "websocket.http.response.start")
_NOBODY = contextlib.nullcontext()


class Around:
    """An ASGI app around `app`: handlers run before and after it. `requests` knows them."""

    def __init__(self, app: Any, requests: Requests, timeout_s: float) -> None:
        """`timeout_s`: what each step at the end of a request may take."""
        self.app = app
        self.requests = requests
        self._ending = _OnLoop(timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" or kind == "websocket":
            requests = self.requests
            if not requests.is_open:
                await self.open()
            service, chain = requests.service, requests.gateway.chain
            if service is not None and (tracing := service.tracing) is not None:
                await self._traced(tracing, scope, receive, send)
            elif kind == "http" and not chain.has_app:
                # As `_request`, in place: most requests are such.
                body = RequestBody(receive, requests.max_body_bytes, scope)
                exchange = RequestExchange(ScopeRequest(scope, body.kept), requests.spec, chain)
                await self._http(scope, exchange, body, send)
            else:
                await self._request(scope, receive, send)
        elif kind == "lifespan":
            await Lifespan(self, receive, send).run(scope)
        else:
            await self.app(scope, receive, send)

    def _request(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        requests = self.requests
        chain = requests.gateway.chain
        if scope["type"] == "http":
            body = RequestBody(receive, requests.max_body_bytes, scope)
            exchange = RequestExchange(ScopeRequest(scope, body.kept), requests.spec, chain)
            running = self._http(scope, exchange, body, send)
            return self._to_the_end(exchange, running) if chain.has_app else running
        exchange = RequestExchange(ScopeRequest(scope, lambda: b""), requests.spec, chain)
        return self._to_the_end(exchange, self._websocket(scope, exchange, receive, send))

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

    async def _to_the_end(self, exchange: RequestExchange, running: Coroutine[Any, Any, None]) -> None:
        """Run a request, and what it leaves for its end."""
        self.requests.began(exchange)
        try:
            await running
        except BaseException as error:
            if exchange.lifetime is not None:
                exchange.lifetime.note(error)
            raise
        finally:
            await self._end(exchange)
            self.requests.ended(exchange)

    async def _end(self, exchange: RequestExchange) -> None:
        if exchange.lifetime is not None and (steps := exchange.lifetime.end(self._ending)) is not None:
            await steps

    async def _http(self, scope: Scope, exchange: RequestExchange, body: RequestBody, send: Send) -> None:
        requests, chain, method = self.requests, exchange.chain, scope["method"]
        tracked: _Tracked | None = None
        if chain.is_tracked:
            send = tracked = _Tracked(send, lambda: self._end(exchange))
        try:
            waits_for = self.drive(requests.before_app(exchange), exchange, body)
            if waits_for is not None:
                await waits_for
        except ClientGone:
            return
        if exchange.answer is not None:
            await send_answer(exchange.answer, method, send)
            return
        if exchange.request.has_new_body:
            body.replace(exchange.request.raw_body)
        has_session = exchange.has_session
        inner = scope_for_app(scope, exchange, has_session=has_session)
        if has_session and (told := quota_headers(exchange.session)):
            send = telling(told, send)
        to_server = send
        if chain.after:
            if chain.response_uses_body:
                hide_unseen_bodies(inner)
            send = _Response(self, exchange, method, to_server, body)
            body.is_shared = chain.waits_after
        if tracked is not None:
            body.on_gone = lambda: self.gone(exchange)
        try:
            await self.app(inner, body.receive if body.is_between else body.receive_outer, send)
        except Exception as error:
            if tracked is None or tracked.has_started:
                raise
            answer = await self._driven(requests.app_failed(exchange, error), exchange, body)
            if answer is None:
                raise
            # Another response, in the app's place: of what that had sent, nothing has gone out.
            send = _Response(self, exchange, method, to_server, body) if chain.after else to_server
            await send_answer(answer, method, send)

    async def gone(self, exchange: RequestExchange) -> None:
        """The client is: nobody sees what the app still sends."""
        exchange.is_gone = True
        if not exchange.is_driven:
            await self._end(exchange)

    async def _websocket(self, scope: Scope, exchange: RequestExchange, receive: Receive, send: Send) -> None:
        answer = await self._driven(self.requests.before_app(exchange), exchange, None)
        if answer is None:
            inner = scope_for_app(scope, exchange, has_session=exchange.has_session)
            await self.app(inner, receive, send)
            return
        await receive()  # websocket.connect
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await send_answer(answer, "GET", send, prefix="websocket.http.response")
        else:
            # Before the handshake is accepted, servers answer it with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    def drive(
        self,
        steps: Steps,
        exchange: RequestExchange,
        body: RequestBody | None,
        calls: InProcess | None = None,
    ) -> Coroutine[Any, Any, None] | None:
        """Give `steps` what they need, by the `calls` that the request began with.

        None: they are through. Else what is to be awaited for that.
        """
        if calls is None:
            calls = self.requests.calls
        watching = _NOBODY if body is None else body
        for need in steps:
            if type(need) is not RequestCall:
                waits_for: Coroutine[Any, Any, None] | None = self._meet(need, exchange, body)
            else:
                waits_for = calls.begin(need, watching)
            if waits_for is not None:
                return self._drive_on(steps, exchange, body, waits_for, calls)
        return None

    async def _driven(
        self,
        steps: Steps,
        exchange: RequestExchange,
        body: RequestBody | None,
        calls: InProcess | None = None,
    ) -> Answer | None:
        """As `drive`, to its end, where a coroutine more is no matter. Gives what ends the request here."""
        waits_for = self.drive(steps, exchange, body, calls)
        if waits_for is not None:
            await waits_for
        return exchange.answer

    async def _drive_on(
        self,
        steps: Steps,
        exchange: RequestExchange,
        body: RequestBody | None,
        waits_for: Coroutine[Any, Any, None],
        calls: InProcess,
    ) -> None:
        exchange.is_driven = True
        try:
            await waits_for
            await self._driven(steps, exchange, body, calls)
        except asyncio.CancelledError:
            if body is not None and body.has_cancelled and (task := asyncio.current_task()) is not None:
                task.uncancel()
                raise ClientGone from None
            raise
        finally:
            exchange.is_driven = False

    async def _meet(self, need: Need, exchange: RequestExchange, body: RequestBody | None) -> None:
        """Give what steps need that is no call."""
        if need is BODY:
            exchange.given = None if body is None else await body.read()
        else:
            exchange.given = await asyncio.to_thread(self.requests.limited, exchange.session)

    def tell_too_large(self) -> None:
        """Log that a response is larger than its handlers can have it."""
        self.requests.tell_too_large(self.requests.max_body_bytes)

    @property
    def max_body_bytes(self) -> int:
        return self.requests.max_body_bytes


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


class _Tracked:
    """`send` of a request that knows whether a response has begun, and ends the request with its body."""

    __slots__ = ("_end", "_has_trailers", "_send", "has_started")

    def __init__(self, send: Send, end: Callable[[], Awaitable[None]]) -> None:
        self._send = send
        self._end = end
        self._has_trailers = False
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self.has_started = True
            self._has_trailers = bool(message.get("trailers", False))
        await self._send(message)
        if (
            kind == "http.response.body" and not message.get("more_body", False) and not self._has_trailers
        ) or (kind == "http.response.trailers" and not message.get("more_trailers", False)):
            await self._end()


class _Response:
    """What the app sends, on its way through the Response handlers."""

    __slots__ = (
        "_around",
        "_body",
        "_chunks",
        "_exchange",
        "_is_over",
        "_keeps",
        "_method",
        "_passes",
        "_send",
        "_size",
        "_start",
    )

    #: The start, while the body is kept for handlers, and what is there of it.
    _start: Message | None
    _chunks: list[bytes]
    _size: int

    def __init__(
        self, around: Around, exchange: RequestExchange, method: str, send: Send, body: RequestBody
    ) -> None:
        self._around = around
        self._exchange = exchange
        self._method = method
        self._send = send
        self._body = body
        #: What the app sends of the body is for handlers.
        self._keeps = exchange.chain.response_uses_body
        if self._keeps:
            self._start, self._chunks, self._size = None, [], 0
        #: Its start has gone out as the app's, and what follows does as it is.
        self._passes = False
        #: All is sent, or the client is gone: what the app sends further is dropped.
        self._is_over = False

    def __call__(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own: most messages are passed on as they are.
        if not self._exchange.is_gone:
            if self._passes:
                return self._send(message)
            if not (self._keeps or self._is_over) and message["type"] == "http.response.start":
                return self._begin(message, no_body_asked_for)
        return self._take(message)

    async def _take(self, message: Message) -> None:
        # Decided when it is awaited: until then, a handler may have answered instead of the app.
        kind = message["type"]
        if (self._is_over or self._exchange.is_gone) and kind.startswith("http.response"):
            return
        if self._keeps and kind == "http.response.start":
            self._start = message
        elif self._keeps and kind == "http.response.body" and self._start is not None:
            await self._keep(message)
        else:
            await self._send(message)

    async def _keep(self, message: Message) -> None:
        chunk = message.get("body", b"")
        self._chunks.append(chunk)
        self._size += len(chunk)
        start = self._start
        assert start is not None  # noqa: S101 - else the message would have been passed on
        if self._size > self._around.max_body_bytes:
            self._is_over = True
            self._around.tell_too_large()
            await send_answer(error_answer(500, "Middleware error"), self._method, self._send)
            return
        if message.get("more_body", False):
            return
        self._start = None
        body = b"".join(self._chunks)
        await self._begin(start, lambda: body)
        if not (self._is_over or self._exchange.is_gone):
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, start: Message, body_source: Callable[[], bytes]) -> None:
        """Run the handlers, and send what comes before the body; all, where the body is a new one."""
        exchange, headers = self._exchange, RawHeaders(start.get("headers", ()))
        exchange.response = HeldResponse(start["status"], headers, body_source=body_source)
        around = self._around
        try:
            waits_for = around.drive(around.requests.after_app(exchange), exchange, self._body)
            if waits_for is not None:
                await waits_for
        except ClientGone:
            exchange.is_gone = True
        if exchange.is_gone:
            await around.gone(exchange)
            return
        response = exchange.response
        new = {**start, "status": response.status, "headers": with_edits(headers.raw, response)}
        if not response.has_new_body:
            await self._send(new)
            self._passes = not self._keeps
            return
        self._is_over = True
        new.pop("trailers", None)
        await self._send(new)
        body = body_to_send(response.status, response.raw_body, self._method)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
