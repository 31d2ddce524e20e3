"""A stream of ext_proc with a real gRPC client."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

from coprocess.gateways.envoy import wire
from tests.envoy.drive import GET, OK, Pairs, header_map
from tests.server import PATIENCE_S


class Call:
    """`says`: what the route says, as keys without `x-coprocess-`.

    A stream that ends with OK where a reply is owed raises StopIteration; any other end, grpc.RpcError.
    """

    def __init__(self, channel: Any, **says: str) -> None:
        self._asks: queue.SimpleQueue[wire.ProcessingRequest | None] = queue.SimpleQueue()
        method = channel.stream_stream(
            wire.PROCESS, wire.ProcessingRequest.SerializeToString, wire.ProcessingResponse.FromString
        )
        metadata = [(f"x-coprocess-{name.replace('_', '-')}", value) for name, value in says.items()]
        self.replies = method(self._messages(), timeout=PATIENCE_S, metadata=metadata)

    def _messages(self) -> Iterator[wire.ProcessingRequest]:
        while (message := self._asks.get()) is not None:
            yield message

    def tell(self, message: wire.ProcessingRequest) -> None:
        """Its reply is not waited for."""
        self._asks.put(message)

    def ask(self, message: wire.ProcessingRequest) -> wire.ProcessingResponse:
        self.tell(message)
        reply: wire.ProcessingResponse = next(self.replies)
        return reply

    def request(self, pairs: Pairs = GET, *, end: bool = True) -> wire.ProcessingResponse:
        headers = wire.HttpHeaders(headers=header_map(pairs), end_of_stream=end)
        return self.ask(wire.ProcessingRequest(request_headers=headers))

    def request_body(self, body: bytes) -> wire.ProcessingResponse:
        return self.ask(wire.ProcessingRequest(request_body=wire.HttpBody(body=body, end_of_stream=True)))

    def response(self, pairs: Pairs = OK) -> wire.ProcessingResponse:
        headers = wire.HttpHeaders(headers=header_map(pairs))
        return self.ask(wire.ProcessingRequest(response_headers=headers))

    def end(self) -> list[wire.ProcessingResponse]:
        self._asks.put(None)
        return list(self.replies)
