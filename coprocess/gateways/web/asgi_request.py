"""One request of ASGI on its way to the app, and the response on its way back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from coprocess.api.held import Bare
from coprocess.gateways.web.asgi_body import ClientGone, RequestBody
from coprocess.gateways.web.asgi_messages import (
    Message,
    Receive,
    Scope,
    Send,
    hide_unseen_bodies,
    scope_for_app,
    scope_request,
    send_answer,
    telling,
)
from coprocess.gateways.web.http import (
    app_response,
    body_to_send,
    end_without_body,
    no_body_asked_for,
    quota_headers,
    raw_headers,
    with_edits,
)
from coprocess.loading.lifetime import Ending, Lifetime
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.around.request import RequestCall, RequestExchange, request_call
from coprocess.runtime.around.steps import BODY, Need, Steps

if TYPE_CHECKING:
    from coprocess.gateways.web.asgi import Around
    from coprocess.runtime.around.chain import Chain

_NOBODY = contextlib.nullcontext()

# Where a response is.
#: The app has not begun it.
_BEFORE = 0
#: It has, and what is there of it is kept for handlers, until it is whole.
_KEEPS = 1
#: Its start has gone out, and what follows does as it is.
_PASSES = 2
#: All is sent, or the client is gone: what the app sends further is dropped.
_OVER = 3


class AsgiRequest(Bare, RequestExchange):
    """A request, and the response to it. The app gets its messages, and sends by it.

    As a context manager, it looks out for a client that goes while a handler waits.
    """

    __slots__ = (
        "_around",
        "_body",
        "_is_driven",
        "_kept",
        "_receive_outer",
        "_scope",
        "_send_outer",
        "_stage",
    )

    _around: Around
    _scope: Scope
    _receive_outer: Receive
    _send_outer: Send
    #: Made when somebody asks for it.
    _body: RequestBody | None
    #: Of the response.
    _stage: int
    _kept: _Kept
    #: Handlers wait: what is left for the end of the request is not known yet.
    _is_driven: bool

    @property
    def body(self) -> RequestBody:
        if (body := self._body) is None:
            body = self._body = RequestBody(
                self._receive_outer, self._around.requests.max_body_bytes, self._scope
            )
        return body

    async def run(self) -> None:
        chain, requests = self.chain, self._around.requests
        scope, send = self._scope, self._send_outer
        tracked: _Tracked | None = None
        if chain.is_tracked:
            send = self._send_outer = tracked = _Tracked(send, self.lifetime, self._around.ending)
        try:
            if (hooks := chain.plain_before) is None or requests.problem or requests.gateway.problem:
                await self._driven(requests.before_app(self))
            else:
                # As `before_app`, where that has nothing to do but to run handlers.
                for hook in hooks:
                    call = request_call(hook, self)
                    if (waits_for := self.calls.begin(call, self)) is not None:
                        await self._waiting(waits_for)
                    if (answer := self.settle(call, call.failure)) is not None:
                        requests.ended_by(self, answer)
                        break
        except ClientGone:
            return
        if self.answer is not None:
            await send_answer(self.answer, scope["method"], send)
            return
        if self.request.has_new_body:
            self.body.replace(self.request.raw_body)
        has_session = (session := self._session) is not None and bool(session)
        inner = scope_for_app(scope, self, has_session)
        if has_session and (told := quota_headers(self.session)):
            send = self._send_outer = telling(told, send)
        if chain.after:
            if chain.response_uses_body:
                hide_unseen_bodies(inner)
                self._keep_body()
            send = self.send
        is_between = (
            chain.waits_after or tracked is not None or (self._body is not None and self._body.is_between)
        )
        try:
            await self._around.app(inner, self.receive if is_between else self._receive_outer, send)
        except Exception as error:
            if tracked is None or tracked.has_started:
                raise
            answer = None
            with contextlib.suppress(ClientGone):
                answer = await self._driven(requests.app_failed(self, error))
            if answer is None:
                raise
            if self._stage == _KEEPS:
                # Another response, in the app's place: of what that had sent, nothing has gone out.
                self._keep_body()
            await send_answer(answer, scope["method"], send)

    async def shake_hands(self) -> None:
        """As `run`, for a websocket."""
        scope, send = self._scope, self._send_outer
        self.request.body_came(b"")  # It has none, also for handlers of which that is not seen at load.
        answer = await self._driven(self._around.requests.before_app(self))
        if answer is None:
            inner = scope_for_app(scope, self, self.has_session)
            await self._around.app(inner, self._receive_outer, send)
            return
        await self._receive_outer()  # websocket.connect
        if "websocket.http.response" in (scope.get("extensions") or {}):
            await send_answer(answer, "GET", send, prefix="websocket.http.response")
        else:
            # Before the handshake is accepted, servers answer it with 403.
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def end(self) -> None:
        """Run what is left for the end of the request."""
        await _end(self.lifetime, self._around.ending)

    # While handlers run.

    async def _driven(self, steps: Steps) -> Answer | None:
        """Give `steps` what they need. Gives what ends the request here."""
        is_http = self._scope["type"] == "http"
        for need in steps:
            if type(need) is RequestCall:
                waits_for = self.calls.begin(need, self if is_http else _NOBODY)
                if waits_for is not None:
                    await self._waiting(waits_for)
            else:
                await self._waiting(self._meet(need, is_http))
        return self.answer

    async def _meet(self, need: Need, is_http: bool) -> None:
        """Give what steps need that is no call."""
        if need is not BODY:
            self.given = await asyncio.to_thread(self._around.requests.limited, self.session)
        elif not is_http:
            self.given = None
            self.request.body_came(b"")
        elif (answer := await self.body.read()) is not None:
            self.given = answer
        else:
            self.given = None
            self.request.body_came(self.body.kept())

    async def _waiting(self, waits_for: Coroutine[Any, Any, None]) -> None:
        self._is_driven = True
        try:
            await waits_for
        except asyncio.CancelledError:
            if self._is_left():
                raise ClientGone from None
            raise
        else:
            # A handler may go on, and end as it likes.
            if self._is_left():
                raise ClientGone
        finally:
            self._is_driven = False

    def _is_left(self) -> bool:
        """Whether the client is gone, and the handler was cancelled for that: its task is so no more."""
        body = self._body
        if body is None or not body.has_cancelled or (task := asyncio.current_task()) is None:
            return False
        body.has_cancelled = False
        task.uncancel()
        return True

    def __enter__(self) -> None:
        self.body.look_out()

    def __exit__(self, *error: object) -> None:
        self.body.look_no_more()

    # What the app gets and sends.

    async def receive(self) -> Message:
        message = await self.body.for_app()
        if message["type"] == "http.disconnect" and self.chain.is_tracked:
            await self._gone()
        return message

    async def _gone(self) -> None:
        """The client is: nobody sees what the app still sends."""
        self._stage = _OVER
        if not self._is_driven:
            await self.end()

    def send(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own: most messages are passed on as they are.
        stage = self._stage
        if stage == _PASSES:
            return self._send_outer(message)
        if stage == _BEFORE and message["type"] == "http.response.start":
            return self._begin(message, no_body_asked_for)
        return self._take(message)

    async def _take(self, message: Message) -> None:
        # Decided when it is awaited: until then, a handler may have answered instead of the app.
        kind, stage = message["type"], self._stage
        if stage == _OVER and kind.startswith("http.response"):
            return
        if stage == _KEEPS and kind == "http.response.start":
            self._kept.start = message
        elif stage == _KEEPS and kind == "http.response.body" and self._kept.start is not None:
            await self._keep(self._kept.start, message)
        else:
            await self._send_outer(message)

    def _keep_body(self) -> None:
        self._stage, self._kept = _KEEPS, _Kept()

    async def _keep(self, start: Message, message: Message) -> None:
        kept = self._kept
        chunk = message.get("body", b"")
        kept.chunks.append(chunk)
        kept.size += len(chunk)
        requests = self._around.requests
        if kept.size > requests.max_body_bytes:
            self._stage = _OVER
            requests.tell_too_large(requests.max_body_bytes)
            answer = error_answer(500, "Middleware error")
            await send_answer(answer, self._scope["method"], self._send_outer)
            return
        if message.get("more_body", False):
            return
        kept.start = None
        body = b"".join(kept.chunks)
        await self._begin(start, lambda: body)
        if self._stage == _PASSES:
            await self._send_outer({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, start: Message, body_source: Callable[[], bytes]) -> None:
        """Run the handlers, and send what comes before the body; all, where the body is a new one."""
        headers = raw_headers(start.get("headers", ()))
        self.response = app_response(start["status"], headers, body_source)
        try:
            for step in self.chain.after:
                call = request_call(step.hook, self)
                if (waits_for := self.calls.begin(call, self)) is not None:
                    await self._waiting(waits_for)
                if (answer := self.settle(call, call.failure)) is not None:
                    self.replace_response(answer)
                    break
        except ClientGone:
            self._stage = _OVER
        if self._stage == _OVER:
            await self._gone()
            return
        response = self.response
        end_without_body(response, start["status"])
        new = dict(start)
        new["status"], new["headers"] = response.status, with_edits(headers.raw, response)
        if not response.has_new_body:
            await self._send_outer(new)
            if self._stage != _OVER:
                self._stage = _PASSES
            return
        self._stage = _OVER
        new.pop("trailers", None)
        await self._send_outer(new)
        body = body_to_send(response.status, response.raw_body, self._scope["method"])
        await self._send_outer({"type": "http.response.body", "body": body, "more_body": False})


def asgi_request(around: Around, chain: Chain, scope: Scope, receive: Receive, send: Send) -> AsgiRequest:
    """As the constructor of the base class."""
    requests = around.requests
    request = AsgiRequest()
    request.spec, request.chain = requests.spec, chain
    request.request = scope_request(scope)
    request.response = request.answer = request._session = request._state = request._body = None
    request.lifetime = Lifetime() if chain.has_end else None
    request._around, request.calls = around, requests.calls
    request._scope, request._receive_outer, request._send_outer = scope, receive, send
    request._stage = _BEFORE
    request._is_driven = False
    return request


class _Kept:
    """What the app has sent of its response, until that is whole."""

    __slots__ = ("chunks", "size", "start")

    def __init__(self) -> None:
        self.start: Message | None = None
        self.chunks: list[bytes] = []
        self.size = 0


class _Tracked:
    """`send` of a request that knows whether a response has begun, and ends the request with its body."""

    __slots__ = ("_ending", "_has_trailers", "_lifetime", "_send", "has_started")

    def __init__(self, send: Send, lifetime: Lifetime | None, ending: Ending) -> None:
        # Not the request, which has this as its `send`: a cycle.
        self._send = send
        self._lifetime, self._ending = lifetime, ending
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
            await _end(self._lifetime, self._ending)


async def _end(lifetime: Lifetime | None, ending: Ending) -> None:
    if lifetime is not None and (steps := lifetime.end(ending)) is not None:
        await steps
