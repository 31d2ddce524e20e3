"""Where the simulated Envoy's exchange differs from the real one's, in words."""

from __future__ import annotations

from collections.abc import Iterator

from coprocess.desk import trees
from coprocess.desk.envoy.simulator.compare import judge, kind_of
from coprocess.desk.envoy.simulator.exchange import Exchange, Pairs
from coprocess.desk.envoy.simulator.recording import as_json


def differences(real: Exchange, simulated: Exchange) -> Iterator[str]:
    yield from _calls(real, simulated)
    yield from _upstream(real, simulated)
    yield from _response(real, simulated)


def _calls(real: Exchange, simulated: Exchange) -> Iterator[str]:
    yield from _differing(
        "calls", [call.service for call in real.calls], [call.service for call in simulated.calls]
    )
    for one, other in zip(real.calls, simulated.calls, strict=False):
        expected, got = (
            [as_json(message) for message in one.sent],
            [as_json(message) for message in other.sent],
        )
        yield from _differing(
            "messages", [kind_of(each) for each in expected], [kind_of(each) for each in got]
        )
        for ours, theirs in zip(expected, got, strict=False):
            for difference in trees.differences(ours, theirs, judge):
                yield f"{kind_of(ours)}: {difference}"


def _upstream(real: Exchange, simulated: Exchange) -> Iterator[str]:
    one, other = real.upstream_request, simulated.upstream_request
    if one is None or other is None:
        yield from _differing("an upstream request", one is not None, other is not None)
        return
    for name in ("method", "target", "headers"):
        yield from _differing(f"upstream's {name}", getattr(one, name), getattr(other, name))
    yield from _differing("upstream request is whole", one.error is None, other.error is None)
    if one.error is None and other.error is None:
        yield from _differing("upstream's body", one.body, other.body)
        yield from _differing("upstream's trailers", one.trailers, other.trailers)


def _response(real: Exchange, simulated: Exchange) -> Iterator[str]:
    one, other = real.http_response, simulated.http_response
    yield from _differing("status", one.status, other.status)
    if one.status is None or other.status is None:
        return
    yield from _differing("headers", _without_date(one.headers), _without_date(other.headers))
    yield from _differing("response is whole", one.error is None, other.error is None)
    if one.error is None and other.error is None:
        yield from _differing("body", one.body, other.body)
        yield from _differing("trailers", one.trailers, other.trailers)


def _without_date(headers: Pairs) -> list[tuple[str, str]]:
    return [pair for pair in headers if pair[0].lower() != "date"]


def _differing(what: str, real: object, simulated: object) -> Iterator[str]:
    if real != simulated:
        yield f"{what}: really {real}, simulated {simulated}"
