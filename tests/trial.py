"""Trials of one handler, as `coprocess try` makes them, and gRPC servers that are not ours, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from coprocess import Session
from coprocess.api.moments import HookType
from coprocess.desk.output import captured_streams
from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.desk.tyk.trial import Finding, InProcessDispatcher, ObservedGateway, Trial, as_upstream
from coprocess.gateways.tyk.wire import DISPATCH, Object
from coprocess.loading.hooks import HookTable
from tests.objects import hook_table

# Handlers that assign attributes take Any: type checkers find the classes' __slots__ without them.
Handler = Callable[..., Any]

_KEYS = {
    HookType.Pre: "pre",
    HookType.Post: "post",
    HookType.PostKeyAuth: "post_key_auth",
    HookType.CustomKeyCheck: "auth_check",
    HookType.Response: "response",
}


def document(hook_type: HookType = HookType.Pre, name: str = "hook", **more: Any) -> dict[str, Any]:
    """An API with one hook; one that authenticates has a CustomKeyCheck, too."""
    protected = hook_type in (HookType.CustomKeyCheck, HookType.PostKeyAuth)
    hook: Any = {"name": name}
    middleware = {"driver": "grpc", _KEYS[hook_type]: hook if _KEYS[hook_type] == "auth_check" else [hook]}
    if hook_type is HookType.PostKeyAuth:
        middleware["auth_check"] = {"name": "auth"}
    return {
        "name": "API",
        "api_id": "api",
        "org_id": "org",
        "use_keyless": not protected,
        "custom_plugin_auth_enabled": protected,
        "proxy": {"listen_path": "/api/", "target_url": "http://upstream.test/", "strip_listen_path": True},
        "custom_middleware": middleware,
        "event_handlers": {
            "events": {
                "AuthFailure": [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
            }
        },
    } | more


def tables(*parts: HookTable) -> HookTable:
    return HookTable(hook for part in parts for hook in part)


def try_handler(
    function: Handler,
    hook_type: HookType = HookType.Pre,
    *,
    target: str = "/api/a?q=1",
    api: dict[str, Any] | None = None,
    method: str = "POST",
    body: bytes = b"body",
    headers: list[tuple[str, str]] | None = None,
    table: HookTable | None = None,
    upstream: Any = None,
    **options: Any,
) -> Trial:
    """One request through an API with this native handler."""
    table = table or hook_table(hook_type, function, **options)
    if hook_type is HookType.PostKeyAuth:
        table = tables(table, hook_table(HookType.CustomKeyCheck, admit, name="auth"))
    definition = ApiDefinition.parse(api or document(hook_type))
    with InProcessDispatcher(table) as dispatcher, captured_streams():
        gateway = ObservedGateway(definition, dispatcher, as_upstream(upstream))
        return gateway.request(method, target, headers or [("X-A", "1")], body)


def admit(session: Session) -> None:
    session.allow("caller")


def found(trial: Trial, rule: str) -> Finding:
    matching = [finding for finding in trial.findings if finding.rule == rule]
    assert len(matching) == 1, [finding.as_dict() for finding in trial.findings]
    return matching[0]


@contextmanager
def foreign_server(reply: Callable[[Object], bytes]) -> Iterator[str]:
    """A plugin server without a reply guard."""

    def dispatch(payload: bytes, _: grpc.ServicerContext) -> bytes:
        return reply(Object.FromString(payload))

    service, method = DISPATCH.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service, {method: grpc.unary_unary_rpc_method_handler(dispatch)}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
