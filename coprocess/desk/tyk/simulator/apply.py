"""What the gateway does with a hook's reply."""

from __future__ import annotations

from collections.abc import Callable

from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.desk.tyk.simulator.outcome import Answered, Dropped, Failed
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.simulator.url import BadUrl, encode_query, parse_request_uri
from coprocess.gateways.tyk import wire

_MIDDLEWARE_ERROR = "Middleware error"


def apply_request_edits(reply: wire.Object, request: GatewayRequest) -> None:
    """Body, headers, parameters, URL, method: in the gateway's order.

    Edits of `body`, `headers` and `params` do nothing (recordings `body_only_is_ignored`,
    `edit_headers_map_is_ignored`). Raises Dropped where `request` is absent, Failed for a bad URL.
    """
    if not reply.HasField("request"):
        raise Dropped("the reply has no request: the gateway reads its raw_body all the same, and panics")
    edits = reply.request
    request.body = edits.raw_body
    request.body_replaced = True
    for name in edits.delete_headers:
        request.headers.remove(name)
    for name, value in edits.set_headers.items():
        request.headers.set(name, value)
    values = request.url.values()
    for name in edits.delete_params:
        values.pop(name, None)
    for name, value in edits.add_params.items():
        values[name] = [value]
    try:
        url = parse_request_uri(edits.url)
    except BadUrl as error:
        raise Failed("url", 500, _MIDDLEWARE_ERROR) from error
    # An unchanged query keeps its order and spelling; a changed one is written anew.
    request.url = url if url.values() == values else url.with_query(encode_query(values))
    if edits.method:
        request.method = edits.method


def token_of(reply: wire.Object) -> str:
    """The caller's key. Merges `metadata` into the session's on the way, as the gateway does."""
    if not reply.HasField("session"):
        return ""
    reply.session.metadata.update(reply.metadata)
    return reply.session.metadata.get("token", "")


def apply_return_overrides(reply: wire.Object, token: str, auth_failed: Callable[[str], None]) -> None:
    """Raises Failed or Answered where the hook ends the request; Dropped where the block is absent.

    `auth_failed` fires AuthFailure, which a code of 400 or more does from any type of hook
    (recording `override_in_post`).
    """
    if not reply.request.HasField("return_overrides"):
        raise Dropped(
            "the reply has no return_overrides: the gateway reads its code all the same, and panics"
        )
    overrides = reply.request.return_overrides
    text = overrides.response_error or overrides.response_body
    if overrides.response_code <= 0:
        return
    headers = GoHeader()
    for name, value in overrides.headers.items():
        headers.set(name, value)
    if overrides.response_code >= 400 and not overrides.override_error:
        auth_failed(token)
        raise Failed("override", overrides.response_code, text or "Key not authorised", headers)
    raise Answered(overrides.response_code, headers, text.encode())


def apply_response_edits(sent: wire.Object, reply: wire.Object, response: GatewayResponse) -> None:
    """Status, headers, body. Nothing else of the reply is read (recording `resp_request_edit_is_dropped`).

    `headers` unchanged: `multivalue_headers` is used as it is. Changed: the map wins
    (recording `resp_delete_multivalue_change_map`). Raises Failed where `response` is absent.
    """
    if not reply.HasField("response"):
        raise Failed("no-response", 500, _MIDDLEWARE_ERROR)
    edits = reply.response
    multivalue = [(header.key, list(header.values)) for header in edits.multivalue_headers]
    if dict(sent.response.headers) != dict(edits.headers):
        multivalue = synchronized(dict(edits.headers), multivalue)
    response.headers.clear()
    for name, values in multivalue:
        response.headers.set(name, *values)
    response.status = edits.status_code
    response.body = edits.raw_body
    response.streamed = False
    response.headers.set("Content-Length", str(len(response.body)))


def synchronized(
    headers: dict[str, str], multivalue: list[tuple[str, list[str]]]
) -> list[tuple[str, list[str]]]:
    """What the gateway makes of `multivalue` where the map was edited."""
    known = {name for name, _ in multivalue}
    kept = [(name, [headers[name], *values[1:]]) for name, values in multivalue if name in headers]
    return kept + [(name, [value]) for name, value in headers.items() if name not in known]
