"""A stream of ext_proc, and a Check, without a socket: messages in, replies out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coprocess.errors import CoprocessError, HandlerFailed
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.check_reply import closed
from coprocess.gateways.envoy.check_steps import Check
from coprocess.gateways.envoy.checked import open_check
from coprocess.gateways.envoy.exchange import Exchange
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.skimmed import attributes_of, items_of
from coprocess.runtime.call import Call
from coprocess.runtime.chained import StepCall, Steps
from coprocess.runtime.in_process_rpc import InProcessRpc
from coprocess.runtime.registration import GatewayOptions
from tests.envoy.world import table_of
from tests.objects import run_sync

Pairs = Sequence[tuple[str, str | bytes]]
GET: Pairs = [(":authority", "example.test"), (":path", "/a?b=1"), (":method", "GET"), (":scheme", "http")]
POST: Pairs = [
    (":authority", "example.test"),
    (":path", "/p"),
    (":method", "POST"),
    (":scheme", "http"),
    ("content-length", "5"),
]
OK: Pairs = [(":status", "200"), ("content-type", "text/plain"), ("content-length", "5")]


def run(steps: Steps) -> None:
    """Run them, and their calls, here."""
    for need in steps:
        if isinstance(need, StepCall):
            need.failure = _outcome(need).failure
        elif callable(need):
            need()
        else:
            return


def _outcome(call: Call) -> InProcessRpc:
    rpc = InProcessRpc()
    try:
        rpc.respond(asyncio.run(call.run_async()) if call.hook.is_async else run_sync(call))
    except HandlerFailed as error:
        unchanged = call.unchanged() if call.hook.limits.on_error == "open" else None
        if unchanged is None:
            rpc.fail(error.status, str(error))
        else:
            rpc.respond(unchanged)
    return rpc


class Stream:
    """`replies` are those to the last message."""

    def __init__(
        self,
        *handlers: Callable[..., Any],
        says: Mapping[str, str] | None = None,
        request_mode: int = 0,
        response_mode: int = 0,
        sends_at_once: bool = False,
        max_body_bytes: int = 1 << 20,
        gateway: EnvoyGateway | None = None,
    ) -> None:
        self.gateway = gateway or EnvoyGateway(table_of(*handlers), GatewayOptions())
        self.exchange = Exchange(
            lambda first: self.gateway.chain(says or {}, ""), self.gateway, max_body_bytes
        )
        self._config: Any = wire.ProtocolConfiguration(
            request_body_mode=request_mode,  # type: ignore[arg-type]  # its number
            response_body_mode=response_mode,  # type: ignore[arg-type]  # as above
            send_body_without_waiting_for_header_response=sends_at_once,
        )

    def send(self, message: wire.ProcessingRequest | bytes) -> list[wire.ProcessingResponse]:
        if isinstance(message, wire.ProcessingRequest) and self._config is not None:
            message.protocol_config.CopyFrom(self._config)
            self._config = None
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        try:
            run(self.exchange.take(raw))
            replies = self.exchange.replies()
        except CoprocessError as error:
            replies = [self.exchange.refusal(error)]
        return [wire.ProcessingResponse.FromString(each) for each in replies]

    def one(self, message: wire.ProcessingRequest | bytes) -> wire.ProcessingResponse:
        (reply,) = self.send(message)
        return reply

    def request(self, pairs: Pairs = GET, *, end: bool = True, **more: Any) -> wire.ProcessingResponse:
        headers = wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end)
        return self.one(wire.ProcessingRequest(request_headers=headers, **more))

    def response(self, pairs: Pairs = OK, *, end: bool = False) -> wire.ProcessingResponse:
        headers = wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end)
        return self.one(wire.ProcessingRequest(response_headers=headers))

    def body(self, body: bytes, *, end: bool = True) -> list[wire.ProcessingResponse]:
        return self.send(wire.ProcessingRequest(request_body=wire.HttpBody(body=body, end_of_stream=end)))

    def response_body(self, body: bytes, *, end: bool = True) -> list[wire.ProcessingResponse]:
        return self.send(wire.ProcessingRequest(response_body=wire.HttpBody(body=body, end_of_stream=end)))


def header_map(pairs: Pairs) -> wire.HeaderMap:
    return wire.HeaderMap(
        headers=[
            wire.HeaderValue(key=key, raw_value=value.encode() if isinstance(value, str) else value)
            for key, value in pairs
        ]
    )


def edits(common: wire.CommonResponse) -> list[tuple[str, bytes, bool]]:
    """Name, value, and whether it is added beside what is there."""
    found = []
    for option in common.header_mutation.set_headers:
        assert not option.header.value
        found.append((option.header.key, option.header.raw_value, option.append.value))
    return found


class Told:
    """Takes what is told of refusals."""

    def tell_refused(self, error: Exception) -> None:
        pass


def check(*handlers: Callable[..., Any], request: wire.CheckRequest) -> wire.CheckResponse:
    gateway = EnvoyGateway(table_of(*handlers), GatewayOptions())
    told = Told()
    message = request.SerializeToString()
    attributes = attributes_of(message)
    try:
        chain = gateway.chain(items_of(attributes.context_extensions), "")
        check = Check(open_check(attributes, chain, gateway, 1000, len(message)), told)
    except CoprocessError as error:
        raw = closed(told, error)
    else:
        run(check.steps())
        if check.asks_limits:
            check.traffic.ask_limits()
        raw = check.reply()
    assert raw, "an empty reply lets the request in"
    reply = wire.CheckResponse.FromString(raw)
    assert reply.HasField("status")
    assert reply.WhichOneof("http_response") == (
        "ok_response" if reply.status.code == 0 else "denied_response"
    )
    return reply


def check_request(
    headers: Pairs = GET, body: bytes = b"", extensions: Mapping[str, str] | None = None
) -> wire.CheckRequest:
    request = wire.CheckRequest()
    attributes = request.attributes
    attributes.request.http.header_map.CopyFrom(header_map(headers))
    attributes.request.http.raw_body = body
    attributes.context_extensions.update(extensions or {})
    return request


def text_check_request(headers: Pairs) -> wire.CheckRequest:
    """To `/a`, of a filter that was not told to send raw headers."""
    request = wire.CheckRequest()
    http = request.attributes.request.http
    http.headers.update({name: str(value) for name, value in headers})
    http.method, http.path = http.headers[":method"], "/a"
    return request
