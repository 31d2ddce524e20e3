"""`kong.response.*`: what the client gets."""

from __future__ import annotations

from typing import Any

from coprocess.desk.kong.simulator.exchange import Exchange, Exit
from coprocess.desk.kong.simulator.http import REASONS, Headers
from coprocess.desk.kong.simulator.lua import LuaError, encode_json
from coprocess.desk.kong.simulator.pages import (
    KONG_PAGES,
    error_page,
    media_type,
    message_of,
    nginx_page,
)
from coprocess.desk.kong.simulator.pdk.headers import header_name, header_table, header_values
from coprocess.desk.kong.simulator.pdk.registry import (
    AFTER_UPSTREAM,
    REQUEST,
    P,
    limit_argument,
    pdk,
    text_argument,
)
from coprocess.desk.kong.simulator.pdk.request import multi


def visible_headers(x: Exchange) -> Headers:
    """The response's headers as Lua sees them: nginx adds the connection's fate, and not yet the date."""
    if x.response is not None:
        return Headers(line for line in x.response.headers.lines if line[0].lower() != b"date")
    headers = x.headers.copy()
    headers.set(b"Connection", [b"close" if x.is_closing else b"keep-alive"])
    return headers


@pdk("response.get_status", AFTER_UPSTREAM)
def get_status(x: Exchange) -> Any:
    return x.response.status if x.response is not None else x.status


@pdk("response.get_header", AFTER_UPSTREAM)
def get_header(x: Exchange, name: Any = None) -> Any:
    return visible_headers(x).get(text_argument(name, "header name"))


@pdk("response.get_headers", AFTER_UPSTREAM, "MultiMap")
def get_headers(x: Exchange, limit: Any = None) -> Any:
    return multi(visible_headers(x).multi(limit_argument(limit, "max_headers")))


@pdk("response.get_source", AFTER_UPSTREAM)
def get_source(x: Exchange) -> Any:
    if x.failed:
        return b"error"
    if x.exited:
        return b"exit"
    return b"service" if x.reply is not None else b"error"


@pdk("response.set_status", REQUEST)
def set_status(x: Exchange, status: Any = None) -> Any:
    x.status = checked_status(status, "code")


@pdk("response.set_header", REQUEST)
def set_header(x: Exchange, name: Any = None, value: Any = None) -> Any:
    key = header_name(name)
    x.headers.set(key, header_values(key, value))


@pdk("response.add_header", REQUEST)
def add_header(x: Exchange, name: Any = None, value: Any = None) -> Any:
    key = header_name(name)
    x.headers.add(key, header_values(key, value))


@pdk("response.clear_header", REQUEST)
def clear_header(x: Exchange, name: Any = None) -> Any:
    x.headers.remove(text_argument(name, "header"))


@pdk("response.set_headers", REQUEST)
def set_headers(x: Exchange, headers: Any = None) -> Any:
    for name, values in header_table(headers):
        if values:
            x.headers.set(name, values)


@pdk("response.get_raw_body", ())
def get_raw_body(x: Exchange) -> Any:
    raise LuaError(f"function cannot be called in {x.phase} phase (only in: body_filter)")


@pdk("response.set_raw_body", ())
def set_raw_body(x: Exchange, body: Any = None) -> Any:
    raise LuaError(f"function cannot be called in {x.phase} phase (only in: body_filter)")


def checked_status(status: Any, what: str) -> int:
    if isinstance(status, bool) or not isinstance(status, (int, float)):
        raise LuaError(f"{what} must be a number")
    if not 100 <= status <= 599:
        raise LuaError(f"{what} must be a number between 100 and 599")
    return int(status)


@pdk("response.exit", (*REQUEST, P))
def exit_(x: Exchange, status: Any = None, body: Any = None, headers: Any = None) -> Any:
    code = checked_status(status, "code")
    if body is not None and not isinstance(body, (bytes, dict)):
        raise LuaError("body must be a nil, string or table")
    if headers is not None and not isinstance(headers, dict):
        raise LuaError("headers must be a nil or table")
    given = header_table(headers) if headers else []
    _send(x, code, body, given)
    raise Exit


def _send(x: Exchange, code: int, body: Any, given: list[tuple[bytes, list[bytes]]]) -> None:
    x.exited = True
    x.status = code
    names = set()
    for name, values in given:
        if name.lower() in (b"transfer-encoding", b"transfer_encoding"):
            x.write_log("warn", b"manually setting Transfer-Encoding. Ignored.")
            continue
        names.add(name.lower())
        if values:
            x.headers.set(name, values)
    if body is None:
        _empty(x, code, names)
        return
    content = body
    if isinstance(body, dict):
        content = encode_json(body)
        if b"content-type" not in names:
            x.headers.set(b"Content-Type", [b"application/json; charset=utf-8"])
    if b"content-length" not in names:
        x.headers.set(b"Content-Length", [b"%d" % len(content)])
    x.body = content


def _empty(x: Exchange, code: int, names: set[bytes]) -> None:
    """Without a body, an error's page is Kong's or nginx's own."""
    if code in KONG_PAGES:
        accept = x.accept or x.request.headers.get(b"content-type") or b"text/plain"
        kind, page = error_page(message_of(code), x.request_id, media_type(accept))
        x.put(code, kind, page)
    elif code >= 300 and code != 304 and code in REASONS:
        x.put(code, b"text/html", nginx_page(code))
    elif code in (204, 304):
        x.headers.remove(b"Content-Length")
        x.body = b""
    else:
        if b"content-length" not in names:
            x.headers.set(b"Content-Length", [b"0"])
        x.body = b""


@pdk("response.error", (*REQUEST, P))
def error(x: Exchange, status: Any = None, message: Any = None, headers: Any = None) -> Any:
    code = checked_status(status, "code")
    if message is not None and not isinstance(message, (bytes, dict)):
        raise LuaError("message must be a nil, string or table")
    if headers is not None and not isinstance(headers, dict):
        raise LuaError("headers must be a nil or table")
    given = header_table(headers) if headers else []
    told = next((values[0] for name, values in given if name.lower() == b"content-type" and values), None)
    kind, body = error_page(b"", x.request_id, told or x.accept)
    if isinstance(message, dict):
        body = encode_json(message)
    else:
        text = message_of(code) if message is None else message
        kind, body = error_page(text, x.request_id, told or x.accept)
    names = {name.lower() for name, _ in given}
    if b"content-type" not in names:
        given.append((b"Content-Type", [kind]))
    _send(x, code, body, given)
    raise Exit
