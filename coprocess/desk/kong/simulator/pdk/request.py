"""`kong.request.*` and `kong.client.*`: what came, and from whom."""

from __future__ import annotations

import ipaddress
from typing import Any

from coprocess.desk.kong.simulator.entities import Consumer
from coprocess.desk.kong.simulator.exchange import Exchange
from coprocess.desk.kong.simulator.http import parse_args, parse_multipart
from coprocess.desk.kong.simulator.lua import Binary, LuaError, MultiMap, decode_json, table
from coprocess.desk.kong.simulator.paths import normalize
from coprocess.desk.kong.simulator.pdk.registry import (
    REQUEST,
    A,
    C,
    E,
    L,
    P,
    R,
    limit_argument,
    pdk,
    text_argument,
)

_SAVED = (R, A, E, L)


def host_of(x: Exchange) -> bytes:
    host = x.request.headers.get(b"host") or b""
    return host.rpartition(b":")[0] if b":" in host.rpartition(b"]")[2] else host


def port_of(x: Exchange) -> int:
    if x.subsystem == "stream":
        return x.kong.facts.stream_port
    return x.kong.facts.https_port if x.request.scheme == "https" else x.kong.facts.http_port


def is_trusted(x: Exchange, address: str) -> bool:
    try:
        wanted = ipaddress.ip_address(address)
        return any(wanted in ipaddress.ip_network(each, strict=False) for each in x.kong.facts.trusted_ips)
    except ValueError:
        return False


def _forwarded(x: Exchange, name: bytes) -> bytes | None:
    if not is_trusted(x, x.kong.facts.client_ip):
        return None
    value = x.request.headers.get(name)
    return value.split(b",")[0].strip() if value else None


@pdk("request.get_scheme", REQUEST)
def get_scheme(x: Exchange) -> Any:
    return x.request.scheme.encode()


@pdk("request.get_host", REQUEST)
def get_host(x: Exchange) -> Any:
    return host_of(x).lower()


@pdk("request.get_port", REQUEST)
def get_port(x: Exchange) -> Any:
    return port_of(x)


@pdk("request.get_forwarded_scheme", REQUEST)
def get_forwarded_scheme(x: Exchange) -> Any:
    return (_forwarded(x, b"x-forwarded-proto") or x.request.scheme.encode()).lower()


@pdk("request.get_forwarded_host", REQUEST)
def get_forwarded_host(x: Exchange) -> Any:
    return (_forwarded(x, b"x-forwarded-host") or host_of(x)).lower()


@pdk("request.get_forwarded_port", REQUEST)
def get_forwarded_port(x: Exchange) -> Any:
    told = _forwarded(x, b"x-forwarded-port")
    return int(told) if told and told.isdigit() else port_of(x)


@pdk("request.get_forwarded_path", REQUEST)
def get_forwarded_path(x: Exchange) -> Any:
    return _forwarded(x, b"x-forwarded-path") or x.request.path


@pdk("request.get_forwarded_prefix", REQUEST)
def get_forwarded_prefix(x: Exchange) -> Any:
    return _forwarded(x, b"x-forwarded-prefix") or forwarded_prefix(x)


def forwarded_prefix(x: Exchange) -> bytes:
    """What of the path is taken away on the way to the service."""
    if x.match is None or not x.match.route.strip_path:
        return b""
    return x.match.prefix.rstrip(b"/")


@pdk("request.get_http_version", REQUEST)
def get_http_version(x: Exchange) -> Any:
    return x.request.version


@pdk("request.get_method", REQUEST)
def get_method(x: Exchange) -> Any:
    return x.request.method.encode()


@pdk("request.get_path", REQUEST)
def get_path(x: Exchange) -> Any:
    return normalize(x.request.path)


@pdk("request.get_raw_path", REQUEST)
def get_raw_path(x: Exchange) -> Any:
    return x.request.path


@pdk("request.get_path_with_query", REQUEST)
def get_path_with_query(x: Exchange) -> Any:
    return x.request.target


@pdk("request.get_raw_query", REQUEST)
def get_raw_query(x: Exchange) -> Any:
    return x.request.query


@pdk("request.get_query_arg", REQUEST)
def get_query_arg(x: Exchange, name: Any = None) -> Any:
    values = parse_args(x.request.query, 100).get(text_argument(name, "query argument name"))
    return values[0] if values else None


@pdk("request.get_query", REQUEST, "MultiMap")
def get_query(x: Exchange, limit: Any = None) -> Any:
    args = parse_args(x.request.query, limit_argument(limit, "max_args"))
    return MultiMap({name: _arg_values(values) for name, values in args.items()})


def _arg_values(values: list[bytes | bool]) -> dict[int, Any]:
    return {} if values == [True] else dict(enumerate(values, 1))


@pdk("request.get_header", _SAVED)
def get_header(x: Exchange, name: Any = None) -> Any:
    return x.request.headers.get(text_argument(name, "header name"))


@pdk("request.get_headers", _SAVED, "MultiMap")
def get_headers(x: Exchange, limit: Any = None) -> Any:
    return multi(x.request.headers.multi(limit_argument(limit, "max_headers")))


def multi(headers: dict[bytes, list[bytes]]) -> MultiMap:
    return MultiMap({name: dict(enumerate(values, 1)) for name, values in headers.items()})


