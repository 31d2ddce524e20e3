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
    """Open from its HEADERS on; in the connection's `streams` until it is closed."""

    # Slots: an attribute that only the class has is looked up each time.
    __slots__ = (
        "awaited_since_s",
        "call",
        "content_left",
        "fields",
        "has_headers_sent",
        "held_bytes",
        "id",
        "is_answered",
        "is_closed",
        "is_ready",
        "outgoing",
        "reader",
        "receive_window",
        "remote_closed",
        "send_window",
        "timer",
        "trailers",
        "unsent_bytes",
    )

    def __init__(self, stream_id: int, fields: RequestFields, receive_window: int, send_window: int) -> None:
        self.id = stream_id
        self.fields = fields
        self.receive_window = receive_window
        self.send_window = send_window
        #: The peer has sent END_STREAM: half-closed (remote).
        self.remote_closed = False
        self.is_closed = False
        #: DATA bytes that `content-length` promises and that have not come; None: it said nothing.
        self.content_left = fields.content_length
        #: DATA that waits for a window, or for the transport; then, where given, the block of the trailers.
        self.outgoing: deque[bytes | memoryview] | None = None
        self.trailers: Block | None = None
        self.unsent_bytes = 0
        #: Whether it is among those that wait for the connection's window only.
        self.is_ready = False
        # What the layer above keeps with it.
        self.has_headers_sent = False
        self.is_answered = False
        self.awaited_since_s = 0.0
        self.call: Any = None
        self.reader: Any = None
        #: Cancelled when the stream is closed.
        self.timer: Any = None
        self.held_bytes = 0


class RequestReceived:
    """A stream was opened. `ended`: there will be no DATA but for `data`, which came with it."""

    __slots__ = ("data", "ended", "stream")

    def __init__(self, stream: Stream, ended: bool, data: bytes = b"") -> None:
        self.stream = stream
        self.ended = ended
        self.data = data


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
