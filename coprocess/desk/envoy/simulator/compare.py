"""Differences between what a recording holds and what the simulated Envoy made of it, in words."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from coprocess.desk import trees
from coprocess.desk.envoy.simulator.bodies import is_body, is_digest, is_text
from coprocess.desk.envoy.simulator.exchange import Exchange, HttpResponse, UpstreamRequest
from coprocess.desk.envoy.simulator.ext_authz import NAMESPACE as AUTHZ_NAMESPACE
from coprocess.desk.envoy.simulator.recording import Recording, as_json
from coprocess.desk.trees import ABSENT, Difference, TreePath, dotted, leaf

#: What depends on the machine and the moment, by its path.
_CHANCE = frozenset(
    {
        "attributes.source",
        "attributes.destination",
        "attributes.request.time",
        "attributes.request.http.id",
        "metadata_context.filter_metadata.envoy.filters.http.ext_authz.ext_authz_duration",
        "attributes.metadata_context.filter_metadata.envoy.filters.http.ext_authz.ext_authz_duration",
        *(
            f"attributes.envoy.filters.http.ext_proc.{name}"
            for name in (
                *("request.time", "source.address", "source.port", "destination.address", "connection.id"),
                *("destination.port", "upstream.address", "upstream.port", "xds.node", "request.duration"),
                *("response.backend_latency", "request.total_size", "response.total_size"),
            )
        ),
    }
)
_GRPC_OWN = (
    "content-type",
    "te",
    "grpc-accept-encoding",
    "grpc-timeout",
    "grpc-status",
    "grpc-message",
    "host",
)
#: gRPC's codes, by number.
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def differences(recording: Recording, exchange: Exchange) -> Iterator[str]:
    yield from differences_outside(recording, exchange)
    yield from _log_differences(recording, exchange)


def differences_outside(recording: Recording, exchange: Exchange) -> Iterator[str]:
    """Of what server, upstream and client see."""
    yield from _stream_differences(recording, exchange)
    yield from _upstream_differences(recording, exchange.upstream_request)
    yield from _response_differences(recording, exchange.http_response)


def _stream_differences(recording: Recording, exchange: Exchange) -> Iterator[str]:
    services = [stream.service for stream in recording.streams]
    made = [call.service for call in exchange.calls]
    if services != made:
        yield f"streams: expected {services}, got {made}"
    for index, (stream, call) in enumerate(zip(recording.streams, exchange.calls, strict=False)):
        part = f"stream {index} ({stream.service})"
        told = sorted(pair for pair in stream.initial_metadata if pair[0] != "x-forwarded-for")
        sent = sorted(pair for pair in call.initial_metadata if pair[0] != "x-forwarded-for")
        if told != sent:
            yield f"{part}: initial_metadata: expected {told}, got {sent}"
        messages = [as_json(message) for message in call.sent]
        if len(stream.sent) != len(messages):
            kinds = [kind_of(entry.json or {}) for entry in stream.sent], [kind_of(each) for each in messages]
            yield f"{part}: messages: expected {kinds[0]}, got {kinds[1]}"
        for number, (entry, message) in enumerate(zip(stream.sent, messages, strict=False)):
            for difference in trees.differences(entry.json or {}, message, judge):
                yield f"{part}: message {number} ({kind_of(entry.json or {})}): {difference}"


def kind_of(message: dict[str, Any]) -> str:
    """Of one of Envoy's messages, as JSON."""
    kinds = (name for name in message if name.startswith(("request_", "response_")))
    return next(kinds, "check" if message else "empty")


def judge(path: TreePath, expected: Any, got: Any) -> Iterable[Difference] | None:
    """Whether two messages differ there, where that is not plain: for `trees.differences`."""
    if dotted(path) in _CHANCE:
        return ()
    if expected in (None, ABSENT) and got in (None, ABSENT):
        return ()
    if is_digest(expected):
        is_same = isinstance(got, str) and is_text(got, expected)
        return () if is_same else (Difference(path, expected, got),)
    if isinstance(expected, list) and isinstance(got, list):
        is_of_messages = len(expected) == len(got) and all(isinstance(item, dict) for item in expected)
        return None if is_of_messages else leaf(path, _readable(expected), _readable(got))
    return None


def _readable(items: list[Any]) -> list[Any]:
    """Headers as text."""
    return [
        f"{item['key']}: {base64.b64decode(item.get('raw_value', '')).decode('latin-1')}"
        if isinstance(item, dict) and "key" in item
        else item
        for item in items
    ]


