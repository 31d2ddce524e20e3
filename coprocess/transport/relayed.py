"""Unary calls that go to another process as they came, by the thread that reads them, and come back so.

No task, no thread and no callback is between: all is done with the server's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from coprocess.transport.http2.grpc_wire import Request
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream


class Taker(Protocol):
    """Who has taken a call."""

    def give_up(self, call_id: int) -> None:
        """Nobody waits for its answer any more; perhaps it was given. With the server's lock."""


class RelayedCall:
    """One such call, as the http2 engine makes it."""

    __slots__ = ("_protocol", "_server", "_stream", "call_id", "request", "taker")

    def __init__(self, server: Server, protocol: Http2Protocol, stream: Stream, request: Request) -> None:
        self._server = server
        self._protocol = protocol
        self._stream = stream
        self.request = request
        #: Set by who takes it.
        self.taker: Taker | None = None
        self.call_id = 0

    def answer(self, status: int, body: bytes) -> None:
        """Answer with a reply, or with a status other than 0 and its message. The first answer counts."""
        protocol = self._protocol
        if status:
            protocol.end(self._stream, (status, body.decode("utf-8", "replace"), b"", ()))
        else:
            protocol.respond(self._stream, body)
        if not protocol.is_dirty:
            self._server.write_later(protocol)

    def cancelled(self) -> None:
        """The client's connection tells it."""
        if self.taker is not None:
            self.taker.give_up(self.call_id)


#: Takes a call with its message, with the server's lock. False: it is to be handled as any other.
Relay = Callable[[RelayedCall, bytes], bool]
