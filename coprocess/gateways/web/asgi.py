"""Handlers around an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote, unquote

from coprocess.api.held import HeldRequest, HeldResponse
from coprocess.gateways.web.adapter import BODY, DEFAULT_MAX_BODY_BYTES, Adapter, Steps
from coprocess.gateways.web.answers import Answer, error_answer
from coprocess.gateways.web.call import Exchange, WebCall
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

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Of a server's extensions, those by which an app sends a body that nobody sees on its way.
_UNSEEN_BODIES = ("http.response.pathsend", "http.response.zerocopysend")


class _ClientGone(Exception):
    """The client went while its body was read: nobody waits for an answer."""


class Middleware:
    """An ASGI app around `app`: handlers run before and after it.

    `handlers` is a folder, or an iterable of folders, decorated functions, modules and an App. `chain` names
    the handlers of each moment: `{"pre": ["name"], "auth_check": "name", "post_key_auth": […], "post": […],
    "response": […], "events": {"AuthFailure": ["name"]}}`; without it, all run, by `order=` and then as
    written. `config` is what `spec.config` gives, `app_config` what `App.config` does. `store` is the address
    of the Redis or Valkey server that keeps rates and quotas; without it, each process keeps its own. Raises
    LoadError, HandlerError and ConfigError for what is wrong.
    """

    def __init__(
        self,
        app: Any,
        handlers: Any = (),
        *,
        chain: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        app_config: Mapping[str, Any] | None = None,
        api_id: str = "",
        org_id: str = "",
        timeout_s: float = 30.0,
        failure_status: int | None = None,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        store: str | None = None,
    ) -> None:
        self.app = app
        self.adapter = Adapter(
            handlers,
            chain=chain,
            config=config,
            app_config=app_config,
            api_id=api_id,
            org_id=org_id,
            timeout_s=timeout_s,
            failure_status=failure_status,
            max_body_bytes=max_body_bytes,
            store=store,
        )
        self._opening: asyncio.Lock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await _Lifespan(self, receive, send).run(scope)
        else:
            await self.app(scope, receive, send)

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

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        adapter = self.adapter
        if not adapter.is_open:
            await self.open()
        body = _RequestBody(receive, adapter.max_body_bytes, scope)
        exchange = Exchange(_request(scope, body.kept), adapter.spec)
        try:
            answer = await self._drive(adapter.before_app(exchange), exchange, body)
        except _ClientGone:
            return
        if answer is not None:
            await _send_answer(answer, scope["method"], send)
            return
        if exchange.request.has_new_body:
            body.replace(exchange.request.raw_body)
        inner = _scope_for_app(scope, exchange)
        if told := quota_headers(exchange):
            send = _telling(told, send)
        if adapter.chain.after:
            if adapter.chain.response_uses_body:
                _hide_unseen_bodies(inner)
            send = _Response(self, exchange, scope["method"], send)
        await self.app(inner, body.receive if body.is_read else receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        adapter = self.adapter
        if not adapter.is_open:
            await self.open()
        exchange = Exchange(_request(scope, lambda: b""), adapter.spec)
        answer = await self._drive(adapter.before_app(exchange), exchange, None)
        if answer is None:
            await self.app(_scope_for_app(scope, exchange), receive, send)
            return
        await receive()  # websocket.connect
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await _send_answer(answer, "GET", send, prefix="websocket.http.response")
        else:
            # Before the handshake is accepted, servers answer it with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def _drive(self, steps: Steps, exchange: Exchange, body: _RequestBody | None) -> Answer | None:
        adapter = self.adapter
        calls = adapter.calls
        try:
            need = next(steps)
            while True:
                given: Any
                if type(need) is WebCall:
                    given = await calls.call_async(need)
                elif need is BODY:
                    given = None if body is None else await body.read()
                else:
                    given = await asyncio.to_thread(adapter.limited, exchange.session)
                need = steps.send(given)
        except StopIteration as done:
            answer: Answer | None = done.value
            return answer

    async def edit_response(self, exchange: Exchange) -> None:
        """Run the Response handlers."""
        await self._drive(self.adapter.after_app(exchange), exchange, None)


class _RequestBody:
    """The body of a request: passed on as it comes, or read first and passed on whole."""

    __slots__ = ("_body", "_limit_bytes", "_new", "_receive", "_scope", "_sent", "is_read")

    def __init__(self, receive: Receive, limit_bytes: int, scope: Scope) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._scope = scope
        self._body = b""
        self._sent = False
        #: Whether the app gets it from here, and not from the server.
        self.is_read = False

    async def read(self) -> Answer | None:
        """Read it all. An Answer where it is too large. Raises _ClientGone."""
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit_bytes:
                return self._too_large()
        chunks, size = [], 0
        while True:
            message = await self._receive()
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
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        while True:
            message = await self._receive()
            # Where the body was replaced unread, what came of it is not the app's to see.
            if message["type"] != "http.request":
                return message


class _Response:
    """What the app sends, on its way through the Response handlers."""

    __slots__ = ("_chunks", "_exchange", "_is_over", "_method", "_middleware", "_send", "_size", "_start")

    def __init__(self, middleware: Middleware, exchange: Exchange, method: str, send: Send) -> None:
        self._middleware = middleware
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
        if self._is_over and kind.startswith("http.response"):
            return
        if kind == "http.response.start":
            if self._middleware.adapter.chain.response_uses_body:
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
        limit_bytes = self._middleware.adapter.max_body_bytes
        if self._size > limit_bytes:
            self._is_over = True
            self._middleware.adapter.tell_too_large(limit_bytes)
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
        await self._middleware.edit_response(exchange)
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

    def __init__(self, middleware: Middleware, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._receive_outer = receive
        self._send_outer = send
        self._has_started = False
        self._has_answered = False

    async def run(self, scope: Scope) -> None:
        try:
            await self._middleware.app(scope, self._receive, self._send)
        except Exception:
            if self._has_answered:
                await self._middleware.close()
                raise
        if self._has_answered:
            return
        # An app that knows no lifespan.
        if not self._has_started:
            await self._receive()
        await self._send_outer({"type": "lifespan.startup.complete"})
        await self._receive_outer()
        await self._middleware.close()
        await self._send_outer({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._has_started = True
            # First: the app's own start may call itself.
            await self._middleware.open()
        return message

    async def _send(self, message: Message) -> None:
        self._has_answered = True
        if message["type"] in (
            "lifespan.startup.failed",
            "lifespan.shutdown.complete",
            "lifespan.shutdown.failed",
        ):
            await self._middleware.close()
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


def _scope_for_app(scope: Scope, exchange: Exchange) -> Scope:
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
