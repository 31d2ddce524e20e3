"""The sending half of a connection: frames, and DATA that waits for windows (RFC 9113 §5.2, §6.9)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Final

from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode, StreamFailure
from coprocess.transport.http2.streams import Stream

#: `Sending.batch_bytes`, where others wait for nothing meanwhile.
BATCH_BYTES: Final = 1024 * 1024


class Block:
    """An encoded field section that uses no dynamic table, so that it is the same for every stream."""

    __slots__ = ("data", "ending_prefix", "pack", "pack_with_message", "prefix")

    def __init__(self, data: bytes) -> None:
        self.data = data
        #: A HEADERS frame's first bytes, up to the stream's identifier; and with END_STREAM.
        self.prefix = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, data)[:5]
        self.ending_prefix = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, data)[:5]
        size = len(data)
        #: Make the frame, of one of them, the stream's identifier and `data`; the second with what
        #: `_MESSAGE_START` has behind it. One piece is written sooner than many.
        self.pack = Struct(f">5sL{size}s").pack
        self.pack_with_message = Struct(f">5sL{size}sLBLBL").pack


#: In the place of trailers: the stream ends with its DATA.
NO_TRAILERS = Block(b"")


class Sending:
    """`ended` is told of each stream that has sent its END_STREAM."""

    def __init__(self, ended: Callable[[Stream], None]) -> None:
        self._ended = ended
        #: Answers, and DATA frames of use, since `take_useful`.
        self._useful = 0
        #: Small parts of what waits: the peer lets out byte by byte what it could take at once.
        self.splinters = 0
        self._output: list[bytes | memoryview] = []
        #: Streams with DATA and a window of their own, in turn; perhaps some that were forgotten since.
        self.ready: deque[Stream] = deque()
        self._forgotten = 0
        self.window = frames.FIRST_WINDOW
        # The peer's settings.
        self.initial_window = frames.FIRST_WINDOW
        self.max_frame = frames.SMALLEST_MAX_FRAME
        #: What is sent in one piece at most; -1: the next field section must begin with `_NO_TABLE`.
        self._longest_at_once = self.max_frame
        self._table_size = _FIRST_TABLE_SIZE
        #: DATA bytes that are handed to the transport at one time, as of the next: it says afterwards whether
        #: the peer reads them. And those that may still go into the output.
        self.batch_bytes = self._room = BATCH_BYTES
        self._is_writable = True
        #: DATA that waits, of all streams.
        self.unsent_bytes = 0
        #: How many frames of what had waited were sent.
        self.late_frames = 0

    def take(self) -> bytes:
        """What is to be written now."""
        output = self._output
        if not output:
            return b""
        data = b"".join(output)
        output.clear()
        if self._is_writable:
            self._room = self.batch_bytes
        return data

    def take_useful(self) -> int:
        useful, self._useful = self._useful, 0
        return useful

    def set_writable(self, is_writable: bool) -> None:
        """Whether the transport takes more DATA: all other frames it must take."""
        self._is_writable = is_writable
        self._room = self.batch_bytes if is_writable else 0
        self.pump()

    def control(self, frame: bytes) -> None:
        self._output.append(frame)

    def message(self, stream: Stream, headers: Block | None, message: bytes, trailers: Block | None) -> None:
        """DATA with one message of gRPC, behind the header fields and before the trailers, where given.

        With both it is a whole response; without trailers, more is to come.
        """
        size = len(message)
        length = size + _MESSAGE_PREFIX_BYTES
        if (
            length > self._longest_at_once
            or length > self.window
            or length > stream.send_window
            or length > self._room
            or stream.outgoing
        ):
            if headers is not None:
                self.headers(stream, headers)
            # It may be large: a copy of its start is enough to put the prefix before it.
            first = self.max_frame - _MESSAGE_PREFIX_BYTES
            self.data(stream, b"\0" + size.to_bytes(4, "big") + message[:first])
            self.data(stream, memoryview(message)[first:])
            if trailers is not None:
                self.trailers(stream, trailers)
            return
        self.window -= length
        self._room -= length
        self._useful += 1
        stream_id = stream.id
        if headers is None:
            start = _MESSAGE_START.pack(length << 8, 0, stream_id, 0, size)
        else:
            start = headers.pack_with_message(
                headers.prefix, stream_id, headers.data, length << 8, 0, stream_id, 0, size
            )
        if trailers is None:
            stream.send_window -= length
            self._output += (start, message)
            return
        end = trailers.pack(trailers.ending_prefix, stream_id, trailers.data)
        self._output += (start, message, end)
        self._ended(stream)

    def headers(self, stream: Stream, block: Block) -> None:
        if len(block.data) <= self._longest_at_once:
            self._output.append(block.pack(block.prefix, stream.id, block.data))
        else:
            self._large_headers(stream, block.data, 0)

    def _large_headers(self, stream: Stream, block: bytes, flags: int) -> None:
        """HEADERS and CONTINUATION (§6.10)."""
        if self._longest_at_once < 0:
            self._longest_at_once = self.max_frame
            block = _NO_TABLE + block
        kind = frames.HEADERS
        while len(block) > self.max_frame:
            self._output.append(frames.frame(kind, flags, stream.id, block[: self.max_frame]))
            kind, flags, block = frames.CONTINUATION, 0, block[self.max_frame :]
        self._output.append(frames.frame(kind, frames.END_HEADERS | flags, stream.id, block))

    def data(self, stream: Stream, data: bytes | memoryview) -> None:
        length = len(data)
        if not length:
            return
        if not stream.outgoing:
            if (
                length <= self._longest_at_once
                and length <= self.window
                and length <= stream.send_window
                and length <= self._room
            ):
                # Most are small, and go out at once.
                self.window -= length
                self._room -= length
                self._useful += 1
                stream.send_window -= length
                self._output += (frames.FRAME_START.pack(length << 8, 0, stream.id), data)
                return
            if stream.outgoing is None:
                stream.outgoing, stream.trailers, stream.is_ready = deque(), None, False
        stream.outgoing.append(data)
        stream.unsent_bytes += length
        self.unsent_bytes += length
        self._make_ready(stream)
        self.pump()

    def trailers(self, stream: Stream, block: Block) -> None:
        """After the DATA that waits."""
        if stream.outgoing:
            stream.trailers = block
            return
        if block is NO_TRAILERS:
            self._output.append(frames.frame(frames.DATA, frames.END_STREAM, stream.id))
        elif len(block.data) <= self._longest_at_once:
            self._output.append(block.pack(block.ending_prefix, stream.id, block.data))
        else:
            self._large_headers(stream, block.data, frames.END_STREAM)
        self._useful += 1
        self._ended(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what a stream has waiting."""
        if stream.outgoing:
            stream.outgoing.clear()
            self.unsent_bytes -= stream.unsent_bytes
            stream.unsent_bytes = 0
            if stream.is_ready:
                self._drop_forgotten()

    def _drop_forgotten(self) -> None:
        """One more was forgotten. They would be many, where the peer gives the connection no window."""
        self._forgotten += 1
        if self._forgotten > _FEW and self._forgotten > len(self.ready) >> 1:
            self.ready = deque(stream for stream in self.ready if stream.outgoing)
            self._forgotten = 0

    def widen(self, stream: Stream | None, increment: int) -> None:
        """WINDOW_UPDATE, of a stream or of the connection (§6.9.1)."""
        if stream is None:
            if self.window + increment > frames.MAX_WINDOW:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflows")
            self.window += increment
        else:
            if stream.send_window + increment > frames.MAX_WINDOW:
                raise StreamFailure(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
            stream.send_window += increment
            self._make_ready(stream)
        self.pump()

    def change_max_frame(self, size: int) -> None:
        """SETTINGS_MAX_FRAME_SIZE."""
        self.max_frame = size
        if self._longest_at_once >= 0:
            self._longest_at_once = size

    def change_table_size(self, size: int) -> None:
        """SETTINGS_HEADER_TABLE_SIZE. Who gives less than before must be told that it is so (§4.3.1)."""
        if size < self._table_size:
            self._longest_at_once = -1
        self._table_size = size

    def change_initial_window(self, size: int, streams: list[Stream]) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE changes the windows of open streams, too (§6.9.2).

        To be followed by `pump`.
        """
        difference, self.initial_window = size - self.initial_window, size
        for stream in streams:
            stream.send_window += difference
            if stream.send_window > frames.MAX_WINDOW:
                raise ConnectionFailure(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
            self._make_ready(stream)

    def _make_ready(self, stream: Stream) -> None:
        if stream.outgoing and stream.send_window > 0 and not stream.is_ready:
            stream.is_ready = True
            self.ready.append(stream)

    def pump(self) -> None:
        """Send DATA, a frame of each stream in turn, as far as windows and the transport allow.

        Where streams are `ready` still, it is to be called again once that is written.
        """
        ready = self.ready
        while ready and self.window > 0 and self._room > 0:
            stream = ready.popleft()
            stream.is_ready = False
            outgoing = stream.outgoing
            if not outgoing:
                self._forgotten -= 1
                continue
            if stream.send_window <= 0:
                continue
            chunk = outgoing.popleft()
            length = min(len(chunk), self.max_frame, self.window, stream.send_window, self._room)
            if length < len(chunk):
                rest = memoryview(chunk)
                chunk = rest[:length]
                outgoing.appendleft(rest[length:])
            self._output += (frames.FRAME_START.pack(length << 8, 0, stream.id), chunk)
            self.window -= length
            # Each takes time, however small: thousands would go out at once, where windows are of a byte.
            self._room -= max(length, _LEAST_ROOM)
            self.late_frames += 1
            self.unsent_bytes -= length
            stream.send_window -= length
            stream.unsent_bytes -= length
            if length >= _USEFUL_BYTES or not isinstance(chunk, memoryview):
                self._useful += 1
            elif outgoing:
                self.splinters += 1
            if outgoing:
                self._make_ready(stream)
            elif stream.trailers is not None:
                self.trailers(stream, stream.trailers)


_USEFUL_BYTES: Final = 1024
#: What a small DATA frame takes of the room for those that are handed over at one time.
_LEAST_ROOM: Final = 16_384
_FEW: Final = 64
_FIRST_TABLE_SIZE: Final = 4096
#: A "Dynamic Table Size Update" to 0 (RFC 7541 §6.3), as nothing is ever put into the table.
_NO_TABLE: Final = b"\x20"
#: Of DATA: its length and type, flags, the stream's identifier; then the message's prefix.
_MESSAGE_START = Struct(">LBLBL")
_MESSAGE_PREFIX_BYTES: Final = 5
