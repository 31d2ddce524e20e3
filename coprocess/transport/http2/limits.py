"""What one connection may use, in bytes, streams and time, and all together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each connection, but where it is said. A time of 0: no limit."""

    max_message_bytes: int = 4 * 1024 * 1024
    #: Of one call's header fields, as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
    max_metadata_bytes: int = 16_384
    max_concurrent_streams: int = 10_000
    #: Messages, whole and in parts, of calls that have not ended.
    max_held_bytes: int = 128 * 1024 * 1024
    #: Replies that the peer does not read.
    max_unsent_bytes: int = 128 * 1024 * 1024
    #: The same of one stream of replies: `send` refuses more.
    max_unsent_stream_bytes: int = 1024 * 1024
    #: Messages and replies of all connections: where they are more, each has an equal part (`share.py`).
    max_bytes_together: int = 1024 * 1024 * 1024
    #: What a peer may send before it has to wait for a WINDOW_UPDATE.
    connection_window: int = 16 * 1024 * 1024
    stream_window: int = 1024 * 1024
    #: Frames that bring nothing forward, as PING, SETTINGS, resets, and empty ones: how many at once, how
    #: many a second from then on, and how many more for each call that is answered.
    idle_frames: int = 10_000
    idle_frames_per_s: int = 1_000
    idle_frames_per_call: int = 4
    #: From the connection's start to the first SETTINGS, and from the first byte of a frame, or of a header
    #: block, to its last.
    frame_timeout_s: float = 30.0
    #: From a unary call's headers to the end of its message.
    request_timeout_s: float = 120.0
    #: Without a byte being read, or let out by a window, of a peer that has answers waiting.
    unread_timeout_s: float = 60.0
    #: Without a byte from the peer, until it is asked for a sign of life; and until that must be there.
    keepalive_s: float = 300.0
    keepalive_timeout_s: float = 20.0
    #: Without a call.
    idle_s: float = 0.0
    #: Gateways connect anew then, and so spread over servers. A tenth more or less, as chance has it.
    max_age_s: float = 0.0
    #: For the calls of a connection that is too old.
    age_grace_s: float = 60.0


class IdleFrames:
    """How many frames that bring nothing forward a peer may still send: a token bucket.

    One for all their kinds: rapid resets, floods of PING, SETTINGS, PRIORITY and WINDOW_UPDATE, and empty
    frames.
    """

    __slots__ = ("_clock", "_earned", "_last_s", "_left", "_limits")

    def __init__(self, limits: Limits, earned: Callable[[], int], clock: Callable[[], float]) -> None:
        """`earned` gives how many calls were answered since it was asked last."""
        self._limits = limits
        self._earned = earned
        self._left = float(limits.idle_frames)
        self._clock = clock
        self._last_s = clock()

    def spend(self, count: int = 1) -> None:
        """Raises ConnectionFailure where there were too many."""
        self._left -= count
        if self._left < 0:
            now_s = self._clock()
            earned = (now_s - self._last_s) * self._limits.idle_frames_per_s
            earned += self._earned() * self._limits.idle_frames_per_call
            self._left = min(self._left + earned, self._limits.idle_frames)
            self._last_s = now_s
            if self._left < 0:
                raise ConnectionFailure(
                    ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing forward"
                )
