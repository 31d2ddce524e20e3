"""Edits of the messages that handlers hold, and what the gateway makes of the reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coprocess.api.moments import HookType
from coprocess.desk.tyk.simulator.apply import apply_request_edits, apply_return_overrides
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.gateways.tyk.compat import decorators
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import MiniRequestObject, Object, ResponseObject
from tests.objects import answer, make_object, run_sync, table_of

Edit = Callable[[MiniRequestObject], object]


REQUEST_HOOKS = [HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post]


def raw(edit: Edit, message: Object | None = None, **options: Any) -> Object:
    """The reply of a native handler that edits the protocol's own message."""

    def handler(request: Any) -> None:
        edit(request.object)

    return answer(handler, message, **options)


def raw_response(edit: Callable[[ResponseObject], object], message: Object | None = None) -> Object:
    def handler(response: Any) -> None:
        edit(response.object)

    return answer(handler, message or make_object(HookType.Response))


def embedded(function: Callable[..., Any], message: Object) -> Object:
    """The reply of a handler of the embedded driver's style."""
    table = table_of(lambda: decorators.Hook(function))
    message.hook_name = function.__name__
    return Object.FromString(
        run_sync(Dispatcher(table, full_reply=True).open_dispatch(message.SerializeToString()))
    )


def at_the_gateway(reply: Object, body: bytes = b"old") -> GatewayRequest:
    """The gateway's request after `reply`. Raises what a reply that it cannot take raises there."""
    request = GatewayRequest.received("GET", "/keyless/a", [], body, host="h", client_address="127.0.0.1")
    apply_request_edits(reply, request)
    apply_return_overrides(reply, "", lambda token: None)
    return request
