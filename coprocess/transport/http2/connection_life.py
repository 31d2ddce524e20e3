"""The life of streams and of their connection (RFC 9113 §5.1, §5.4, §6.8): how each ends, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode, StreamFailure
from coprocess.transport.http2.limits import IdleFrames, Limits
from coprocess.transport.http2.sending import Sending
from coprocess.transport.http2.stream_ids import StreamIds
from coprocess.transport.http2.streams import Receiver, Stream


class ConnectionLife:
    """What a connection is, apart from what it receives."""

    def __init__(self, limits: Limits, receiver: Receiver, clock: Callable[[], float]) -> None:
        self.limits = limits
        #: Open and half-closed (remote), by their identifier, oldest first.
        self.streams: dict[int, Stream] = {}
        self.is_closed = False
        #: What the layer above holds for streams (`Stream.held_bytes`).
        self.held_bytes = 0
        self.sending = Sending(self._local_end)
        self._idle_frames = IdleFrames(limits, self.sending.take_useful, clock)
        self._receiver = receiver
        self.ids = StreamIds(limits.max_concurrent_streams)

    def spend(self, frames_count: int) -> None:
        """On what takes as long as so many frames that bring nothing forward. Raises ConnectionFailure."""
        self._idle_frames.spend(frames_count)

    def _local_end(self, stream: Stream) -> None:
        """We have sent END_STREAM. A request that is still coming is of no more use (§8.1)."""
        if not stream.remote_closed:
            self.sending.control(_RESET(_RESET_START, stream.id, 0))
            self.ids.ignore(stream.id)
        stream.call = None  # It knows its stream: a cycle for each call would be the collector's.
        # As `_close_stream`, in place, of one that has nothing waiting: each call comes by.
        del self.streams[stream.id]
        self.ids.closed(stream.id)
        stream.is_closed = True
        self.held_bytes -= stream.held_bytes
        if stream.timer is not None:
            stream.timer.cancel()

    def _close_stream(self, stream: Stream) -> None:
        del self.streams[stream.id]
        self.ids.closed(stream.id)
        stream.is_closed = True
        if stream.outgoing:
            self.sending.forget(stream)
        self.held_bytes -= stream.held_bytes
        if stream.timer is not None:
            stream.timer.cancel()

    def _fail(self, stream_id: int, failure: StreamFailure) -> None:
        """§5.4.2. An idle stream cannot be reset (§6.4): it fails the connection."""
        self._idle_frames.spend()
        if self.ids.is_idle(stream_id):
            raise ConnectionFailure(failure.code, failure.reason)
        stream = self.streams.get(stream_id)
        self._send_reset(stream_id, failure.code)
        if stream is not None:
            self._close_stream(stream)
            self._receiver.on_reset(stream)

    def _send_reset(self, stream_id: int, code: int) -> None:
        self.sending.control(frames.rst_stream(stream_id, code))
        self.ids.ignore(stream_id)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give up a stream that is not closed."""
        self._send_reset(stream.id, code)
        self._close_stream(stream)

    def abandon(self) -> list[Stream]:
        """Close all streams, of which there may be thousands, as nobody can be told; which they were."""
        self.is_closed = True
        streams = list(self.streams.values())
        self.streams.clear()
        self.held_bytes = 0
        for stream in streams:
            stream.is_closed = True
            if stream.outgoing:
                self.sending.forget(stream)
            if stream.timer is not None:
                stream.timer.cancel()
        return streams

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life. `payload` has 8 bytes."""
        self.sending.control(frames.frame(frames.PING, 0, 0, payload))

    def announce_end(self) -> None:
        """Ask the peer for no more streams; those that are on their way are accepted (§6.8)."""
        self.sending.control(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def end(self) -> None:
        """Accept no more streams, and say which was the last."""
        self.sending.control(frames.goaway(self.ids.accept_no_more(), ErrorCode.NO_ERROR))

    def close(self, failure: ConnectionFailure) -> None:
        """§5.4.1. What is to be sent is to be written, then the transport closed."""
        if not self.is_closed:
            self.is_closed = True
            last_id = self.ids.accept_no_more()
            self.sending.control(frames.goaway(last_id, failure.code, failure.reason))


#: Of a stream that has ended well.
_RESET, _RESET_START = Struct(">5sLL").pack, b"\0\0\x04\x03\0"
