"""One stream (RFC 9113 §5.1), and what happens on a connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coprocess.transport.http2.fields import RequestFields
from coprocess.transport.http2.frames import ConnectionFailure

if TYPE_CHECKING:
    from coprocess.transport.http2.sending import Block


class Stream:
    """Open from its HEADERS on; in the connection's `streams` until it is closed.

    What most streams never set is on the class: one is made for each call.
    """

    #: The peer has sent END_STREAM: half-closed (remote).
    remote_closed = False
    is_closed = False
    #: DATA bytes that `content-length` promises and that have not come; None: it said nothing.
    content_left: int | None = None
    #: DATA that waits for a window, or for the transport; then, where given, the block of the trailers.
    outgoing: deque[bytes | memoryview] | None = None
    trailers: Block | None = None
    unsent_bytes = 0
    #: Whether it is among those that wait for the connection's window only.
    is_ready = False
    # What the layer above keeps with it.
    has_headers_sent = False
    is_answered = False
    awaited_since_s = 0.0
    call: Any = None
    reader: Any = None
    #: Cancelled when the stream is closed.
    timer: Any = None
    held_bytes = 0

    def __init__(self, stream_id: int, fields: RequestFields, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.fields = fields
        self.receive_window = receive_window
        self.send_window = send_window


class RequestReceived:
    """A stream was opened. `ended`: there will be no DATA."""

    __slots__ = ("ended", "stream")

    def __init__(self, stream: Stream, ended: bool) -> None:
        self.stream = stream
        self.ended = ended


class DataReceived:
    """A part of the request's content. Its trailers come as `b""` with `ended`: gRPC's requests have none."""

    __slots__ = ("data", "ended", "stream")

    def __init__(self, stream: Stream, data: bytes, ended: bool) -> None:
        self.stream = stream
        self.data = data
        self.ended = ended


@dataclass(frozen=True, slots=True)
class StreamReset:
    """Closed before its end, by the peer or for its fault: nobody waits for an answer."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class PingAcknowledged:
    payload: bytes


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """Nothing more is read. A GOAWAY that says why is in the data to send."""

    failure: ConnectionFailure


Event = RequestReceived | DataReceived | StreamReset | PingAcknowledged | ConnectionClosed
