"""A server's end of one HTTP/2 connection (RFC 9113), without I/O: bytes in, events and bytes out."""

from __future__ import annotations

import time
from collections.abc import Callable

from coprocess.transport.http2 import frames
from coprocess.transport.http2.connection_life import ConnectionLife
from coprocess.transport.http2.field_blocks import FieldBlock
from coprocess.transport.http2.fields import FieldDecoder
from coprocess.transport.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    LOWER_31_BITS,
    PADDED,
    WITH_PRIORITY,
    ConnectionFailure,
    ErrorCode,
    Setting,
    StreamFailure,
)
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.streams import (
    ConnectionClosed,
    DataReceived,
    Event,
    PingAcknowledged,
    RequestReceived,
    Stream,
    StreamReset,
)


class Connection(ConnectionLife):
    """Feed it with `receive`; write what `sending.take` gives, at the start and after each use."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limits, clock)
        #: There are more frames: others should have their turn first.
        self.is_behind = False
        self._fields = FieldDecoder(limits.max_metadata_bytes)
        #: What came of a frame that is not whole yet.
        self._buffer = b""
        self._has_preface = False
        #: The frame that must come next: its type and stream.
        self._expected: tuple[int, int] | None = (frames.SETTINGS, 0)
        self._block = FieldBlock(limits.max_metadata_bytes)
        self._receive_window = limits.connection_window
        #: Where a window is less, it is restored.
        self._half_connection_window = limits.connection_window >> 1
        self._half_stream_window = limits.stream_window >> 1
        #: SETTINGS of ours that have no ACK yet.
        self._unacknowledged = 0
        #: Whether the last of them said SETTINGS_HEADER_TABLE_SIZE 0.
        self._is_table_refused = False
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

    def _send_preface(self) -> None:
        """§3.4."""
        values = {
            Setting.MAX_CONCURRENT_STREAMS: self.limits.max_concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: self.limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: self.limits.max_metadata_bytes,
        }
        self.sending.control(frames.settings(values))
        self._unacknowledged = 1
        increment = self.limits.connection_window - frames.FIRST_WINDOW
        if increment > 0:
            self.sending.control(frames.window_update(0, increment))

    @property
    def is_open(self) -> bool:
        """Whether the peer has sent its preface and SETTINGS."""
        return self._has_preface and self._expected != (frames.SETTINGS, 0)

    @property
    def awaits_rest(self) -> bool:
        """Whether the peer has begun what it must end: the preface, a frame, or a field section."""
        return bool(self._buffer) or self._expected is not None

    # Receiving.

    def receive(self, data: bytes) -> list[Event]:
        """Take what the peer sent, in whatever pieces.

        Where `is_behind` is set then, it is to be called again, also with nothing.
        """
        if self.is_closed:
            return []
        events = self._events = []
        try:
            self._receive(data)
        except ConnectionFailure as failure:
            self.close(failure)
            events.append(ConnectionClosed(failure))
        return events

    def _receive(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        if not self._has_preface:
            start = buffer[: len(frames.PREFACE)]
            if not frames.PREFACE.startswith(start):
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "not HTTP/2: no connection preface")
            if len(start) < len(frames.PREFACE):
                self._buffer = buffer
                return
            self._has_preface = True
            position = len(start)
        unpack, receive_by_type = frames.FRAME_START.unpack_from, self._receive_by_type
        last_start = end - frames.FRAME_HEADER_BYTES
        self.is_behind = False
        for _ in range(FRAMES_AT_ONCE):
            if position > last_start:
                break
            length, flags, stream_id = unpack(buffer, position)
            kind = length & _KIND
            length >>= 8
            if length > _LONGEST_FRAME:  # We announce no other (§4.2).
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "a frame over SETTINGS_MAX_FRAME_SIZE")
            start_of_payload = position + _HEADER_BYTES
            end_of_payload = start_of_payload + length
            if end_of_payload > end:
                break
            position = end_of_payload
            stream_id &= _STREAM_ID
            if self._expected is not None and self._expected != (kind, stream_id):
                raise ConnectionFailure(
                    ErrorCode.PROTOCOL_ERROR, "another frame than SETTINGS first, or within a field section"
                )
            if kind > _LAST_KIND:
                self._idle_frames.spend()  # §5.5: frames of unknown types are ignored.
                continue
            if kind == frames.HEADERS and flags == END_HEADERS:
                block = buffer[start_of_payload:position]
                if end_of_call := self._receive_call(stream_id, block, buffer, position, end):
                    position = end_of_call
                    continue
            try:
                receive_by_type[kind](flags, stream_id, buffer[start_of_payload:position])
            except StreamFailure as failure:
                self._fail(stream_id, failure)
        else:
            self.is_behind = True
        self._buffer = buffer[position:] if position < end else b""

    def _receive_call(self, stream_id: int, block: bytes, buffer: bytes, position: int, end: int) -> int:
        """A request as most are: a block that was seen before, and its whole content in the frame behind it.

        Where that ends; 0: it is no such request, and is received frame by frame, which comes to the same.
        """
        fields = self._fields.seen.get(block)
        start = position + frames.FRAME_HEADER_BYTES
        if fields is None or fields.content_length is not None or start > end or not self._is_table_refused:
            return 0
        length: int
        high, length, kind, flags, data_id = frames.FRAME_HEADER.unpack_from(buffer, position)
        ids, limits = self._ids, self.limits
        if (
            kind != frames.DATA
            or flags != END_STREAM
            or data_id != stream_id
            or high
            or start + length > end
            or length > frames.SMALLEST_MAX_FRAME
            or length > limits.stream_window
            or length > self._receive_window
            or not ids.highest < stream_id <= ids.last
            or not stream_id & 1
            or len(self.streams) >= limits.max_concurrent_streams
        ):
            return 0
        ids.highest = stream_id
        self._receive_window -= length
        if self._receive_window < self._half_connection_window:
            self._restore_connection_window()
        stream = Stream(stream_id, fields, limits.stream_window - length, self.sending.initial_window)
        stream.remote_closed = True
        self.streams[stream_id] = stream
        self._events.append(RequestReceived(stream, True, buffer[start : start + length]))
        return start + length

    def _receive_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.1. The whole frame counts in the windows, padding too."""
        length = len(payload)
        self._receive_window -= length
        if self._receive_window < self._half_connection_window:
            self._restore_connection_window()
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._refuse_frame(stream_id, stream)
            return
        if flags & PADDED:
            payload = frames.strip_padding(payload)
        stream.receive_window -= length
        if stream.receive_window < 0:
            raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        if flags & END_STREAM:
            stream.remote_closed = True
        elif not payload:
            self._idle_frames.spend()
        elif stream.receive_window < self._half_stream_window:
            self.sending.control(
                frames.window_update(stream_id, self.limits.stream_window - stream.receive_window)
            )
            stream.receive_window = self.limits.stream_window
        if stream.content_left is not None:
            self._count_content(stream, len(payload))
        self._events.append(DataReceived(stream, payload, stream.remote_closed))

    def _restore_connection_window(self) -> None:
        if self._receive_window < 0:
            raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self.sending.control(frames.window_update(0, self.limits.connection_window - self._receive_window))
        self._receive_window = self.limits.connection_window

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
            payload = frames.strip_padding(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < _PRIORITY_BYTES:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            self._check_priority(stream_id, payload)
            payload = payload[_PRIORITY_BYTES:]
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
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._receive_trailers(flags, stream, block)
            return
        if stream_id <= self._ids.highest or not stream_id & 1:
            self._fields.skip(block)
            self._ids.check_late_headers(stream_id)
            self._idle_frames.spend()
            return
        self._ids.highest = stream_id
        if stream_id > self._ids.last:  # §6.8
            self._fields.skip(block)
            self._idle_frames.spend()
            self._ids.ignore(stream_id)
            return
        fields = self._fields.seen.get(block) or self._fields.request(block)
        limits = self.limits
        if len(self.streams) >= limits.max_concurrent_streams:
            raise StreamFailure(ErrorCode.REFUSED_STREAM, "more streams than SETTINGS_MAX_CONCURRENT_STREAMS")
        stream = Stream(stream_id, fields, limits.stream_window, self.sending.initial_window)
        if not self._is_table_refused and stream_id > _CALLS_WITH_TABLE:
            self._refuse_table()
        ended = flags & END_STREAM != 0
        stream.remote_closed = ended
        if fields.content_length is not None:
            self._count_content(stream, 0)
        self.streams[stream_id] = stream
        self._events.append(RequestReceived(stream, ended))

    def _refuse_table(self) -> None:
        """Ask for blocks that are the same each time: not at once, as few calls are not worth it."""
        self._is_table_refused = True
        self._unacknowledged += 1
        self.sending.control(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))

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
        self._events.append(DataReceived(stream, b"", True))

    def _refuse_frame(self, stream_id: int, stream: Stream | None) -> None:
        """DATA, or a second field section, on a stream that takes none (§5.1)."""
        if stream is not None:
            raise StreamFailure(ErrorCode.STREAM_CLOSED, "a frame on a half-closed stream")
        self._ids.check_late_frame(stream_id)
        self._idle_frames.spend()

    def _receive_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.3: deprecated. It is checked, and ignored."""
        self._idle_frames.spend()
        if stream_id == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != _PRIORITY_BYTES:
            raise StreamFailure(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        self._check_priority(stream_id, payload)

    @staticmethod
    def _check_priority(stream_id: int, payload: bytes) -> None:
        if int.from_bytes(payload[:4], "big") & LOWER_31_BITS == stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

    def _receive_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.4."""
        self._idle_frames.spend()
        if len(payload) != _CODE_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._ids.check_not_idle(stream_id)
            return
        self._close_stream(stream)
        self._events.append(StreamReset(stream))

    def _receive_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.5."""
        self._idle_frames.spend()
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with ACK is empty")
            if self._expected is not None:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first SETTINGS has no ACK")
            self._unacknowledged -= 1
            if self._is_table_refused and self._unacknowledged == 0:
                self._fields.forbid_table()
            return
        if len(payload) % _SETTING_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS has 6 bytes for each setting")
        self._expected = None
        for setting, value in frames.parse_settings(payload):
            self._change_setting(setting, value)
        self.sending.control(frames.SETTINGS_ACK)
        self.sending.pump()  # After the ACK: it tells from where on the new windows hold.

    def _change_setting(self, setting: int, value: int) -> None:
        """§6.5.2. Those that are not named here do not concern a server that neither pushes nor indexes."""
        if setting == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1")
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFailure(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE too large"
                )
            if value != self.sending.initial_window:
                self._idle_frames.spend(len(self.streams) // _STREAMS_PER_FRAME)
                self.sending.change_initial_window(value, list(self.streams.values()))
        elif setting == Setting.MAX_FRAME_SIZE:
            if not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            self.sending.max_frame = value

    def _receive_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§8.4."""
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _receive_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.7."""
        self._idle_frames.spend()
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != _PING_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "PING has 8 bytes")
        if flags & ACK:
            self._events.append(PingAcknowledged(payload))
        else:
            self.sending.control(frames.frame(frames.PING, ACK, 0, payload))

    def _receive_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.8: the peer begins no more calls; those it has begun are answered."""
        self._idle_frames.spend()
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < _GOAWAY_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has 8 bytes at least")

    def _receive_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.9."""
        self._idle_frames.spend()
        if len(payload) != _CODE_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        increment = int.from_bytes(payload, "big") & LOWER_31_BITS
        stream = self.streams.get(stream_id)
        if stream_id and stream is None:
            self._ids.check_not_idle(stream_id)
            return
        if increment == 0:
            failure = StreamFailure if stream_id else ConnectionFailure
            raise failure(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        self.sending.widen(stream, increment)

    def close(self, failure: ConnectionFailure) -> None:
        if not self.is_closed:
            self.is_behind = False
            self._block.end()
            self._buffer = b""
        super().close(failure)


# Of this module: each frame looks for them.
_HEADER_BYTES, _LONGEST_FRAME = frames.FRAME_HEADER_BYTES, frames.SMALLEST_MAX_FRAME
_STREAM_ID, _KIND, _LAST_KIND = LOWER_31_BITS, 0xFF, frames.CONTINUATION
#: Taken from one peer before the loop turns to the others.
FRAMES_AT_ONCE = 128
_PRIORITY_BYTES = 5
_CODE_BYTES = 4
_SETTING_BYTES = 6
_PING_BYTES = 8
_GOAWAY_BYTES = 8
_STREAMS_PER_FRAME = 64
#: In stream identifiers, of which every second is a call.
_CALLS_WITH_TABLE = 16
