"""One of Kong's connections: values in, frames out."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from typing import Any

from coprocess.gateways.kong.wire import FrameError, Reader, packer

#: How long one read waits. The kernel sees to it, which costs no call of its own.
READ_WAIT_S = 0.2
#: Kong reads what it asked for at once: who does not take it for so long is gone.
_SEND_WAIT_S = 15.0
_CHUNK_BYTES = 65536


class ConnectionLost(OSError):
    """The other side has closed it."""


class Connection:
    """Read by one thread at a time: whoever holds it. Frames are sent by whoever owes the answer."""

    __slots__ = ("_reader", "_receive", "_send", "awaits", "pack", "socket", "values")

    def __init__(self, connected: socket.socket, max_frame_bytes: int) -> None:
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_WAIT_S))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SEND_WAIT_S))
        self.socket = connected
        self._receive, self._send = connected.recv, connected.send
        self._reader = Reader(max_frame_bytes)
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
        if self.values:
            return self.values.popleft()
        while True:
            data = self._receive(_CHUNK_BYTES)
            if not data:
                raise ConnectionLost("closed by Kong")
            values = self._reader.feed(data)
            if len(values) == 1 and values[0] is not None:
                return values[0]  # Nearly always.
            if values:
                return self._taken(values)

    def receive_now(self) -> Any:
        """As `receive`, without any waiting."""
        if self.values:
            return self.values.popleft()
        data = self.socket.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
        if not data:
            raise ConnectionLost("closed by Kong")
        return self._taken(self._reader.feed(data))

    def _taken(self, values: list[Any]) -> Any:
        if not values:
            raise BlockingIOError
        if None in values:
            raise FrameError("nil is no message")
        self.values.extend(values[1:])
        return values[0]

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
