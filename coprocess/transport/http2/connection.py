"""A server's end of one HTTP/2 connection (RFC 9113), without I/O: what bytes mean is told to a Receiver.

Here are frames in general, and those that requests are made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from coprocess.transport.http2 import frames
from coprocess.transport.http2.control_frames import PRIORITY_BYTES, ControlFrames
from coprocess.transport.http2.field_blocks import FieldBlock
from coprocess.transport.http2.frames import (
    END_HEADERS,
    END_STREAM,
    LOWER_31_BITS,
    PADDED,
    WITH_PRIORITY,
    ConnectionFailure,
    ErrorCode,
    StreamFailure,
)
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.streams import Receiver, Stream


class Connection(ControlFrames):
    """Feed it with `receive`; write what `sending.take` gives, at the start and after each use."""

    def __init__(
        self, limits: Limits, receiver: Receiver, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(limits, receiver, clock)
        #: What came of a frame that is not whole yet.
        self._buffer = b""
        #: How many such frames there were.
        self._begun = 0
        self._has_preface = False
        self._block = FieldBlock(limits.max_metadata_bytes)
        self._receive_window = limits.connection_window
        #: Where a window is less, it is restored.
        self._half_connection_window = limits.connection_window >> 1
        #: To which that window is opened: less than its limit where what came is kept back, and not given
        #: back yet.
        self.window = limits.connection_window
        self._half_stream_window = limits.stream_window >> 1
        #: With content of a longer frame, a window may have to be restored.
        self._longest_first = min(frames.SMALLEST_MAX_FRAME, self._half_stream_window)
        # In the order of their types.
        self._receive_by_type = (
            self._receive_data,
            self._receive_headers,
            self._receive_priority,
            self._receive_rst_stream,
            self._receive_settings,
            self._receive_push_promise,
            self._receive_ping,
            self._receive_goaway,
            self._receive_window_update,
            self._receive_continuation,
        )
        self._send_preface()

    @property
    def awaits_rest_of(self) -> object:
        """What the peer has begun and must end: the preface, a frame, or a field section. None: nothing.

        It is the same object as long as it is the same one, and another for the next.
        """
        if self._expected is not None:
            return self._expected
        # Where it is behind, the peer is not who is late.
        return self._begun if self._buffer and not self.is_behind else None

    # Receiving.

    def receive(self, data: bytes) -> ConnectionFailure | None:
        """Take what the peer sent, in whatever pieces. What has ended the connection; None: it goes on.

        Where `is_behind` is set then, it is to be called again, also with nothing.
        """
        if self.is_closed:
            return None
        try:
            self._receive(data)
        except ConnectionFailure as failure:
            # Nothing more is read. A GOAWAY that says why is in the data to send.
            self.close(failure)
            return failure
        return None

    def _receive(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        if not self._has_preface:
            begin = buffer[: len(frames.PREFACE)]
            if not frames.PREFACE.startswith(begin):
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "not HTTP/2: no connection preface")
            if len(begin) < len(frames.PREFACE):
                self._buffer = buffer
                return
            self._has_preface = True
            position = len(begin)
        unpack, receive_by_type = _FRAME_START, self._receive_by_type
        last_start = end - _HEADER_BYTES
        self.is_behind = False
        if self._steps is not None:
            self.take_steps(self._steps)
            if self._steps is not None:
                self._buffer = buffer[position:]
                return
        for _ in range(self.frames_at_once):
            if position > last_start:
                break
            length_and_kind, flags, stream_id = unpack(buffer, position)
            if length_and_kind > _LONGEST_FRAME:  # We announce no other (§4.2).
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "a frame over SETTINGS_MAX_FRAME_SIZE")
            start = position + _HEADER_BYTES
            after = start + (length_and_kind >> 8)
            if after > end:
                break
            position = after
            kind = length_and_kind & _KIND
            stream_id &= _STREAM_ID
            if self._expected is not None and self._expected != (kind, stream_id):
                raise ConnectionFailure(
                    ErrorCode.PROTOCOL_ERROR, "another frame than SETTINGS first, or within a field section"
                )
            if kind > _LAST_KIND:
                self._idle_frames.spend()  # §5.5: frames of unknown types are ignored.
                continue
            if kind == _HEADERS and flags == END_HEADERS and position <= last_start:
                block = buffer[start:after]
                if end_of_content := self._receive_with_content(stream_id, block, buffer, position, end):
                    position = end_of_content
                    continue
            try:
                receive_by_type[kind](flags, stream_id, buffer[start:after])
            except StreamFailure as failure:
                self._fail(stream_id, failure)
            if self.is_behind:
                break
        else:
            self.is_behind = True
        if position < end:
            # Another one than before: that is gone, or its rest came, and nothing with it.
            self._begun += position > 0 or not self._buffer
        self._buffer = buffer[position:]
        # Once for all of a read: nothing is written before.
        if self._receive_window < 0:
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self._receive_window < self._half_connection_window:
            self.restore_window()

    def _receive_with_content(
        self, stream_id: int, block: bytes, buffer: bytes, position: int, end: int
    ) -> int:
        """A request as most begin: a block that was seen before, and content in the frame behind it.

        Where that ends; 0: it is no such request, and is received frame by frame, which comes to the same.
        """
        fields = self._fields.seen.get(block)
        length_and_kind: int
        length_and_kind, flags, data_id = _FRAME_START(buffer, position)
        length = length_and_kind >> 8
        start = position + _HEADER_BYTES
        after = start + length
        ids, limits = self.ids, self.limits
        if (
            fields is None
            or data_id != stream_id
            or flags > END_STREAM
            or length_and_kind & _KIND  # Of another type than DATA.
            or after > end
            or not 0 < length <= self._longest_first
            or fields.content_length is not None
            or not ids.highest < stream_id <= ids.last
            or not stream_id & 1
            or len(self.streams) >= limits.max_concurrent_streams
        ):
            return 0
        ids.highest = stream_id
        self._receive_window -= length
        window, ended = limits.stream_window - length, flags == END_STREAM
        stream = Stream(stream_id, fields, window, self.sending.initial_window, ended)
        self.streams[stream_id] = stream
        self._receiver.on_request(stream, buffer[start:after], ended)
        return after

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.1. The whole frame counts in the windows, padding too (§6.9.1)."""
        length = len(payload)
        self._receive_window -= length
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._refuse_frame(stream_id, stream)
            return
        if flags & PADDED:
            payload = frames.strip_padding(payload)
        left = stream.receive_window = stream.receive_window - length
        if left < 0:
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        ended = flags & END_STREAM != 0
        if ended:
            stream.remote_closed = True
        elif left < self._half_stream_window:
            # Also for padding alone: else such could use up the window, and no content come any more.
            self.sending.control(frames.window_update(stream_id, self.limits.stream_window - left))
            stream.receive_window = self.limits.stream_window
        elif not payload:
            self._idle_frames.spend()
        if stream.content_left is not None:
            self._count_content(stream, len(payload))
        self._receiver.on_data(stream, payload, ended)

    def restore_window(self) -> None:
        """Open it again, where less than half is left."""
        if self._receive_window < self._half_connection_window and self.window > self._receive_window:
            self.sending.control(frames.window_update(0, self.window - self._receive_window))
            self._receive_window = self.window

    @staticmethod
    def _count_content(stream: Stream, length: int) -> None:
        """§8.1.1: content-length is the sum of the DATA frames."""
        left = stream.content_left = (stream.content_left or 0) - length
        if left < 0 or (stream.remote_closed and left):
            raise StreamFailure(
                ErrorCode.PROTOCOL_ERROR, "malformed: content-length is not that of the content"
            )

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.2."""
        if flags & PADDED:
            payload = frames.strip_padding(payload, PRIORITY_BYTES if flags & WITH_PRIORITY else 0)
        if flags & WITH_PRIORITY:
            if len(payload) < PRIORITY_BYTES:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            self._check_priority(stream_id, payload)
            payload = payload[PRIORITY_BYTES:]
        if flags & END_HEADERS:
            self._receive_block(flags, stream_id, payload)
            return
        self._expected = (frames.CONTINUATION, stream_id)
        self._block.begin(flags, payload)

    def _receive_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.10."""
        if self._expected is None:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        if not payload:
            self._idle_frames.spend()
        self._block.go_on(payload)
        if flags & END_HEADERS:
            self._expected = None
            self._receive_block(self._block.flags, stream_id, self._block.end())

    def _receive_block(self, flags: int, stream_id: int, block: bytes) -> None:
        """A whole field section. It is decoded in any case, for it may change the decoder's table (§4.3)."""
        if self._fields.is_long(block):
            self.take_steps(self._receive_long_block(flags, stream_id, block))
        else:
            self._receive_section(flags, stream_id, block)

    def _receive_long_block(self, flags: int, stream_id: int, block: bytes) -> Iterator[None]:
        for _ in self._fields.decode_in_steps(block):
            yield None
        try:
            self._receive_section(flags, stream_id, block)
        except StreamFailure as failure:
            self._fail(stream_id, failure)

    def _receive_section(self, flags: int, stream_id: int, block: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._receive_trailers(flags, stream, block)
            return
        if stream_id <= self.ids.highest or not stream_id & 1:
            self._fields.skip(block)
            self.ids.check_late_headers(stream_id)
            self._idle_frames.spend()
            return
        self.ids.highest = stream_id
        if stream_id > self.ids.last:  # §6.8
            self._fields.skip(block)
            self._idle_frames.spend()
            self.ids.ignore(stream_id)
            return
        fields = self._fields.seen.get(block)
        if fields is None:
            fields = self._fields.request(block)
            if not self._is_table_refused and stream_id > _CALLS_WITH_TABLE:
                self._refuse_table()
        limits = self.limits
        if len(self.streams) >= limits.max_concurrent_streams:  # §5.1.2
            raise StreamFailure(ErrorCode.REFUSED_STREAM, "more streams than SETTINGS_MAX_CONCURRENT_STREAMS")
        ended = flags & END_STREAM != 0
        stream = Stream(stream_id, fields, limits.stream_window, self.sending.initial_window, ended)
        if fields.content_length is not None:
            self._count_content(stream, 0)
        self.streams[stream_id] = stream
        self._receiver.on_request(stream, b"", ended)

    def _receive_trailers(self, flags: int, stream: Stream, block: bytes) -> None:
        """§8.1: a second field section ends the request."""
        if stream.remote_closed:
            self._fields.skip(block)
            self._refuse_frame(stream.id, stream)
        self._fields.trailers(block)
        if not flags & END_STREAM:
            raise StreamFailure(ErrorCode.PROTOCOL_ERROR, "malformed: trailers without END_STREAM")
        stream.remote_closed = True
        if stream.content_left is not None:
            self._count_content(stream, 0)
        self._receiver.on_data(stream, b"", True)

    def _refuse_frame(self, stream_id: int, stream: Stream | None) -> None:
        """DATA, or a second field section, on a stream that takes none (§5.1)."""
        if stream is not None:
            raise StreamFailure(ErrorCode.STREAM_CLOSED, "a frame on a half-closed stream")
        self.ids.check_late_frame(stream_id)
        self._idle_frames.spend()

    def close(self, failure: ConnectionFailure) -> None:
        if not self.is_closed:
            self.is_behind = False
            self._block.end()
            self._buffer = b""
            self._steps = None
        super().close(failure)


# Of this module: each frame looks for them.
_HEADER_BYTES: Final = frames.FRAME_HEADER_BYTES
_LONGEST_FRAME: Final = frames.SMALLEST_MAX_FRAME << 8 | 0xFF
_STREAM_ID: Final = LOWER_31_BITS
_KIND: Final = 0xFF
_LAST_KIND: Final = frames.CONTINUATION
_HEADERS: Final = frames.HEADERS
_FRAME_START = frames.FRAME_START.unpack_from
#: In stream identifiers, of which every second is a call. For fewer it is not worth asking.
_CALLS_WITH_TABLE: Final = 16
