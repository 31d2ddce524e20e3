"""`kong.service.*`: what goes to the service, and what came from it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_from_bytes

from coprocess.desk.kong.simulator.exchange import Exchange
from coprocess.desk.kong.simulator.lua import Binary, LuaError, MultiMap, encode_json, tostring, type_name
from coprocess.desk.kong.simulator.paths import escape
from coprocess.desk.kong.simulator.pdk.headers import header_name, header_table, header_values
from coprocess.desk.kong.simulator.pdk.registry import (
    AFTER_UPSTREAM,
    BEFORE_UPSTREAM,
    A,
    P,
    R,
    pdk,
    text_argument,
)
from coprocess.desk.kong.simulator.pdk.request import parsed_body

_METHODS = frozenset(
    (
        *("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND"),
        *("PROPPATCH", "LOCK", "UNLOCK", "PATCH", "TRACE"),
    )
)


@pdk("service.request.set_scheme", BEFORE_UPSTREAM)
def set_scheme(x: Exchange, scheme: Any = None) -> Any:
    value = text_argument(scheme, "scheme")
    if value not in (b"http", b"https", b"grpc", b"grpcs", b"ws", b"wss"):
        raise LuaError(f"invalid scheme: {value.decode('utf-8', 'replace')}")
    x.upstream_scheme = value.decode()


@pdk("service.request.set_path", BEFORE_UPSTREAM)
def set_path(x: Exchange, path: Any = None) -> Any:
    value = text_argument(path, "path")
    if not value.startswith(b"/"):
        raise LuaError("path must start with /")
    x.upstream_uri = escape(value)


@pdk("service.request.set_raw_query", BEFORE_UPSTREAM)
def set_raw_query(x: Exchange, query: Any = None) -> Any:
    x.request.query = text_argument(query, "query")


@pdk("service.request.set_query", BEFORE_UPSTREAM)
def set_query(x: Exchange, args: Any = None) -> Any:
    if not isinstance(args, dict):
        raise LuaError("args must be a table")
    x.request.query = encoded_args(args)


def encoded_args(args: dict[Any, Any]) -> bytes:
    """By name, as Kong sorts them."""
    pairs: list[bytes] = []
    for name in sorted(args, key=tostring):
        if not isinstance(name, bytes):
            raise LuaError("arguments keys must be strings")
        values = args[name].values() if isinstance(args[name], dict) else [args[name]]
        for value in values:
            if value is False:
                continue
            quoted = quote_from_bytes(name, safe="-._~").encode()
            if value is not True:
                quoted += b"=" + quote_from_bytes(tostring(value), safe="-._~").encode()
            pairs.append(quoted)
    return b"&".join(pairs)


@pdk("service.request.set_method", BEFORE_UPSTREAM)
def set_method(x: Exchange, method: Any = None) -> Any:
    value = text_argument(method, "method").decode("utf-8", "replace")
    if value not in _METHODS:
        raise LuaError(f"invalid method: {value}")
    x.request.method = value


@pdk("service.request.set_header", BEFORE_UPSTREAM)
def set_header(x: Exchange, name: Any = None, value: Any = None) -> Any:
    key = header_name(name)
    _set(x, key, header_values(key, value))


def _set(x: Exchange, name: bytes, values: list[bytes]) -> None:
    if name.lower() == b"host":
        x.upstream_host = values[0] if values else None
    x.request.headers.set(name, values)


@pdk("service.request.add_header", BEFORE_UPSTREAM)
def add_header(x: Exchange, name: Any = None, value: Any = None) -> Any:
    key = header_name(name)
    values = header_values(key, value)
    if key.lower() == b"host":
        _set(x, key, values)
    else:
        x.request.headers.add(key, values)


@pdk("service.request.clear_header", BEFORE_UPSTREAM)
def clear_header(x: Exchange, name: Any = None) -> Any:
    x.request.headers.remove(text_argument(name, "header"))


@pdk("service.request.set_headers", BEFORE_UPSTREAM)
def set_headers(x: Exchange, headers: Any = None) -> Any:
    for name, values in header_table(headers):
        if values:
            _set(x, name, values)


@pdk("service.request.set_raw_body", BEFORE_UPSTREAM)
def set_raw_body(x: Exchange, body: Any = None) -> Any:
    x.request.body = text_argument(body, "body")


@pdk("service.request.set_body", BEFORE_UPSTREAM)
def set_body(x: Exchange, args: Any = None, media_type: Any = None) -> Any:
    if not isinstance(args, dict):
        raise LuaError("args must be a table")
    kind = x.request.headers.get(b"content-type") if media_type is None else media_type
    if kind is None:
        # Kong then takes the body for a form.
        kind = b"application/x-www-form-urlencoded"
    lower = text_argument(kind, "mimetype").lower()
    if b"application/json" in lower:
        x.request.body = encode_json(args)
    elif b"application/x-www-form-urlencoded" in lower:
        x.request.body = encoded_args(args)
    elif b"multipart/form-data" in lower:
        x.request.body, kind = _multipart(args, kind)
    else:
        return None
    x.request.headers.set(b"Content-Type", [kind])
    return True


def _multipart(args: dict[Any, Any], kind: bytes) -> tuple[bytes, bytes]:
    boundary = b"8fd84e9444e3946c"
    _, equals, given = kind.partition(b"boundary=")
    if equals:
        boundary = given.strip(b'"')
    body = b""
    for name, value in args.items():
        body += b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n' % (boundary, tostring(name))
        body += tostring(value) + b"\r\n"
    body += b"--%s--\r\n" % boundary
    return body, kind if equals else b"multipart/form-data; boundary=" + boundary


@pdk("service.request.enable_buffering", BEFORE_UPSTREAM)
def enable_buffering(x: Exchange) -> Any:
    x.buffered = True


# The service


@pdk("service.set_upstream", (A, P))
def set_upstream(x: Exchange, host: Any = None) -> Any:
    name = text_argument(host, "host").decode("utf-8", "replace")
    if name not in x.kong.entities.upstreams:
        return None
    x.upstream_name = name
    return True


@pdk("service.set_target", (A, P))
def set_target(x: Exchange, host: Any = None, port: Any = None) -> Any:
    name = text_argument(host, "host").decode("utf-8", "replace")
    if isinstance(port, bool) or not isinstance(port, int):
        raise LuaError("port must be an integer")
    if not 0 <= port <= 65535:
        raise LuaError(f"port must be an integer between 0 and 65535: given {port}")
    x.target, x.upstream_name = (name, port), None


@pdk("service.set_retries", (A, P))
def set_retries(x: Exchange, retries: Any = None) -> Any:
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise LuaError("retries must be an integer")
    if not 0 <= retries <= 32767:
        raise LuaError(f"retries must be an integer between 0 and 32767: given {retries}")


@pdk("service.set_timeouts", (A, P))
def set_timeouts(x: Exchange, connect: Any = None, write: Any = None, read: Any = None) -> Any:
    for value, what in ((connect, "connect_timeout"), (write, "write_timeout"), (read, "read_timeout")):
        if isinstance(value, bool) or not isinstance(value, int):
            raise LuaError(f"{what} must be an integer")
        if not 1 <= value <= 2147483646:
            raise LuaError(f"{what} must be an integer between 1 and 2147483646: given {value}")


@pdk("service.set_tls_verify", (R, A, P))
def set_tls_verify(x: Exchange, on: Any = None) -> Any:
    if not isinstance(on, bool):
        raise LuaError("argument must be a boolean")
    return True


@pdk("service.set_tls_verify_depth", (R, A, P))
def set_tls_verify_depth(x: Exchange, depth: Any = None) -> Any:
    if isinstance(depth, bool) or not isinstance(depth, (int, float)):
        raise LuaError("argument must be a number")
    return True


@pdk("service.set_tls_cert_key", (R, A, P))
def set_tls_cert_key(x: Exchange, chain: Any = None, key: Any = None) -> Any:
    # What Lua code has parsed, which no plugin server can pass.
    raise LuaError("chain must be a parsed cdata object")


@pdk("service.set_tls_verify_store", (R, A, P))
def set_tls_verify_store(x: Exchange, store: Any = None) -> Any:
    raise LuaError("argument must be a resty.openssl.x509.store object")


@pdk("service.set_target_retry_callback", ())
def set_target_retry_callback(x: Exchange, callback: Any = None) -> Any:
    raise LuaError(f"bad argument: expected a function, got {type_name(callback)}")


# What the service answered


@pdk("service.response.get_status", AFTER_UPSTREAM)
def get_status(x: Exchange) -> Any:
    return x.reply.status if x.reply else None


@pdk("service.response.get_headers", AFTER_UPSTREAM, "MultiMap")
def get_headers(x: Exchange, limit: Any = None) -> Any:
    # Seen: nothing in it, although `get_header` has them.
    return MultiMap()


@pdk("service.response.get_header", AFTER_UPSTREAM)
def get_header(x: Exchange, name: Any = None) -> Any:
    key = text_argument(name, "name")
    return x.reply.headers.get(key) if x.reply else None


@pdk("service.response.get_raw_body", AFTER_UPSTREAM)
def get_raw_body(x: Exchange) -> Any:
    if x.reply is None or not x.buffered:
        raise LuaError("service body is only available with buffered proxying")
    return Binary(x.reply.body)


@pdk("service.response.get_body", AFTER_UPSTREAM)
def get_body(x: Exchange, media_type: Any = None, max_args: Any = None) -> Any:
    if x.reply is None or not x.buffered:
        raise LuaError("service body is only available with buffered proxying")
    kind = x.reply.headers.get(b"content-type") if media_type is None else media_type
    return None if kind is None else parsed_body(x.reply.body, text_argument(kind, "mimetype"), max_args)
