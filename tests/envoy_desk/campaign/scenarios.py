"""Exchanges by chance: a configuration, a request, an upstream's reply, and what the servers say.

Each follows from its seed alone, so that the real Envoy and the simulated one are given the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from coprocess.desk.envoy.simulator.exchange import HttpRequest, Pairs, UpstreamReply
from coprocess.desk.envoy.simulator.filter_config import BODY_MODES, HEADER_MODES
from coprocess.gateways.envoy import wire

Json = dict[str, Any]
Chance = random.Random

_TYPES = "type.googleapis.com/envoy.extensions.filters.http"
#: Short, as most scenarios have an end that comes of it.
MESSAGE_TIMEOUT_S = 0.4
#: How many of the servers' replies are not what they should be.
WILD = 0.25

#: FULL_DUPLEX_STREAMED is left out: what is seen of it is often chance.
_BODIES = ["NONE"] * 5 + ["BUFFERED"] * 5 + ["STREAMED"] * 2 + ["BUFFERED_PARTIAL"]
_SANE_NAMES = ["x-a", "x-b", "x-new", "content-type", "set-cookie", "cookie"]
_NAMES = [
    *(*_SANE_NAMES, ":path", ":status", ":method", ":authority", ":scheme", "host", "content-length"),
    *("transfer-encoding", "connection", "x-envoy-foo", "", "bad name", "via", "server", "te", "upgrade"),
]
_VALUES = {
    ":path": ["/r", "/x?y=1", "/direct", "/nowhere"],
    ":status": ["200", "404", "42", "abc", "204"],
    ":method": ["GET", "POST"],
    "content-length": ["3", "0", "13"],
    "transfer-encoding": ["chunked"],
}
_BODIES_OF_REQUESTS = [b"", b"original body", b"x" * 30, b"\xff\x00\xe9", b"y" * 100]
_BODIES_OF_REPLIES = [b"", b"hello from upstream", b"z" * 30, b"\xff\x00", b"w" * 100]
_ATTRIBUTES = [f"request.{name}" for name in ("path", "method", "host", "query", "size")]
_RESPONSE_ATTRIBUTES = [f"response.{name}" for name in ("code", "size", "flags", "grpc_status")]


@dataclass(frozen=True, slots=True)
class End:
    """The server ends the call. `code` is gRPC's."""

    code: int


#: A message, serialized; None: it says nothing.
Said = bytes | End | None


