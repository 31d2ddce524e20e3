"""From the request at the end of the chain to the upstream and back: Go's reverse proxy and HTTP client."""

from __future__ import annotations

import gzip
import http.client
import zlib
from urllib.parse import urlsplit

from coprocess.desk.tyk.simulator.definition import ApiDefinition
from coprocess.desk.tyk.simulator.headers import GoHeader, to_wire
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.desk.tyk.simulator.outcome import Failed
from coprocess.desk.tyk.simulator.request import GO_WRITES, GatewayRequest, content_length
from coprocess.desk.tyk.simulator.url import Url, join_paths, strip_listen_path
from coprocess.desk.upstreams import Upstream, UpstreamReply, UpstreamRequest

_USER_AGENT = "Tyk/v5.5.0-dev"


def _upstream_url(definition: ApiDefinition, request: GatewayRequest) -> Url:
    target = urlsplit(definition.target_url)
    path = request.url.path
    if definition.strip_listen_path:
        path = strip_listen_path(path, definition.listen_path)
    query = request.url.query
    if target.query:
        query = f"{target.query}&{query}" if query else target.query
    return Url(join_paths(target.path, path), query, target.scheme, target.netloc)


def _upstream_headers(request: GatewayRequest) -> tuple[GoHeader, bool]:
    """Also whether Go's client asks for gzip of its own accord, and so unpacks it itself."""
    headers = request.headers.copy()
    headers.remove_hop_by_hop()
    forwarded = [*headers.getall("X-Forwarded-For"), request.client_address]
    headers.set("X-Forwarded-For", ", ".join(forwarded))
    if not headers.get("User-Agent"):
        headers.set("User-Agent", _USER_AGENT)
    unpacks = not (headers.get("Accept-Encoding") or headers.get("Range") or request.method == "HEAD")
    if unpacks:
        headers.set("Accept-Encoding", "gzip")
    return headers, unpacks


def send_upstream(
    definition: ApiDefinition, request: GatewayRequest, upstream: Upstream
) -> tuple[UpstreamRequest, UpstreamReply, GatewayResponse]:
    """Leaves in `request` the absolute URL that Response hooks see (recording `auth_ok`).

    Raises Failed where the upstream cannot be reached, or Go would not send the request.
    """
    headers, unpacks = _upstream_headers(request)
    if not headers.sendable():
        raise Failed("unsendable", 500, "There was a problem proxying the request")
    request.url = _upstream_url(definition, request)
    host = request.host if definition.preserve_host_header else request.url.host
    pairs = [("Host", host), ("User-Agent", to_wire(headers.get("User-Agent")))]
    pairs += content_length(request.method, request.body) + headers.written(without=GO_WRITES)
    pairs.sort(key=lambda pair: pair[0])
    sent = UpstreamRequest(request.method, to_wire(request.url.request_uri), tuple(pairs), request.body)
    try:
        reply = upstream(sent)
    except (OSError, http.client.HTTPException) as error:
        raise Failed("upstream", 500, "There was a problem proxying the request") from error
    return sent, reply, _read(reply, request.method, unpacks=unpacks)


def _read(reply: UpstreamReply, method: str, *, unpacks: bool) -> GatewayResponse:
    headers = GoHeader.received(reply.headers)
    streamed = "Transfer-Encoding" in headers
    headers.remove("Transfer-Encoding")
    if not streamed and "Content-Length" not in headers:
        headers.set("Content-Length", str(len(reply.body)))
    body = b"" if method == "HEAD" else reply.body
    if unpacks and body and headers.get("Content-Encoding").lower() == "gzip":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise Failed("upstream", 500, "There was a problem proxying the request") from error
        headers.remove("Content-Encoding")
        headers.remove("Content-Length")
        streamed = True
    return GatewayResponse(reply.status, headers, body, streamed)
