"""One Object, as the gateway makes it of a request: for calls of one hook without a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coprocess.desk.tyk.simulator import ApiDefinition, HookDefinition
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse, add_response, build_object
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.simulator.session import with_parts
from coprocess.gateways.tyk.wire import HookType, Object, SessionState

#: The types of hooks that take an Object, by name.
TYPES = tuple(name for name in HookType.DESCRIPTOR.values_by_name if name not in ("Unknown", "Event"))
_HOST = "127.0.0.1:8081"


def received(method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> GatewayRequest:
    """What a gateway on this machine has of a client's request. Raises ValueError for what is none."""
    return GatewayRequest.received(method, url, headers, body, host=_HOST, client_address="127.0.0.1")


def object_of(
    hook_type: str,
    name: str,
    request: GatewayRequest,
    *,
    session: SessionState | None = None,
    response: GatewayResponse | None = None,
    config: Mapping[str, Any] | None = None,
    api_id: str = "",
) -> Object:
    """The Object for the hook `name` of a type of `TYPES`. `response` is the upstream's, for Response."""
    definition = ApiDefinition(
        name="test",
        api_id=api_id,
        org_id="default",
        listen_path="/",
        target_url="http://upstream.test/",
        config_data=dict(config or {}),
    )
    hook = HookDefinition(name)
    caller = None if session is None else with_parts(session)
    sent = build_object(getattr(HookType, hook_type), hook, definition, request, caller)
    if hook_type == "Response":
        add_response(sent, hook, response or GatewayResponse(200, GoHeader.received([]), b""))
    return sent