def configuration(seed: int) -> Json:
    """As recordings have it: `http_filters` and `routes`."""
    chance = random.Random(f"configuration {seed}")  # noqa: S311 - no secret
    filters = [_processor(chance) if chance.random() < 0.7 else _authorizer(chance)]
    routes: list[Json] = [
        {"name": "r", "match": {"prefix": "/r"}, "route": {"cluster": "up", "timeout": "3s"}},
        {
            "name": "direct",
            "match": {"path": "/direct"},
            "direct_response": {"status": 403, "body": {"inline_string": "direct"}},
        },
    ]
    if chance.random() < 0.85:
        routes.append({"name": "rest", "match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "3s"}})
    return {"http_filters": filters, "routes": routes}


def _mode(chance: Chance) -> Json:
    mode = {}
    for direction in ("request", "response"):
        mode[f"{direction}_header_mode"] = chance.choice(["SEND"] * 6 + ["DEFAULT", "SKIP"])
        mode[f"{direction}_body_mode"] = chance.choice(_BODIES)
        mode[f"{direction}_trailer_mode"] = chance.choice(["SKIP", "SKIP", "SEND"])
    return mode


def _rules(chance: Chance) -> Json:
    names = ("allow_all_routing", "allow_envoy", "disallow_system", "disallow_all", "disallow_is_error")
    rules: Json = {name: True for name in names if chance.random() < 0.25}
    for name in ("allow_expression", "disallow_expression"):
        if chance.random() < 0.2:
            rules[name] = {"regex": chance.choice(["x-.*", "x-a", "cookie", ":path", "content-.*"])}
    return rules


def _matchers(chance: Chance) -> Json:
    patterns = [
        {"exact": "x-a"},
        {"prefix": "X-", "ignore_case": True},
        {"contains": "-a"},
        {"exact": ":path"},
    ]
    return {"patterns": [chance.choice(patterns)]}


def _service(timeout: str) -> Json:
    return {"envoy_grpc": {"cluster_name": "extproc"}, "timeout": timeout}


def _some(chance: Chance, offers: Json) -> Json:
    """Each with the chance that it has."""
    return {name: make() for name, (share, make) in offers.items() if chance.random() < share}


def _processor(chance: Chance) -> Json:
    offers = {
        "processing_mode": (0.75, lambda: _mode(chance)),
        "allow_mode_override": (0.5, lambda: True),
        "allowed_override_modes": (0.15, lambda: [_mode(chance)]),
        "failure_mode_allow": (0.25, lambda: True),
        "mutation_rules": (0.4, lambda: _rules(chance)),
        "forward_rules": (0.2, lambda: {"disallowed_headers": _matchers(chance)}),
        "disable_immediate_response": (0.1, lambda: True),
        "route_cache_action": (0.2, lambda: chance.choice(["CLEAR", "RETAIN"])),
        "status_on_error": (0.2, lambda: {"code": chance.choice([502, 503, 429])}),
        "request_attributes": (0.2, lambda: chance.sample(_ATTRIBUTES, 2)),
        "response_attributes": (0.2, lambda: chance.sample(_RESPONSE_ATTRIBUTES, 2)),
        "max_message_timeout": (0.1, lambda: "1s"),
    }
    typed = {
        "@type": f"{_TYPES}.ext_proc.v3.ExternalProcessor",
        "grpc_service": _service("3s"),
        "message_timeout": f"{MESSAGE_TIMEOUT_S}s",
        **_some(chance, offers),
    }
    return {"name": "envoy.filters.http.ext_proc", "typed_config": typed}


def _authorizer(chance: Chance) -> Json:
    def body() -> Json:
        return {
            "max_request_bytes": chance.choice([5, 64, 1024]),
            "allow_partial_message": chance.random() < 0.5,
            "pack_as_bytes": chance.random() < 0.5,
        }

    offers = {
        "encode_raw_headers": (0.5, lambda: True),
        "with_request_body": (0.4, body),
        "validate_mutations": (0.3, lambda: True),
        "failure_mode_allow": (0.25, lambda: True),
        "failure_mode_allow_header_add": (0.1, lambda: True),
        "status_on_error": (0.2, lambda: {"code": chance.choice([500, 503, 429])}),
        "clear_route_cache": (0.2, lambda: True),
        "allowed_headers": (0.2, lambda: _matchers(chance)),
        "disallowed_headers": (0.2, lambda: _matchers(chance)),
        "decoder_header_mutation_rules": (0.2, lambda: _rules(chance)),
    }
    typed = {
        "@type": f"{_TYPES}.ext_authz.v3.ExtAuthz",
        "grpc_service": _service(f"{MESSAGE_TIMEOUT_S}s"),
        "transport_api_version": "V3",
        **_some(chance, offers),
    }
    return {"name": "envoy.filters.http.ext_authz", "typed_config": typed}


def _headers(chance: Chance, names: Sequence[str]) -> list[tuple[str, str]]:
    values = ["1", "a b", "a,b", "\xe9", "", "x" * 20]
    return [(chance.choice(names), chance.choice(values)) for _ in range(chance.randrange(4))]


def _chunks(chance: Chance, body: bytes) -> tuple[bytes, ...]:
    size = -(-len(body) // chance.randrange(1, 4))
    return tuple(body[start : start + size] for start in range(0, len(body), size))


def _content(
    chance: Chance, bodies: Sequence[bytes], headers: list[tuple[str, str]], trailer: str
) -> tuple[bytes, tuple[bytes, ...], Pairs]:
    """Body, chunks and trailers; `headers` says how it is framed."""
    body = chance.choice(bodies)
    if not body or chance.random() < 0.6:
        headers.append(("content-length", str(len(body))))
        return body, (), ()
    headers.append(("transfer-encoding", "chunked"))
    chunks = _chunks(chance, body)
    return body, chunks, ((trailer, "1"),) if chance.random() < 0.4 else ()


def request(seed: int) -> HttpRequest:
    chance = random.Random(f"request {seed}")  # noqa: S311 - no secret
    method = chance.choice(["GET"] * 4 + ["POST"] * 5 + ["PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"])
    target = chance.choice(["/a?b=1", "/r", "/r?x=%20y&x=2", "/x", "/direct", "/a/../b", "/?q", "/r/%E9"])
    names = ["x-a", "x-b", "x-c-b", "cookie", "content-type", "accept", "user-agent", "cache-control"]
    headers = [("host", chance.choice(["example.test", "example.test:80"])), *_headers(chance, names)]
    body = b""
    chunks: tuple[bytes, ...] = ()
    trailers: Pairs = ()
    if method in ("POST", "PUT", "PATCH"):
        body, chunks, trailers = _content(chance, _BODIES_OF_REQUESTS, headers, "x-t")
    return HttpRequest(method, target, tuple(headers), body, chunks, trailers)


def upstream_reply(seed: int) -> UpstreamReply:
    chance = random.Random(f"upstream {seed}")  # noqa: S311 - no secret
    status = chance.choice([200] * 6 + [201, 204, 301, 304, 404, 500, 503])
    headers = _headers(chance, ["x-up", "x-a", "x-b", "set-cookie", "cache-control", "server", "via"])
    body = b""
    chunks: tuple[bytes, ...] = ()
    trailers: Pairs = ()
    if status not in (204, 304):
        body, chunks, trailers = _content(chance, _BODIES_OF_REPLIES, headers, "x-ut")
    return UpstreamReply(status, tuple(headers), body, chunks, trailers)


def said(seed: int, number: int, message: Message) -> Said:
    """What the server says to the message of that number."""
    if isinstance(message, wire.ProcessingRequest):
        kind = message.WhichOneof("request") or ""
        return _processed(random.Random(f"{kind} {number} {seed}"), kind)  # noqa: S311 - no secret
    return _checked(random.Random(f"check {seed}"))  # noqa: S311 - no secret


def _edit(chance: Chance, mutation: wire.HeaderMutation, *, is_sane: bool) -> None:
    names = _SANE_NAMES if is_sane else _NAMES
    for _ in range(chance.randrange(4)):
        option = mutation.set_headers.add()
        name = option.header.key = chance.choice(names)
        value = chance.choice(
            _VALUES.get(name) or ["1", "two", "a b", "\xe9", *([] if is_sane else ["a\r\nb"])]
        )
        option.header.raw_value = value.encode("latin-1")
        how = chance.random()
        if how < 0.3:
            option.append.value = chance.random() < 0.7
        elif how < 0.6:
            option.append_action = chance.randrange(4)  # type: ignore[assignment]  # any number fits
    for _ in range(chance.choice([0, 0, 1, 2])):
        mutation.remove_headers.append(chance.choice([*names, "x-up", "accept"]))


def _without_reply(chance: Chance) -> Said:
    said: list[Said] = [b"", b"\xff\xff\xff", End(0), End(2), End(14)]
    return chance.choice(said)


def _processed(chance: Chance, kind: str) -> Said:
    reply = wire.ProcessingResponse()
    if chance.random() < WILD / 3:
        choice = chance.random()
        if choice < 0.5:
            return _without_reply(chance)
        immediate = reply.immediate_response
        codes = [200, 204, 302, 400, 401, 403, 500, 503, 42, 0]
        immediate.status.code = chance.choice(codes)  # type: ignore[assignment]  # any number fits
        immediate.body = chance.choice([b"denied", b"\xff\xfe", b""])
        _edit(chance, immediate.headers, is_sane=chance.random() < 0.5)
        return reply.SerializeToString()
    is_sane = chance.random() >= WILD
    if kind.endswith("trailers"):
        _edit(chance, getattr(reply, kind).header_mutation, is_sane=is_sane)
        return reply.SerializeToString()
    common: wire.CommonResponse = getattr(reply, kind).response
    common.SetInParent()
    if chance.random() < 0.6:
        _edit(chance, common.header_mutation, is_sane=is_sane)
    if chance.random() < (0.5 if kind.endswith("body") else 0.08):
        common.body_mutation.body = chance.choice([b"new", b"", b"N" * 50])
        if chance.random() < 0.7:
            option = common.header_mutation.set_headers.add()
            option.header.key = "content-length"
            option.header.raw_value = str(len(common.body_mutation.body)).encode()
    if chance.random() < 0.08:
        common.status = wire.CommonResponse.CONTINUE_AND_REPLACE
    common.clear_route_cache = chance.random() < 0.3
    if chance.random() < 0.2:
        for name, mode in _mode(chance).items():
            if chance.random() < 0.6:
                modes = BODY_MODES if "_body_" in name else HEADER_MODES
                setattr(reply.mode_override, name, modes.index(mode))
    return reply.SerializeToString()


def _checked(chance: Chance) -> Said:
    reply = wire.CheckResponse()
    if chance.random() < 0.1:
        return None if chance.random() < 0.2 else chance.choice([End(2), End(14)])
    reply.status.code = chance.choice([0] * 6 + [7, 16, 13])
    is_sane = chance.random() >= WILD
    kind = chance.choice(["ok_response"] * 3 + ["denied_response", "denied_response", "error_response", ""])
    if kind == "ok_response":
        allowed = reply.ok_response
        _options(chance, allowed.headers, _SANE_NAMES if is_sane else _NAMES, is_sane=is_sane)
        _options(chance, allowed.response_headers_to_add, ["x-r", "set-cookie", "x-up"], is_sane=True)
        allowed.headers_to_remove.extend(
            chance.sample(["x-a", "accept", "cookie", ":path"], chance.randrange(3))
        )
        if chance.random() < 0.3:
            parameter = allowed.query_parameters_to_set.add()
            parameter.key, parameter.value = chance.choice("bxn"), chance.choice(["1", "a%20b", ""])
        allowed.SetInParent()
    elif kind:
        denied: wire.DeniedHttpResponse = getattr(reply, kind)
        codes = [401, 403, 302, 200, 503, 204]
        denied.status.code = chance.choice(codes)  # type: ignore[assignment]  # any number fits
        _options(chance, denied.headers, ["x-d", "content-type", "set-cookie", "location"], is_sane=True)
        denied.body = chance.choice(["no entry", "", "\xe9"])
    return reply.SerializeToString()


def _options(chance: Chance, into: Any, names: Sequence[str], *, is_sane: bool) -> None:
    for _ in range(chance.randrange(3)):
        option = into.add()
        name = option.header.key = chance.choice(names)
        values = ["1", "two", "a b", *([] if is_sane else ["a\r\nb"])]
        option.header.value = chance.choice(_VALUES.get(name) or values)
        if chance.random() < 0.3:
            option.append.value = chance.random() < 0.7
