"""Frames that carry no request: priority, resets, settings, PING, GOAWAY, windows (RFC 9113 §6.3 to §6.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from coprocess.transport.http2 import frames
from coprocess.transport.http2.connection_life import ConnectionLife
from coprocess.transport.http2.fields import FieldDecoder
from coprocess.transport.http2.frames import (
    ACK,
    LOWER_31_BITS,
    ConnectionFailure,
    ErrorCode,
    Setting,
    StreamFailure,
)
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.streams import Receiver


class ControlFrames(ConnectionLife):
    """What they change, and how much of all frames is taken at once."""

    def __init__(self, limits: Limits, receiver: Receiver, clock: Callable[[], float]) -> None:
        super().__init__(limits, receiver, clock)
        #: There are more frames: others should have their turn first.
        self.is_behind = False
        #: Taken from this peer before the loop turns to the others.
        self.frames_at_once = FRAMES_AT_ONCE
        self._effort = 0
        #: Of `take_steps`: those that are left.
        self._steps: Iterator[None] | None = None
        self._fields = FieldDecoder(limits.max_metadata_bytes, self.count_effort)
        #: The frame that must come next: its type and stream.
        self._expected: tuple[int, int] | None = (frames.SETTINGS, 0)
        #: SETTINGS of ours that have no ACK yet.
        self._unacknowledged = 0
        #: Whether the last of them said SETTINGS_HEADER_TABLE_SIZE 0.
        self._is_table_refused = False

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

    def count_effort(self, steps: int) -> None:
        """Of a frame with many steps: not as many of them are taken at once as of others."""
        self._effort += steps
        if self._effort > self.frames_at_once * _STEPS_PER_FRAME:
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

    def _refuse_table(self) -> None:
        """Ask for blocks that are the same each time, where this one is another.

        Who has put nothing into its table is not asked: it knows no others. And some that never do, as .NET's
        client, would not begin the next with the change of its size that must come (§4.3.1).
        """
        if self._fields.table.is_used:
            self._is_table_refused = True
            self._unacknowledged += 1
            self.sending.control(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))

    def _receive_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.3: deprecated. It is checked, and ignored."""
        self._idle_frames.spend()
        if stream_id == 0:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != PRIORITY_BYTES:
            raise StreamFailure(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        self._check_priority(stream_id, payload)

    @staticmethod
    def _check_priority(stream_id: int, payload: bytes) -> None:
        """RFC 7540 §5.3.1, of which RFC 9113 says no more; h2spec asks for it."""
        if int.from_bytes(payload[:4], "big") & LOWER_31_BITS == stream_id:
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

    def _receive_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        """§6.4."""
        self._idle_frames.spend()
        if len(payload) != _CODE_BYTES:
            raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.ids.check_not_idle(stream_id)
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
        self._idle_frames.spend(len(payload) // _USUAL_SETTINGS_BYTES)
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
            self.ids.check_not_idle(stream_id)
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


PRIORITY_BYTES: Final = 5
_CODE_BYTES: Final = 4
_SETTING_BYTES: Final = 6
#: There are six that we know of. Further ones take time, too.
_USUAL_SETTINGS_BYTES: Final = 16 * _SETTING_BYTES
_PING_BYTES: Final = 8
_GOAWAY_BYTES: Final = 8
#: They take half a millisecond, or two where each is a call.
FRAMES_AT_ONCE: Final = 128
#: Of a peer that asks for more than its share.
FEWER_FRAMES_AT_ONCE: Final = 32
#: Fields that are decoded, settings, and messages within a frame: so many in the place of a frame. 256 take a
#: few milliseconds at most.
_STEPS_PER_FRAME: Final = 2
# Streams whose windows change in the time of another frame, or step.
_STREAMS_PER_FRAME: Final = 64
_STREAMS_PER_STEP: Final = 16