def _upstream_differences(recording: Recording, made: UpstreamRequest | None) -> Iterator[str]:
    recorded = recording.upstream_request
    if recorded is None or made is None:
        if (recorded is None) != (made is None):
            yield f"upstream request: expected {_cut(recorded)}, got {_cut(made)}"
        return
    if recording.is_grpc:
        told = [tuple(pair) for pair in recorded["grpc"]["metadata"]]
        yield from _differing("upstream request: metadata", told, _grpc_metadata(made.headers))
        if not is_body(made.body[5:], recorded["grpc"]["message"]):
            yield f"upstream request: message: expected {recorded['grpc']['message']}, got {made.body[5:]!r}"
        return
    yield from _differing("upstream request: method", recorded["method"], made.method)
    yield from _differing("upstream request: target", recorded["target"], made.target)
    headers = [tuple(pair) for pair in recorded["headers"]]
    yield from _differing("upstream request: headers", headers, list(made.headers))
    if recorded.get("error") and made.error:
        return
    if not is_body(made.body, recorded["body"]):
        yield f"upstream request: body: expected {_cut(recorded['body'])}, got {_cut(made.body)}"
    trailers = [tuple(pair) for pair in recorded.get("trailers") or []]
    yield from _differing("upstream request: trailers", trailers, list(made.trailers))


def _response_differences(recording: Recording, made: HttpResponse) -> Iterator[str]:
    recorded = recording.http_response
    if recording.is_grpc:
        yield from _grpc_differences(recorded["grpc"], made)
        return
    yield from _differing("http response: status", recorded["status"], made.status)
    if recorded["status"] is None or made.status is None:
        return
    headers = _without_date(recorded["headers"])
    yield from _differing("http response: headers", headers, _without_date(made.headers))
    if not is_body(made.body, recorded["body"]):
        yield f"http response: body: expected {_cut(recorded['body'])}, got {_cut(made.body)}"
    trailers = [tuple(pair) for pair in recorded.get("trailers") or []]
    yield from _differing("http response: trailers", trailers, list(made.trailers))
    if bool(recorded.get("error")) != bool(made.error):
        yield f"http response: error: expected {recorded.get('error')}, got {made.error}"


def _grpc_differences(recorded: dict[str, Any], made: HttpResponse) -> Iterator[str]:
    is_trailers_only = any(name == "grpc-status" for name, _ in made.headers)
    ending = made.headers if is_trailers_only else made.trailers
    values = dict(ending)
    number = values.get("grpc-status", "2")
    code = _CODES[int(number)] if number.isdecimal() and int(number) < len(_CODES) else "UNKNOWN"
    yield from _differing("grpc response: code", recorded["code"], code)
    yield from _differing("grpc response: details", recorded["details"], values.get("grpc-message", ""))
    initial = [] if is_trailers_only else _grpc_metadata(made.headers)
    yield from _differing(
        "grpc response: initial_metadata", _without_date(recorded["initial_metadata"]), _without_date(initial)
    )
    yield from _differing(
        "grpc response: trailing_metadata",
        _without_date(recorded["trailing_metadata"]),
        _without_date(_grpc_metadata(ending)),
    )
    if "message" in recorded and not is_body(made.body[5:], recorded["message"]):
        yield f"grpc response: message: expected {recorded['message']}, got {made.body[5:]!r}"


def _log_differences(recording: Recording, exchange: Exchange) -> Iterator[str]:
    if not recording.access_log:
        return
    log = recording.access_log[0]
    if log.get("status") != 42:  # Envoy logs what no client takes.
        yield from _differing("access log: status", log.get("status"), exchange.log_status)
    for key, namespace in (("my_ns", "my.ns"), ("ext_authz_metadata", AUTHZ_NAMESPACE)):
        made = dict(exchange.dynamic_metadata.get(namespace, {}))
        told = dict(log.get(key) or {})
        for values in (made, told):
            values.pop("ext_authz_duration", None)
        yield from _differing(f"access log: {key}", told, made)


def _without_date(headers: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return [tuple(pair) for pair in headers if pair[0].lower() != "date"]


def _grpc_metadata(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in headers if pair[0] not in _GRPC_OWN and not pair[0].startswith(":")]


def _differing(what: str, expected: object, got: object) -> Iterator[str]:
    if expected != got:
        yield f"{what}: expected {_cut(expected)}, got {_cut(got)}"


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}…"
