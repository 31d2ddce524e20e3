"""One stream (RFC 9113 §5.1), and who is told of what comes on it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from coprocess.transport.http2.fields import RequestFields

if TYPE_CHECKING:
    from coprocess.transport.http2.sending import Block


class Stream:
    """Open from its HEADERS on; in the connection's `streams` until it is closed."""

    # Slots: an attribute that only the class has is looked up each time.
    __slots__ = (
        "call",
        "call_id",
        "content_left",
        "fields",
        "has_headers_sent",
        "held_bytes",
        "id",
        "is_answered",
        "is_closed",
        "is_ready",
        "outgoing",
        "owner",
        "reader",
        "receive_window",
        "remote_closed",
        "send_window",
        "timer",
        "trailers",
        "unsent_bytes",
    )

    # Once DATA waits.
    trailers: Block | None
    #: Whether it is among those that wait for the connection's window only.
    is_ready: bool
    # Of one that goes to another process: its number there, and its connection, an Http2Protocol.
    call_id: int
    owner: Any

    def __init__(
        self,
        stream_id: int,
        fields: RequestFields,
        receive_window: int,
        send_window: int,
        remote_closed: bool,
    ) -> None:
        self.id = stream_id
        self.fields = fields
        self.receive_window = receive_window
        self.send_window = send_window
        #: The peer has sent END_STREAM: half-closed (remote).
        self.remote_closed = remote_closed
        self.is_closed = False
        #: DATA bytes that `content-length` promises and that have not come; None: it said nothing.
        self.content_left = fields.content_length
        #: DATA that waits for a window, or for the transport; then, where given, the block of the trailers.
        self.outgoing: deque[bytes | memoryview] | None = None
        self.unsent_bytes = 0
        # What the layer above keeps with it.
        self.has_headers_sent = False
        self.is_answered = False
        self.call: Any = None
        self.reader: Any = None
        #: Cancelled when the stream is closed.
        self.timer: Any = None
        self.held_bytes = 0


class Receiver(Protocol):
    """The layer above. It is told while a read is taken apart, and may answer at once."""

    def on_request(self, stream: Stream, data: bytes, ended: bool) -> None:
        """A stream was opened. `ended`: there will be no DATA but for `data`, which came with it."""

    def on_data(self, stream: Stream, data: bytes, ended: bool) -> None:
        """A part of the request's content. Its trailers are `b""` with `ended`: gRPC's mean nothing."""

    def on_reset(self, stream: Stream) -> None:
        """Closed before its end, by the peer or for its fault: nobody waits for an answer."""

    def on_ping(self, payload: bytes) -> None:
        """A PING was acknowledged."""
