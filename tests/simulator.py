"""APIs, plugins and gateways of the simulator, and what one reads of their exchanges, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coprocess.desk.tyk.simulator import (
    ApiDefinition,
    CannedUpstream,
    Exchange,
    Gateway,
    RpcError,
    Upstream,
)
from coprocess.gateways.tyk import wire

Edit = Callable[[wire.Object], None]
NOW = 1_800_000_000.25
CALLER = "tok"
EVENTS = ("AuthFailure", "KeyExpired", "QuotaExceeded", "RatelimitExceeded")


class Plugin:
    """A plugin server whose hooks edit the Object in place."""

    def __init__(self, **hooks: Edit) -> None:
        self.hooks = hooks
        self.events: list[str] = []

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        message = wire.Object.FromString(serialized_object)
        edit = self.hooks.get(message.hook_name)
        if edit:
            edit(message)
        return message.SerializeToString()

    def dispatch_event(self, payload_json: str, /) -> None:
        self.events.append(payload_json)


def definition(**changes: Any) -> ApiDefinition:
    hooks = {"driver": "grpc"} | changes.pop("hooks", {})
    return ApiDefinition.parse(
        {
            "name": "api",
            "api_id": "api",
            "org_id": "org",
            "use_keyless": not hooks.get("auth_check"),
            "custom_plugin_auth_enabled": bool(hooks.get("auth_check")),
            "custom_middleware": hooks,
            "proxy": {
                "listen_path": "/api/",
                "target_url": "http://upstream.test/",
                "strip_listen_path": True,
            },
            "event_handlers": {
                "events": {
                    name: [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
                    for name in EVENTS
                }
            },
        }
        | changes
    )


def hook(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


KEYLESS = {"pre": [hook("Pre1"), hook("Pre2")], "post": [hook("Post")], "response": [hook("Resp")]}
PROTECTED = {
    "auth_check": hook("Auth"),
    "post_key_auth": [hook("PostKeyAuth")],
    "post": [hook("Post")],
    "response": [hook("Resp")],
}
OK = CannedUpstream(200, [("Content-Type", "text/plain")], b"fine")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def keyless(upstream: Upstream = OK, *, api: dict[str, Any] | None = None, **hooks: Edit) -> Gateway:
    return Gateway(definition(hooks=KEYLESS, **api or {}), Plugin(**hooks), upstream, clock=Clock())


def accept(**fields: Any) -> Edit:
    def auth(message: wire.Object) -> None:
        message.session.MergeFrom(wire.SessionState(**fields))
        message.metadata["token"] = CALLER

    return auth


def protected(
    auth: Edit, *, extractor: dict[str, Any] | None = None, api: dict[str, Any] | None = None, **hooks: Edit
) -> Gateway:
    middleware = PROTECTED | ({"id_extractor": extractor} if extractor else {})
    return Gateway(definition(hooks=middleware, **api or {}), Plugin(Auth=auth, **hooks), OK, clock=Clock())


def named(exchange: Exchange) -> list[str]:
    return [call.hook_name for call in exchange.hooks]


def status(exchange: Exchange) -> int:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.status


def text(exchange: Exchange) -> str:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.body.decode()


def header(exchange: Exchange, name: str) -> str | None:
    assert exchange.http_response is not None, exchange.dropped
    return exchange.http_response.header(name)


def upstream_header(exchange: Exchange, name: str) -> list[str]:
    assert exchange.upstream_request is not None
    return [value for key, value in exchange.upstream_request.headers if key == name]


def upstream_url(exchange: Exchange) -> str:
    assert exchange.upstream_request is not None
    return exchange.upstream_request.url


def sent(exchange: Exchange, name: str) -> wire.Object:
    return next(call.object for call in exchange.hooks if call.hook_name == name)


def heard(exchange: Exchange) -> list[tuple[str, str]]:
    return [(event["message"]["Type"], event["message"]["Meta"]["Key"]) for event in exchange.events]


def fail(message: wire.Object) -> None:
    raise RpcError("INTERNAL", "boom")


def overrides(code: int, text: str = "", **more: Any) -> Edit:
    def edit(message: wire.Object) -> None:
        message.request.return_overrides.CopyFrom(
            wire.ReturnOverrides(response_code=code, response_body=text, **more)
        )

    return edit
