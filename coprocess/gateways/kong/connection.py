"""One of Kong's connections: values in, frames out."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from typing import Any

from coprocess.gateways.kong.wire import Reader, packer

#: How long one read waits. The kernel sees to it, which costs no call of its own.
READ_WAIT_S = 0.2
#: Kong reads what it asked for at once: who does not take it for so long is gone.
_SEND_WAIT_S = 15.0
#: Nearly every message is smaller. Room for more takes longer to make than the message to read.
_CHUNK_BYTES = 4096
_LARGE_CHUNK_BYTES = 2**18


class ConnectionLost(OSError):
    """The other side has closed it."""


class Connection:
    """Read by one thread at a time: whoever holds it. Frames are sent by whoever owes the answer."""

    __slots__ = ("_next", "_receive", "_send", "awaits", "pack", "socket", "values")

    def __init__(self, connected: socket.socket, max_frame_bytes: int) -> None:
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_WAIT_S))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SEND_WAIT_S))
        self.socket = connected
        self._receive, self._send = connected.recv, connected.send
        self._next = Reader(max_frame_bytes).next_of
        #: For whoever owes the answer.
        self.pack = packer()
        #: Came in one read with those that were taken.
        self.values: deque[Any] = deque()
        #: The event whose step should have been next here, and has not come yet.
        self.awaits: int | None = None

    def receive(self) -> Any:
        """The next value.

        Raises BlockingIOError where none comes for a while, FrameError for what is none, and OSError where
        the connection is gone.
        """
        values = self.values
        if values:
            return values.popleft()
        data = self._receive(_CHUNK_BYTES)
        while True:
            if not data:
                raise ConnectionLost("closed by Kong")
            value = self._next(data, values)
            if value is not None:
                return value
            data = self._receive(_LARGE_CHUNK_BYTES)

    def receive_now(self) -> Any:
        """As `receive`, without any waiting."""
        if self.values:
            return self.values.popleft()
        data = self.socket.recv(_LARGE_CHUNK_BYTES, socket.MSG_DONTWAIT)
        if not data:
            raise ConnectionLost("closed by Kong")
        value = self._next(data, self.values)
        if value is None:
            raise BlockingIOError
        return value

    def has_something(self, wait_s: float) -> bool:
        """Whether `receive` would give something, or has begun to, within that time."""
        if self.values:
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def send(self, frame: bytes) -> None:
        """Raises OSError where the other side is gone, or does not read."""
        sent = self._send(frame)
        if sent != len(frame):
            self._send_rest(memoryview(frame)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[self._send(rest) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def end(self) -> None:
        """As `close`, for whoever does not hold it: the holder finds it gone."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1e6))
