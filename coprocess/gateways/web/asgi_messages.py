"""Requests and answers as ASGI has them, and as handlers do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from coprocess.api.held import Bare
from coprocess.api.http import encoded_path, escaped
from coprocess.api.unread import NO_EDITS, UnreadRequest
from coprocess.gateways.web.http import (
    Caller,
    body_to_send,
    no_body_asked_for,
    raw_headers,
    response_of,
    with_edits,
)
from coprocess.runtime.answers import Answer
from coprocess.runtime.held_call import HeldExchange

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Of a server's extensions, those by which an app sends a body that nobody sees on its way.
_UNSEEN_BODIES = ("http.response.pathsend", "http.response.zerocopysend")


class ScopeRequest(Bare, UnreadRequest):
    """A request as its scope has it."""

    if not TYPE_CHECKING:
        __slots__ = ("_of_scope",)

    _of_scope: Scope

    def _path_that_came(self) -> str:
        raw_path: bytes = self._of_scope.get("raw_path") or b""
        if not raw_path:
            return encoded_path(self._of_scope["path"])
        # uvicorn and others leave the query there.
        return escaped(raw_path.partition(b"?")[0])

    def _query_that_came(self) -> str:
        query: bytes = self._of_scope.get("query_string") or b""
        return escaped(query)

    def _scheme_that_came(self) -> str:
        scheme: str = self._of_scope.get("scheme", "http")
        return scheme


def scope_request(scope: Scope) -> ScopeRequest:
    """As the constructor of the base class."""
    request = ScopeRequest()
    request._of_scope = scope
    request._method = scope.get("method", "GET")
    request._headers = raw_headers(scope["headers"])
    request._body_source = no_body_asked_for
    request._read_path = request._read_query = None
    request._query = request._target = request._body = request.open_stream = None
    request.has_new_body = request.has_new_path = request._has_body_of_handler = False
    return request


def scope_for_app(scope: Scope, exchange: HeldExchange, has_session: bool) -> Scope:
    """A copy: what is in the server's own scope stays as it is. `has_session`: the exchange's, asked once."""
    inner = dict(scope)
    caller = inner["coprocess"] = Caller()
    caller._exchange = exchange
    if has_session and inner.get("user") is None:
        inner["user"] = caller
    request = exchange.request
    if request.headers.replaced is not NO_EDITS or request.has_new_body:
        inner["headers"] = with_edits(scope["headers"], request)
    if request.has_new_path:
        inner["raw_path"] = request.encoded_path.encode("latin-1")
        inner["path"] = unquote(request.encoded_path)
    if request._query is not None and request.has_new_query:  # Most handlers do not ask for it.
        inner["query_string"] = request.query_string.encode("latin-1")
    if "method" in inner:
        inner["method"] = request._method
    return inner


def telling(headers: list[tuple[str, str]], send: Send) -> Send:
    """`send` that adds `headers` to the response, in the place of such that it has."""
    added = [(name.lower().encode(), value.encode()) for name, value in headers]
    names = {name for name, _ in added}

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            rest = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
            message = {**message, "headers": [*rest, *added]}
        await send(message)

    return telling


def hide_unseen_bodies(scope: Scope) -> None:
    extensions = scope.get("extensions")
    if extensions:
        scope["extensions"] = {
            name: value for name, value in extensions.items() if name not in _UNSEEN_BODIES
        }


async def send_answer(answer: Answer, method: str, send: Send, prefix: str = "http.response") -> None:
    await send(
        {"type": f"{prefix}.start", "status": answer.status, "headers": with_edits((), response_of(answer))}
    )
    body = body_to_send(answer.status, answer.body, method)
    await send({"type": f"{prefix}.body", "body": body, "more_body": False})
