"""The Objects that the gateway sends: request, definition and session, as each type of hook sees them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from coprocess.desk.tyk.simulator.definition import ApiDefinition, HookDefinition
from coprocess.desk.tyk.simulator.gojson import go_json
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.gateways.tyk import wire

PRE = wire.HookType.Pre
POST = wire.HookType.Post
POST_KEY_AUTH = wire.HookType.PostKeyAuth
CUSTOM_KEY_CHECK = wire.HookType.CustomKeyCheck
RESPONSE = wire.HookType.Response


class NotUtf8(ValueError):
    """A string of the Object would not be UTF-8: the gateway cannot serialize it, and no hook is called."""


@dataclass(slots=True)
class GatewayResponse:
    """Go's `http.Response`, as Response hooks change it."""

    status: int
    headers: GoHeader
    body: bytes
    #: The upstream's answer had no known length, and no hook gave it one.
    streamed: bool = False


def spec_map(definition: ApiDefinition) -> dict[str, str]:
    """`bundle_hash` is the MD5 of the bundle's name, not of its content."""
    spec = {
        "OrgID": definition.org_id,
        "APIID": definition.api_id,
        "bundle_hash": hashlib.md5(definition.bundle.encode(), usedforsecurity=False).hexdigest(),
    }
    if definition.config_data:
        spec["config_data"] = go_json(definition.config_data)
    return spec


def build_object(
    hook_type: wire.HookType,
    hook: HookDefinition,
    definition: ApiDefinition,
    request: GatewayRequest,
    session: wire.SessionState | None,
) -> wire.Object:
    """What a hook of any type gets; a Response hook's `response` is put in by `add_response`.

    Raises NotUtf8.
    """
    try:
        built = wire.Object(
            hook_type=hook_type,
            hook_name=hook.name,
            request=_request(hook, request),
            spec=spec_map(definition),
        )
    except (UnicodeEncodeError, ValueError) as error:
        raise NotUtf8(str(error)) from error
    if session is not None and hook_type not in (PRE, CUSTOM_KEY_CHECK):
        built.session.CopyFrom(session)
        built.metadata.update(session.metadata)
    return built


def _request(hook: HookDefinition, request: GatewayRequest) -> wire.MiniRequestObject:
    return wire.MiniRequestObject(
        headers=request.headers.first_values() | {"Host": request.host},
        body=_text(request.body, hook),
        url=str(request.url),
        params={name: values[0] for name, values in request.url.values().items()},
        return_overrides=wire.ReturnOverrides(response_code=-1),
        method=request.method,
        request_uri=request.request_uri,
        scheme="http",
        raw_body=request.body,
    )


def add_response(built: wire.Object, hook: HookDefinition, response: GatewayResponse) -> None:
    """Raises NotUtf8."""
    try:
        built.response.CopyFrom(
            wire.ResponseObject(
                status_code=response.status,
                raw_body=response.body,
                body=_text(response.body, hook),
                headers=response.headers.first_values(),
                multivalue_headers=[
                    wire.Header(key=name, values=response.headers.getall(name)) for name in response.headers
                ],
            )
        )
    except (UnicodeEncodeError, ValueError) as error:
        raise NotUtf8(str(error)) from error


def _text(body: bytes, hook: HookDefinition) -> str:
    if hook.raw_body_only:
        return ""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""
