"""One of Kong's connections: values in, frames out."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import deque
from typing import Any

from msgpack import unpackb

from coprocess.gateways.kong.wire import STEP, Reader, no_extension, packer

#: How long one read waits. The kernel sees to it, which costs no call of its own.
READ_WAIT_S = 0.2
#: Kong reads what it asked for at once: who does not take it for so long is gone.
_SEND_WAIT_S = 15.0
#: For the whole of a frame: it reads on for so long at a time, at most.
_SEND_S = 60.0
#: How long a value that comes in pieces is read at one go: whoever sends bit by bit keeps no thread.
_PIECES_S = 1.0
#: Nearly every message is smaller. Room for more takes longer to make than the message to read.
CHUNK_BYTES = 4096
_LARGE_CHUNK_BYTES = 2**18
#: In so many, the method of a request stands.
_HEAD_BYTES = 32


class ConnectionLost(OSError):
    """The other side has closed it."""


class Connection:
    """Read by one thread at a time: whoever holds it. Frames are sent by whoever owes the answer."""

    __slots__ = ("_reader", "awaits", "is_within", "pack", "read", "socket", "values", "write")

    def __init__(self, connected: socket.socket, max_frame_bytes: int) -> None:
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(READ_WAIT_S))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(_SEND_WAIT_S))
        self.socket = connected
        #: As a socket's `recv`.
        self.read = connected.recv
        #: As a socket's `send`: it may take a part alone. See `send`.
        self.write = connected.send
        self._reader = Reader(max_frame_bytes)
        #: Whether a part of a value has come, and the rest has not.
        self.is_within = False
        #: For whoever owes the answer.
        self.pack = packer()
        #: Came in one read with those that were taken.
        self.values: deque[Any] = deque()
        #: The event whose step should have been next here, and has not come yet.
        self.awaits: int | None = None

    def receive(self) -> Any:
        """The next value.

        Raises BlockingIOError where none comes for a while, or not all of it, FrameError for what is none,
        and OSError where the connection is gone.
        """
        if self.values:
            return self.values.popleft()
        return self.value_of(self.read(CHUNK_BYTES))

    def value_of(self, data: bytes) -> Any:
        """As `receive`, where `data` has been read."""
        until_s = 0.0
        while True:
            value = self._first_of(data)
            if value is not None:
                return value
            now_s = time.monotonic()
            until_s = until_s or now_s + _PIECES_S
            if now_s > until_s:
                raise BlockingIOError
            data = self.read(_LARGE_CHUNK_BYTES)

    def _first_of(self, data: bytes) -> Any:
        """The value that `data` completes; None: it does not."""
        if not self.is_within:
            try:
                # Nearly always one read is one value, of UTF-8 and with text for keys: what is not is read
                # once more. To tell of all that a Reader does takes as long as to read the value.
                value = unpackb(data, ext_hook=no_extension)
            except Exception:  # noqa: BLE001, S110 - as above; the reader says what it is
                pass
            else:
                if value is not None:
                    return value
        if not data:
            raise ConnectionLost("closed by Kong")
        value = self._reader.next_of(data, self.values)
        self.is_within = self._reader.is_within
        return value

    def receive_now(self) -> Any:
        """As `receive`, without any waiting."""
        if self.values:
            return self.values.popleft()
        value = self._first_of(self.socket.recv(_LARGE_CHUNK_BYTES, socket.MSG_DONTWAIT))
        if value is None:
            raise BlockingIOError
        return value

    def begins_step(self) -> bool:
        """Whether what has come, and is not read, begins as a step does."""
        if self.values or self.is_within:
            return False
        try:
            came = self.socket.recv(_HEAD_BYTES, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except OSError:
            return False
        return STEP.encode() in came

    def has_something(self, wait_s: float) -> bool:
        """Whether `receive` would give something, or has begun to, within that time."""
        if self.values:
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))

    def send(self, frame: bytes) -> None:
        """Raises OSError where the other side is gone, or does not read."""
        if (sent := self.write(frame)) != len(frame):
            self.send_rest(frame, sent)

    def send_rest(self, frame: bytes, sent: int) -> None:
        """As `send`, where so many bytes have been sent."""
        rest, until_s = memoryview(frame)[sent:], time.monotonic() + _SEND_S
        while rest:
            if time.monotonic() > until_s:
                raise ConnectionLost("Kong does not read")
            rest = rest[self.write(rest) :]

    def send_now(self, frame: bytes) -> None:
        """Send what the other side has room for, as it has read all before it; else end the connection.

        For threads that others wait for.
        """
        try:
            is_sent = self.socket.send(frame, socket.MSG_DONTWAIT) == len(frame)
        except OSError:
            is_sent = False
        if not is_sent:
            self.end()

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
