"""The gateway's view of one request, which hooks change as it travels the chain."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from coprocess.desk.tyk.simulator.headers import GoHeader, from_wire, to_wire
from coprocess.desk.tyk.simulator.url import Url, parse_request_uri

#: Written by Go itself, from elsewhere than the header map.
GO_WRITES = ("Content-Length", "Host", "Trailer", "Transfer-Encoding", "User-Agent")
_BODY_METHODS = ("POST", "PUT", "PATCH")
_BODILESS_METHODS = ("GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND", "SEARCH")
_GO_USER_AGENT = "Go-http-client/1.1"


@dataclass(slots=True)
class GatewayRequest:
    """Go's `http.Request`, as far as hooks and events show it."""

    method: str
    url: Url
    #: As it arrived; no hook changes it.
    request_uri: str
    host: str
    headers: GoHeader
    body: bytes
    client_address: str
    #: Whether a hook's reply gave the body. Go then no longer knows that an empty one has no bytes.
    body_replaced: bool = False

    @classmethod
    def received(
        cls,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        host: str,
        client_address: str,
    ) -> GatewayRequest:
        """As Go's server reads it. A client that sends a body names its length."""
        header = GoHeader.received(headers)
        host = header.get("Host") or host
        header.remove("Host")
        if "Transfer-Encoding" in header:
            header.remove("Transfer-Encoding")
        elif body and "Content-Length" not in header:
            header.set("Content-Length", str(len(body)))
        url = parse_request_uri(from_wire(target))
        return cls(method, url, from_wire(target), host, header, body, client_address)

    def copy(self) -> GatewayRequest:
        """One that can be edited apart."""
        return replace(self, headers=self.headers.copy())

    def real_ip(self) -> str:
        """Whom the gateway takes for the client: `X-Real-Ip`, `X-Forwarded-For`, the peer."""
        for claimed in (self.headers.get("X-Real-Ip"), self.headers.get("X-Forwarded-For").partition(",")[0]):
            try:
                return str(ipaddress.ip_address(claimed.strip()))
            except ValueError:
                continue
        return self.client_address

    def raw(self) -> bytes:
        """As Go's `Request.Write` writes it: an event's OriginatingRequest.

        `User-Agent` is Go's own where the client sent none (recording `auth_rejected_401`).
        """
        agent = self.headers.get("User-Agent") if "User-Agent" in self.headers else _GO_USER_AGENT
        lines = [("Host", self.host)]
        if agent:
            lines.append(("User-Agent", to_wire(agent)))
        framing, body = self._framing()
        lines += framing + self.headers.written(without=GO_WRITES)
        head = f"{self.method or 'GET'} {to_wire(self.url.request_uri)} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines)
        return head.encode("latin-1", "replace") + b"\r\n" + body

    def _framing(self) -> tuple[list[tuple[str, str]], bytes]:
        if self.body:
            return [("Content-Length", str(len(self.body)))], self.body
        if self.body_replaced and self.method not in _BODILESS_METHODS:
            return [("Transfer-Encoding", "chunked")], b"0\r\n\r\n"
        return content_length(self.method, b""), b""


def content_length(method: str, body: bytes) -> list[tuple[str, str]]:
    """The header that Go's client writes; for an empty body only where servers expect one."""
    return [("Content-Length", str(len(body)))] if body or method in _BODY_METHODS else []
