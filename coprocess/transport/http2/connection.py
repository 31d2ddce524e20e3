"""A server's end of one HTTP/2 connection (RFC 9113), without I/O: what bytes mean is told to a Receiver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

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
from coprocess.transport.http2.streams import Receiver, Stream


class Connection(ConnectionLife):
    """Feed it with `receive`; write what `sending.take` gives, at the start and after each use."""

    def __init__(
        self, limits: Limits, receiver: Receiver, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(limits, receiver, clock)
        #: There are more frames: others should have their turn first.
        self.is_behind = False
        self._effort = 0
        #: Of `take_steps`: those that are left.
        self._steps: Iterator[None] | None = None
        self._fields = FieldDecoder(limits.max_metadata_bytes, self.count_effort)
        #: What came of a frame that is not whole yet.
        self._buffer = b""
        #: How many such frames there were.
        self._begun = 0
        self._has_preface = False
        #: The frame that must come next: its type and stream.
        self._expected: tuple[int, int] | None = (frames.SETTINGS, 0)
        self._block = FieldBlock(limits.max_metadata_bytes)
        self._receive_window = limits.connection_window
        #: Where a window is less, it is restored.
        self._half_connection_window = limits.connection_window >> 1
        self._half_stream_window = limits.stream_window >> 1
        #: With content of a longer frame, a window may have to be restored.
        self._longest_first = min(frames.SMALLEST_MAX_FRAME, self._half_stream_window)
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
    def awaits_rest_of(self) -> object:
        """What the peer has begun and must end: the preface, a frame, or a field section. None: nothing.

        It is the same object as long as it is the same one, and another for the next.
        """
        if self._expected is not None:
            return self._expected
        return self._begun if self._buffer else None

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
        for _ in range(FRAMES_AT_ONCE):
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
            self._buffer = buffer[position:]
            self._begun += position > 0
        else:
            self._buffer = b""
        # Once for all of a read: nothing is written before.
        if self._receive_window < self._half_connection_window:
            self._restore_connection_window()

    def count_effort(self, steps: int) -> None:
        """Of a frame with many steps: not as many of them are taken at once as of others."""
        self._effort += steps
        if self._effort > _STEPS_AT_ONCE:
            self._effort = 0
            self.is_behind = True

    def take_steps(self, steps: Iterator[None]) -> None:
        """What the layer above makes of a frame, where that may take long: no other is taken before its end.

        Those that are left are taken when `receive` is called again.
        """
        self._steps = steps
        for _ in steps:
            if self.is_behind:
                return
        self._steps = None

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
        ids, limits = self._ids, self.limits
        if (
            fields is None
            or data_id != stream_id
            or flags > END_STREAM
            or length_and_kind & _KIND  # Of another type than DATA.
            or after > end
            or not 0 < length <= self._longest_first
            or fields.content_length is not None
            or not self._is_table_refused
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
        """§6.1. The whole frame counts in the windows, padding too."""
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
        elif not payload:
            self._idle_frames.spend()
        elif left < self._half_stream_window:
            self.sending.control(frames.window_update(stream_id, self.limits.stream_window - left))
            stream.receive_window = self.limits.stream_window
        if stream.content_left is not None:
            self._count_content(stream, len(payload))
        self._receiver.on_data(stream, payload, ended)

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
        ended = flags & END_STREAM != 0
        stream = Stream(stream_id, fields, limits.stream_window, self.sending.initial_window, ended)
        if not self._is_table_refused and stream_id > _CALLS_WITH_TABLE:
            self._refuse_table()
        if fields.content_length is not None:
            self._count_content(stream, 0)
        self.streams[stream_id] = stream
        self._receiver.on_request(stream, b"", ended)

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
        self._receiver.on_data(stream, b"", True)

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
        self._receiver.on_reset(stream)

    def _receive_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.5."""
        self._spend_on_windows()
        if stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with ACK is empty")
            if self._expected is not None:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "the first SETTINGS has no ACK")
            # Of one that nobody asked for, the RFC says nothing.
            self._unacknowledged = max(0, self._unacknowledged - 1)
            if self._is_table_refused and self._unacknowledged == 0:
                self._fields.forbid_table()
            return
        if len(payload) % _SETTING_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS has 6 bytes for each setting")
        self._expected = None
        self.take_steps(self._change_settings(payload))

    def _change_settings(self, payload: bytes) -> Iterator[None]:
        """One by one: some change what all streams have."""
        for setting, value in frames.parse_settings(payload):
            self._change_setting(setting, value)
            self.count_effort(1)
            yield None
        self.sending.control(frames.SETTINGS_ACK)
        self.sending.pump()  # After the ACK: it tells from where on the new windows hold.

    def _change_setting(self, setting: int, value: int) -> None:
        """§6.5.2. Those that are not named here do not concern a server that does not push."""
        if setting == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1")
        if setting == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFailure(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE too large"
                )
            if value != self.sending.initial_window:
                self._idle_frames.spend(len(self.streams) // _STREAMS_PER_FRAME)
                self.count_effort(len(self.streams) // _STREAMS_PER_STEP)
                self.sending.change_initial_window(value, list(self.streams.values()))
        elif setting == Setting.MAX_FRAME_SIZE:
            if not frames.SMALLEST_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            self.sending.change_max_frame(value)
        elif setting == Setting.HEADER_TABLE_SIZE:
            self.sending.change_table_size(value)

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
            self._receiver.on_ping(payload)
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
        self._spend_on_windows()
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

    def _spend_on_windows(self) -> None:
        """On a frame that may change them, and on what those before it have let out."""
        sending = self.sending
        self._idle_frames.spend(1 + sending.splinters)
        sending.splinters = 0

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
#: Taken from one peer before the loop turns to the others.
FRAMES_AT_ONCE: Final = 128
#: Fields that are decoded, settings, and messages within a frame: so many take a few milliseconds at most.
_STEPS_AT_ONCE: Final = 256
_PRIORITY_BYTES: Final = 5
_CODE_BYTES: Final = 4
_SETTING_BYTES: Final = 6
_PING_BYTES: Final = 8
_GOAWAY_BYTES: Final = 8
# Streams whose windows change in the time of another frame, or step.
_STREAMS_PER_FRAME: Final = 64
_STREAMS_PER_STEP: Final = 16
#: In stream identifiers, of which every second is a call.
_CALLS_WITH_TABLE: Final = 16
