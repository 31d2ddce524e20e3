"""Whatever stands for the upstream in a trial, made one that a simulated gateway can ask."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any, cast

from coprocess.api.messages import Reply
from coprocess.desk.upstreams import (
    AsgiUpstream,
    CannedUpstream,
    Upstream,
    UpstreamReply,
    UpstreamRequest,
    UrlUpstream,
    WsgiUpstream,
)

_EXPECTED = (
    "a status, respond(...), an UpstreamReply, an http URL, a function of one request, or a WSGI or ASGI app"
)

#: What answers where nothing else is said.
DEFAULT_REPLY = UpstreamReply(200, (("Content-Type", "application/json"),), b'{"ok":true}')


def as_upstream(value: Any) -> Upstream:
    """`value` is a status, a reply, an http URL, a function that is given the UpstreamRequest and returns
    a status or a reply, or a WSGI or ASGI app. Raises TypeError for anything else."""
    if value is None:
        return _canned(DEFAULT_REPLY)
    if isinstance(value, str):
        return UrlUpstream(value)
    if isinstance(value, (CannedUpstream, UrlUpstream, WsgiUpstream, AsgiUpstream)):
        return value
    if callable(value):
        return _of_callable(value)
    return _canned(as_reply(value))


def as_reply(value: Any) -> UpstreamReply:
    """From a status, `respond(...)`, or a dict or list that is the body as JSON. Raises TypeError."""
    if isinstance(value, UpstreamReply):
        return value
    if isinstance(value, Reply):
        return UpstreamReply(value.status, tuple(value.headers.pairs()), value.body)
    if isinstance(value, int) and not isinstance(value, bool):
        return UpstreamReply(value, DEFAULT_REPLY.headers, b"{}") if value != 200 else DEFAULT_REPLY
    if isinstance(value, (dict, list)):
        return UpstreamReply(200, DEFAULT_REPLY.headers, json.dumps(value).encode())
    raise TypeError(f"{value!r} is no upstream: expected {_EXPECTED}")


def _canned(reply: UpstreamReply) -> Upstream:
    return CannedUpstream(reply.status, reply.headers, reply.body)


def _of_callable(value: Callable[..., Any]) -> Upstream:
    try:
        needed = [
            parameter
            for parameter in inspect.signature(value).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        raise TypeError(f"{value!r} is no upstream: expected {_EXPECTED}") from None
    if len(needed) == 3:
        return AsgiUpstream(value)
    if len(needed) == 2:
        return WsgiUpstream(cast("Any", value))
    if len(needed) == 1:
        return lambda request: as_reply(value(request))
    raise TypeError(f"{value!r} is no upstream: expected {_EXPECTED}")


class ObservedUpstream:
    """Remembers why the upstream could not be asked, which the gateway tells nobody."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.error = ""

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        self.error = ""
        try:
            return self.upstream(request)
        except OSError as error:
            self.error = str(error) or type(error).__name__
            raise
