"""The servers of both Envoys: a real one over gRPC, and a simulated one, which say the same."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc

from coprocess.desk.envoy.simulator.exchange import Pairs, ServerCall
from coprocess.desk.envoy.simulator.server import ProcessStream, ServerEnd, ServerEvent, ServerMessage
from coprocess.gateways.envoy import wire
from tests.envoy_desk.campaign import scenarios


class Servers(grpc.GenericRpcHandler):
    """The real servers; `seed` is of the exchange that is played."""

    def __init__(self) -> None:
        self.seed = 0
        self.calls: list[ServerCall] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == wire.PROCESS:
            return grpc.stream_stream_rpc_method_handler(self._process)
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _begin(self, service: str) -> ServerCall:
        call = ServerCall(service, "", ())
        self.calls.append(call)
        return call

    def _process(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        call = self._begin("ext_proc")
        with contextlib.suppress(grpc.RpcError):
            for number, payload in enumerate(messages):
                message = wire.ProcessingRequest.FromString(payload)
                call.sent.append(message)
                said = scenarios.said(self.seed, number, message)
                if isinstance(said, scenarios.End):
                    _end(said, context)
                    return
                if said is not None:
                    yield said

    def _check(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        call = self._begin("ext_authz")
        message = wire.CheckRequest.FromString(payload)
        call.sent.append(message)
        said = scenarios.said(self.seed, 0, message)
        if isinstance(said, scenarios.End):
            _end(said, context)
        if isinstance(said, bytes):
            return said
        time.sleep(2 * scenarios.MESSAGE_TIMEOUT_S)
        return b""


def _end(end: scenarios.End, context: grpc.ServicerContext) -> None:
    if end.code:
        context.abort(next(code for code in grpc.StatusCode if code.value[0] == end.code), "no good")


class SimulatedServers:
    def __init__(self, seed: int) -> None:
        self._seed = seed

    def process(self, cluster: str, metadata: Pairs) -> ProcessStream:
        return _SimulatedStream(self._seed)

    def check(
        self, cluster: str, metadata: Pairs, payload: bytes, timeout_s: float | None
    ) -> tuple[ServerEvent | None, float]:
        said = scenarios.said(self._seed, 0, wire.CheckRequest.FromString(payload))
        return (None, timeout_s or 0.0) if said is None else (_event(said), _TOOK_S)


class _SimulatedStream(ProcessStream):
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = 0
        self._waiting: list[ServerEvent] = []
        self._is_over = False

    def send(self, payload: bytes) -> bool:
        if not self._is_over:
            said = scenarios.said(self._seed, self._number, wire.ProcessingRequest.FromString(payload))
            self._number += 1
            if said is not None:
                self._waiting.append(_event(said))
            self._is_over = isinstance(said, scenarios.End)
        return True

    def receive(self, timeout_s: float) -> tuple[ServerEvent | None, float]:
        return (self._waiting.pop(0), _TOOK_S) if self._waiting else (None, timeout_s)

    def poll(self) -> ServerEvent | None:
        return self._waiting.pop(0) if self._waiting else None

    def close(self) -> None:
        self._waiting.clear()


_TOOK_S = 0.001


def _event(said: bytes | scenarios.End) -> ServerEvent:
    return ServerEnd(said.code, "no good") if isinstance(said, scenarios.End) else ServerMessage(said)