def _raw_body(x: Exchange, most: Any) -> bytes | None:
    """None where the body is too long for memory, and nobody said that the file may be read."""
    if most is not None and (isinstance(most, bool) or not isinstance(most, (int, float))):
        raise LuaError("max_allowed_file_size must be a number")
    body = x.request.body
    if len(body) <= x.kong.facts.body_buffer_bytes:
        return body
    if most is None or (0 < most < len(body)):
        return None
    return body


@pdk("request.get_raw_body", REQUEST)
def get_raw_body(x: Exchange, most: Any = None) -> Any:
    body = _raw_body(x, most)
    if body is None:
        # Kong packs this call's result as a string, whatever it is.
        raise LuaError("attempt to get length of local 'str' (a nil value): the body is in a file")
    return Binary(body)


@pdk("request.get_body", REQUEST)
def get_body(x: Exchange, media_type: Any = None, max_args: Any = None, most: Any = None) -> Any:
    header = x.request.headers.get(b"content-type") if media_type is None else media_type
    if header is None:
        return None
    return parsed_body(_raw_body(x, most), text_argument(header, "mimetype"), max_args)


def parsed_body(body: bytes | None, content_type: bytes, max_args: Any = None) -> Any:
    """A table by the type of the content; nil for what is none."""
    kind = content_type.lower()
    if body is None:
        return None
    if b"application/x-www-form-urlencoded" in kind:
        args = parse_args(body, limit_argument(max_args, "max_args"))
        return {
            name: values[0] if len(values) == 1 else dict(enumerate(values, 1))
            for name, values in args.items()
        }
    if b"application/json" in kind:
        try:
            value = decode_json(body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None
    if b"multipart/form-data" in kind:
        return parse_multipart(body, content_type)
    return None


@pdk("request.get_uri_captures", _SAVED)
def get_uri_captures(x: Exchange) -> Any:
    if x.match is None:
        return {b"named": {}, b"unnamed": {}}
    return {b"named": dict(x.match.named), b"unnamed": dict(enumerate(x.match.unnamed))}


@pdk("request.get_start_time", _SAVED)
def get_start_time(x: Exchange) -> Any:
    return int(x.started * 1000)


# The client


@pdk("client.get_ip", (*REQUEST, P))
def get_ip(x: Exchange) -> Any:
    return x.kong.facts.client_ip.encode()


@pdk("client.get_forwarded_ip", (*REQUEST, P))
def get_forwarded_ip(x: Exchange) -> Any:
    return x.kong.facts.client_ip.encode()


@pdk("client.get_port", (*REQUEST, P))
def get_client_port(x: Exchange) -> Any:
    return x.kong.facts.client_port


@pdk("client.get_forwarded_port", (*REQUEST, P))
def get_forwarded_client_port(x: Exchange) -> Any:
    return x.kong.facts.client_port


@pdk("client.get_protocol", (A, E, P))
def get_protocol(x: Exchange, allow_terminated: Any = None) -> Any:
    return b"tcp" if x.subsystem == "stream" else x.request.scheme.encode()


def consumer_table(x: Exchange, consumer: Consumer) -> Any:
    made = x.kong.facts.created_at
    values = {"id": consumer.id, "created_at": made, "updated_at": made, "username": consumer.username}
    values |= {"custom_id": consumer.custom_id, "tags": list(consumer.tags) if consumer.tags else None}
    return table({name: value for name, value in values.items() if value is not None})


@pdk("client.get_consumer", (A, E, L, P), "Consumer")
def get_consumer(x: Exchange) -> Any:
    if isinstance(x.consumer, Consumer):
        return consumer_table(x, x.consumer)
    return x.consumer


@pdk("client.get_credential", (A, E, L, P), "Credential")
def get_credential(x: Exchange) -> Any:
    return x.credential


@pdk("client.load_consumer", (A, E, L, P), "Consumer")
def load_consumer(x: Exchange, identifier: Any = None, by_username: Any = None) -> Any:
    wanted = text_argument(identifier, "consumer_id").decode("utf-8", "replace")
    for consumer in x.kong.entities.consumers:
        if wanted == consumer.id or (by_username is not False and wanted == consumer.username):
            return consumer_table(x, consumer)
    return None


@pdk("client.authenticate", (A, P), "Credential")
def authenticate(x: Exchange, consumer: Any = None, credential: Any = None) -> Any:
    for value, what in ((consumer, "consumer"), (credential, "credential")):
        if value is not None and not isinstance(value, dict):
            raise LuaError(f"{what} must be a table or nil")
    if consumer is None and credential is None:
        raise LuaError("either credential or consumer must be provided")
    x.consumer, x.credential = consumer, credential
    return None


@pdk("client.tls.request_client_certificate", (C,))
def request_client_certificate(x: Exchange, authorities: Any = None) -> Any:
    return True


@pdk("client.tls.disable_session_reuse", (C,))
def disable_session_reuse(x: Exchange) -> Any:
    return True


@pdk("client.tls.get_full_client_certificate_chain", REQUEST)
def get_full_client_certificate_chain(x: Exchange) -> Any:
    return None


@pdk("client.tls.set_client_verify", REQUEST)
def set_client_verify(x: Exchange, verdict: Any = None) -> Any:
    value = text_argument(verdict, "verify result")
    if value not in (b"SUCCESS", b"NONE") and not value.startswith(b"FAILED:"):
        raise LuaError(f"unknown client verify value: {value.decode('utf-8', 'replace')}")
    return None
