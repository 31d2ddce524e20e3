"""Which streams there were: what tells a late frame from one that never could be (RFC 9113 §5.1, §5.1.1)."""

from __future__ import annotations

from collections import deque

from coprocess.transport.http2 import frames
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode


class StreamIds:
    """Of one connection; how many are remembered is bounded."""

    __slots__ = ("_closed", "_ignored", "_ignored_in_order", "_most_ignored", "closed", "highest", "last")

    def __init__(self, max_concurrent_streams: int) -> None:
        #: That the peer has opened.
        self.highest = 0
        #: Streams above are not accepted any more: a GOAWAY said so.
        self.last = frames.MAX_STREAM_ID
        #: Closed by us, so that the peer may still send on them for a while.
        self._ignored: set[int] = set()
        # Not a dict: to find its first key, it goes through those that were deleted.
        self._ignored_in_order: deque[int] = deque()
        # All that are open at one time may be closed by us, and the peer not have heard of it yet.
        self._most_ignored = max(max_concurrent_streams, _REMEMBERED)
        #: Those closed last.
        self._closed: deque[int] = deque(maxlen=_REMEMBERED)
        #: To be called with each.
        self.closed = self._closed.append

    def accept_no_more(self) -> int:
        """The last that is accepted."""
        self.last = min(self.last, self.highest)
        return self.last

    def ignore(self, stream_id: int) -> None:
        """Have late frames on it pass."""
        if stream_id in self._ignored:
            return
        self._ignored.add(stream_id)
        self._ignored_in_order.append(stream_id)
        if len(self._ignored_in_order) > self._most_ignored:
            self._ignored.discard(self._ignored_in_order.popleft())

    def is_idle(self, stream_id: int) -> bool:
        """Or none that a client may open."""
        return stream_id > self.highest or not stream_id & 1

    def check_not_idle(self, stream_id: int) -> None:
        if self.is_idle(stream_id):
            raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a frame on stream 0, or on an idle stream")

    def check_late_frame(self, stream_id: int) -> None:
        """Of a stream that is not open. Raises ConnectionFailure where nothing may come on it."""
        self.check_not_idle(stream_id)
        if stream_id not in self._ignored:
            raise ConnectionFailure(ErrorCode.STREAM_CLOSED, "a frame on a closed stream")

    def check_late_headers(self, stream_id: int) -> None:
        """Of HEADERS that open no stream. Raises as `check_late_frame`."""
        if stream_id in self._ignored:
            return
        if stream_id in self._closed:
            raise ConnectionFailure(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "a stream's identifier must be odd, and rise")


_REMEMBERED = 1024
