"""HTTP/1.1 as Envoy writes it, and as an upstream reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import formatdate

from coprocess.desk.envoy.simulator.exchange import HttpMessage, Pairs, UpstreamRequest
from coprocess.desk.envoy.simulator.headers import HeaderMap, is_valid_name, is_valid_value

#: Methods whose requests have no content-length where they have no body.
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "TRACE", "CONNECT"})
_TARGET = re.compile(r"[!-\xff]+\Z")
#: HTTP status to gRPC status, for what Envoy answers itself.
_GRPC_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_GRPC_UNKNOWN = 2


class Unreadable(Exception):
    """The upstream closes the connection: what came is no HTTP."""


def fault_of(headers: HeaderMap) -> str | None:
    """Why Envoy refuses to send this request; None where it does not."""
    for name, value in headers:
        if not is_valid_name(name):
            return f"invalid header name: {name}"
        if not is_valid_value(value):
            return f"invalid header value for: {name}"
    return None


def upstream_request(message: HttpMessage, *, is_http2: bool = False) -> UpstreamRequest:
    """As the upstream reads it. Raises Unreadable; `error` is set where it waits for the rest for ever."""
    headers, body = message.headers, message.body
    method, target = headers.get(":method") or "", headers.get(":path") or ""
    trailers = tuple(message.trailers or ())
    if is_http2:
        pairs = (("host", headers.get(":authority") or ""), *headers.regular())
        return UpstreamRequest(method, target, pairs, body, trailers)
    if not method or not _TARGET.match(target) or any(not name for name, _ in headers):
        raise Unreadable
    host = headers.get(":authority")
    pairs = tuple(([] if host is None else [("host", host)]) + headers.regular())
    length = headers.get("content-length")
    is_chunked = "chunked" in (headers.get("transfer-encoding") or "").lower()
    error: str | None = None
    if length is None and not message.is_tunnel:
        # Whatever transfer-encoding says.
        if not message.ends_with_headers:
            pairs += (("transfer-encoding", "chunked"),)
        elif method not in _BODILESS:
            pairs += (("content-length", "0"),)
    if is_chunked and message.ends_with_headers:
        error = "the request never ends: its body is said to come in chunks, and none come"
    elif length is not None and not is_chunked and not message.is_tunnel:
        if not length.isdecimal():
            raise Unreadable
        if int(length) > len(body):
            error = f"the request never ends: {int(length) - len(body)} bytes of its body do not come"
        body = body[: int(length)]
        trailers = ()  # They would follow chunks.
    return UpstreamRequest(method, target, pairs, body, trailers, error)


def response_headers(
    headers: HeaderMap, *, now: float, is_head: bool, ends_with_headers: bool, is_upgrade: bool, closes: bool
) -> Pairs:
    """As the client gets them over HTTP/1.1."""
    headers.remove("transfer-encoding")
    if not is_upgrade:
        headers.remove("connection")
        headers.remove("upgrade")
    headers.remove("keep-alive")
    headers.remove("proxy-connection")
    headers.set_in_place("date", formatdate(now, usegmt=True))
    headers.set_in_place("server", "envoy")
    pairs = [line for pair in headers.regular() for line in _lines(*pair)]
    if (authority := headers.get(":authority")) is not None:
        pairs.insert(0, ("host", authority))  # A server has set it.
    if closes:
        pairs.append(("connection", "close"))
    status = headers.get(":status") or ""
    code = int(status) if status.isdecimal() else 0
    has_none = code < 200 or code in (204, 304)
    if "content-length" not in headers and not has_none and not is_upgrade:
        if ends_with_headers and not is_head:
            pairs.append(("content-length", "0"))
        else:
            pairs.append(("transfer-encoding", "chunked"))
    return tuple(pairs)


def _lines(name: str, value: str) -> Iterator[tuple[str, str]]:
    """A value with line breaks in it is several headers to a client: response splitting."""
    first, *rest = value.split("\r\n")
    yield name, first
    for line in rest:
        split, _, text = line.partition(":")
        yield split.strip().lower(), text.strip()


def grpc_status_of(http_status: int) -> int:
    return _GRPC_STATUS.get(http_status, _GRPC_UNKNOWN)


def percent_encoded(message: bytes) -> str:
    """A `grpc-message`."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in message)
