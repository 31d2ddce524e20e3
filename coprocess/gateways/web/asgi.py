"""Handlers around an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import quote, unquote

from coprocess.api.held import HeldRequest, HeldResponse
from coprocess.gateways.web.home import HOME
from coprocess.gateways.web.http import (
    Caller,
    RawHeader,
    answer_headers,
    body_to_send,
    held_headers,
    no_body_asked_for,
    quota_headers,
    with_edits,
)
from coprocess.loading.lifetime import Ending
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.around.adapter import DEFAULT_TIMEOUT_S, Adapter, Host, Options
from coprocess.runtime.around.request import RequestCall, RequestExchange
from coprocess.runtime.around.steps import BODY, Requests, Steps
from coprocess.runtime.held_call import HeldExchange
from coprocess.runtime.tracing import CallTracing

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Of a server's extensions, those by which an app sends a body that nobody sees on its way.
_UNSEEN_BODIES = ("http.response.pathsend", "http.response.zerocopysend")


_STARTS = ("http.response.start", "websocket.http.response.start")

#: A handler that waits for so long is cancelled where its client goes.
_PATIENCE_S = 0.05
#: What may come of the request's body meanwhile.
_MAX_AHEAD_BYTES = 1 << 16

_NOBODY = contextlib.nullcontext()


class _ClientGone(Exception):
    """The client went while its body was read: nobody waits for an answer."""


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
            if not self.requests.is_open:
                await self.open()
            tracing = self.requests.tracing
            if tracing is None:
                await self._request(scope, receive, send)
            else:
                await self._traced(tracing, scope, receive, send)
        elif kind == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            body = _RequestBody(receive, self.requests.max_body_bytes, scope)
            exchange = RequestExchange(_request(scope, body.kept), self.requests.spec, self.requests.chain)
            if not exchange.chain.has_app:
                await self._http(scope, exchange, body, send)
            else:
                await self._to_the_end(exchange, self._http(scope, exchange, body, send))
        else:
            exchange = RequestExchange(_request(scope, lambda: b""), self.requests.spec, self.requests.chain)
            await self._to_the_end(exchange, self._websocket(scope, exchange, receive, send))

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

    async def _http(self, scope: Scope, exchange: RequestExchange, body: _RequestBody, send: Send) -> None:
        requests, chain, method = self.requests, exchange.chain, scope["method"]
        tracked: _Tracked | None = None
        if exchange.lifetime is not None or chain.for_app_errors:
            send = tracked = _Tracked(send, lambda: self._end(exchange))
        try:
            answer = await self.drive(requests.before_app(exchange), exchange, body)
        except _ClientGone:
            return
        if answer is not None:
            await _send_answer(answer, method, send)
            return
        if exchange.request.has_new_body:
            body.replace(exchange.request.raw_body)
        inner = _scope_for_app(scope, exchange)
        if told := quota_headers(exchange):
            send = _telling(told, send)
        to_server = send
        if chain.after:
            if chain.response_uses_body:
                _hide_unseen_bodies(inner)
            send = _Response(self, exchange, method, to_server)
        if tracked is not None:
            body.on_gone = lambda: self._gone(exchange)
        try:
            await self.app(inner, body.receive if body.is_between else body.receive_outer, send)
        except Exception as error:
            if tracked is None or tracked.has_started:
                raise
            answer = await self.drive(requests.app_failed(exchange, error), exchange, body)
            if answer is None:
                raise
            # Another response, in the app's place: of what that had sent, nothing has gone out.
            send = _Response(self, exchange, method, to_server) if chain.after else to_server
            await _send_answer(answer, method, send)

    async def _gone(self, exchange: RequestExchange) -> None:
        """The client is: nobody sees what the app still sends."""
        exchange.is_gone = True
        await self._end(exchange)

    async def _websocket(self, scope: Scope, exchange: RequestExchange, receive: Receive, send: Send) -> None:
        answer = await self.drive(self.requests.before_app(exchange), exchange, None)
        if answer is None:
            await self.app(_scope_for_app(scope, exchange), receive, send)
            return
        await receive()  # websocket.connect
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _send_answer(answer, "GET", send, prefix="websocket.http.response")
        else:
            # Before the handshake is accepted, servers answer it with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def drive(
        self, steps: Steps, exchange: RequestExchange, body: _RequestBody | None
    ) -> Answer | None:
        """Give `steps` what they need; what comes of them."""
        requests = self.requests
        calls = requests.calls
        watching = _NOBODY if body is None else body
        try:
            need = next(steps)
            while True:
                given: Any
                if type(need) is RequestCall:
                    given = await calls.call_async(need, watching)
                elif need is BODY:
                    given = None if body is None else await body.read()
                else:
                    given = await asyncio.to_thread(requests.limited, exchange.session)
                need = steps.send(given)
        except StopIteration as done:
            answer: Answer | None = done.value
            return answer
        except asyncio.CancelledError:
            if body is not None and body.has_cancelled and (task := asyncio.current_task()) is not None:
                task.uncancel()
                raise _ClientGone from None
            raise

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
    host_class: ClassVar[type[Host]]

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


class _RequestBody:
    """The body of a request: passed on as it comes, or read first and passed on whole.

    As a context manager it looks out for a client that goes, while a handler waits, and cancels that. What
    comes meanwhile is kept for the app, up to a bound: then it looks no more.
    """

    # No slots: most requests use none of this, and an attribute of the class costs them nothing.
    _body = b""
    _sent = False
    #: Whether the app gets it from here, and not from the server.
    is_read = False
    #: What came while a handler waited.
    _ahead: list[Message] | None = None
    _ahead_bytes = 0
    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _watcher: asyncio.Task[None] | None = None
    #: Whether it has cancelled the task that waits, as the client is gone.
    has_cancelled = False
    #: Called where the app is told that the client is gone.
    on_gone: Callable[[], Awaitable[None]] | None = None

    def __init__(self, receive: Receive, limit_bytes: int, scope: Scope) -> None:
        #: The server's.
        self.receive_outer = receive
        self._limit_bytes = limit_bytes
        self._scope = scope

    @property
    def is_between(self) -> bool:
        """Whether the app must get its messages from here."""
        return self.is_read or self._ahead is not None or self.on_gone is not None

    def __enter__(self) -> None:
        # Most handlers wait for less: they pay for a timer only.
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = loop.call_later(_PATIENCE_S, self._look_out)

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def _look_out(self) -> None:
        if self._ahead is None:
            self._ahead = []
        self._watcher = asyncio.ensure_future(self._watch(self._ahead))

    async def _watch(self, ahead: list[Message]) -> None:
        while self._ahead_bytes <= _MAX_AHEAD_BYTES:
            message = await self.receive_outer()
            ahead.append(message)
            if message["type"] == "http.disconnect":
                if self._task is not None:
                    self.has_cancelled = True
                    self._task.cancel()
                return
            self._ahead_bytes += len(message.get("body", b""))

    async def _next(self) -> Message:
        return self._ahead.pop(0) if self._ahead else await self.receive_outer()

    async def read(self) -> Answer | None:
        """Read it all. An Answer where it is too large. Raises _ClientGone."""
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit_bytes:
                return self._too_large()
        chunks, size = [], 0
        while True:
            message = await self._next()
            if message["type"] != "http.request":
                raise _ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._limit_bytes:
                return self._too_large()
            if not message.get("more_body", False):
                break
        self._body, self.is_read = b"".join(chunks), True
        return None

    def _too_large(self) -> Answer:
        return error_answer(413, f"the request's body is larger than {self._limit_bytes} bytes")

    def kept(self) -> bytes:
        return self._body if self.is_read else no_body_asked_for()

    def replace(self, body: bytes) -> None:
        self._body, self.is_read = body, True

    async def receive(self) -> Message:
        """What the app gets."""
        message = await self._for_app()
        if message["type"] == "http.disconnect" and self.on_gone is not None:
            await self.on_gone()
        return message

    async def _for_app(self) -> Message:
        if not self.is_read:
            return await self._next()
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        while True:
            message = await self._next()
            # Where the body was replaced unread, what came of it is not the app's to see.
            if message["type"] != "http.request":
                return message


class _Response:
    """What the app sends, on its way through the Response handlers."""

    __slots__ = ("_around", "_chunks", "_exchange", "_is_over", "_method", "_send", "_size", "_start")

    def __init__(self, around: Around, exchange: RequestExchange, method: str, send: Send) -> None:
        self._around = around
        self._exchange = exchange
        self._method = method
        self._send = send
        #: The start, while the body is kept for handlers.
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        #: All is sent: what the app sends further is dropped.
        self._is_over = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if (self._is_over or self._exchange.is_gone) and kind.startswith("http.response"):
            return
        if kind == "http.response.start":
            if self._exchange.chain.response_uses_body:
                self._start = message
            else:
                await self._begin(message, no_body_asked_for)
        elif kind == "http.response.body" and self._start is not None:
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
            await _send_answer(error_answer(500, "Middleware error"), self._method, self._send)
            return
        if message.get("more_body", False):
            return
        self._start = None
        body = b"".join(self._chunks)
        await self._begin(start, lambda: body)
        if not self._is_over:
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, start: Message, body_source: Callable[[], bytes]) -> None:
        """Run the handlers, and send what comes before the body; all, where the body is a new one."""
        raw: list[RawHeader] = list(start.get("headers", ()))
        exchange = self._exchange
        exchange.response = HeldResponse(start["status"], held_headers(raw), body_source=body_source)
        around = self._around
        await around.drive(around.requests.after_app(exchange), exchange, None)
        response = exchange.response
        new = {**start, "status": response.status, "headers": with_edits(raw, response)}
        if not response.has_new_body:
            await self._send(new)
            return
        self._is_over = True
        new.pop("trailers", None)
        await self._send(new)
        body = body_to_send(response.status, response.raw_body, self._method)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


class _Lifespan:
    """Passes the app's lifespan on, with the handlers' around it; is one, where the app has none."""

    def __init__(self, around: Around, receive: Receive, send: Send) -> None:
        self._around = around
        self._receive_outer = receive
        self._send_outer = send
        self._has_started = False
        self._has_answered = False

    async def run(self, scope: Scope) -> None:
        try:
            await self._around.app(scope, self._receive, self._send)
        except Exception:
            if self._has_answered:
                await self._around.close()
                raise
        if self._has_answered:
            return
        # An app that knows no lifespan.
        if not self._has_started:
            await self._receive()
        await self._send_outer({"type": "lifespan.startup.complete"})
        await self._receive_outer()
        await self._around.close()
        await self._send_outer({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._has_started = True
            # First: the app's own start may call itself.
            await self._around.open()
        return message

    async def _send(self, message: Message) -> None:
        self._has_answered = True
        if message["type"] in (
            "lifespan.startup.failed",
            "lifespan.shutdown.complete",
            "lifespan.shutdown.failed",
        ):
            await self._around.close()
        await self._send_outer(message)


def _request(scope: Scope, body_source: Callable[[], bytes]) -> HeldRequest:
    raw_path = scope.get("raw_path")
    # uvicorn and others send it without the query; one that does not is cut.
    path = raw_path.partition(b"?")[0].decode("latin-1") if raw_path else quote(scope["path"])
    query = scope.get("query_string", b"").decode("latin-1")
    return HeldRequest(
        scope.get("method", "GET"),
        f"{path}?{query}" if query else path,
        held_headers(scope["headers"]),
        scheme=scope.get("scheme", "http"),
        body_source=body_source,
    )


def _scope_for_app(scope: Scope, exchange: HeldExchange) -> Scope:
    """A copy: what is in the server's own scope stays as it is."""
    inner = dict(scope)
    caller = inner["coprocess"] = Caller(exchange)
    if exchange.has_session and inner.get("user") is None:
        inner["user"] = caller
    request = exchange.request
    if request.headers.edited or request.has_new_body:
        inner["headers"] = with_edits(scope["headers"], request)
    if request.has_new_path:
        inner["raw_path"] = request.encoded_path.encode("latin-1")
        inner["path"] = unquote(request.encoded_path)
    if request.has_new_query:
        inner["query_string"] = request.query_string.encode("latin-1")
    if "method" in inner:
        inner["method"] = request.method
    return inner


def _telling(headers: list[tuple[str, str]], send: Send) -> Send:
    """`send` that adds `headers` to the response, in the place of such that it has."""
    added = [(name.lower().encode(), value.encode()) for name, value in headers]
    names = {name for name, _ in added}

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            rest = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*rest, *added]}
        await send(message)

    return telling


def _hide_unseen_bodies(scope: Scope) -> None:
    extensions = scope.get("extensions")
    if extensions:
        scope["extensions"] = {
            name: value for name, value in extensions.items() if name not in _UNSEEN_BODIES
        }


async def _send_answer(answer: Answer, method: str, send: Send, prefix: str = "http.response") -> None:
    await send({"type": f"{prefix}.start", "status": answer.status, "headers": answer_headers(answer)})
    body = body_to_send(answer.status, answer.body, method)
    await send({"type": f"{prefix}.body", "body": body, "more_body": False})
