"""Frames on their way to a worker process: sending them waits for nothing, whatever the worker does."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections import deque

from coprocess.transport.pipe import HEAD

#: What may be kept for a worker that does not keep up. They are the messages of calls that are held anyway.
MAX_UNSENT_BYTES = 64 * 2**20

_CHUNK_BYTES = 256 * 1024
#: Up to here, one copy of it costs less than to send it in parts.
_COPIED_BYTES = 64 * 1024
_INT = struct.Struct("i")


class Outbox:
    """Sends what the socket takes at once; a thread sends the rest, as the other side reads it."""

    def __init__(self, connected: socket.socket, name: str) -> None:
        """`name` is the thread's."""
        self._socket = connected
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._sent_bytes = 0
        self._closed = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._send_rest, name=name, daemon=True)
        self._thread.start()

    def put(self, call_id: int, kind: int, *body: bytes, keep: bool = False) -> bool:
        """Send a frame, now or later. False where too much waits already, or nobody reads any more.

        A frame is taken, whatever its size, where nothing waits; with `keep`, in any case.
        """
        size = sum(map(len, body))
        parts: tuple[bytes, ...] = (HEAD.pack(size, call_id, kind), *body)
        size += HEAD.size
        if size <= _COPIED_BYTES:
            parts = (b"".join(parts),)
        with self._lock:
            if self._closed:
                return False
            sent = 0
            if not self._unsent:
                try:
                    if len(parts) == 1:
                        sent = self._socket.send(parts[0], socket.MSG_DONTWAIT)
                    else:
                        sent = self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    return False
                self._sent_bytes += sent
                if sent == size:
                    return True
            elif self._unsent_bytes + size > MAX_UNSENT_BYTES and not keep:
                return False
            self._unsent_bytes += size - sent
            for part in parts:
                if sent < len(part):
                    self._unsent.append(memoryview(part)[sent:])
                sent = max(0, sent - len(part))
            self._changed.notify()
        return True

    def _send_rest(self) -> None:
        while True:
            with self._lock:
                while not self._unsent and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                chunk = self._unsent[0][:_CHUNK_BYTES]
            try:
                sent = self._socket.send(chunk)
            except OSError:
                self._give_up()
                return
            with self._lock:
                self._sent_bytes += sent
                self._unsent_bytes -= sent
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                else:
                    self._unsent.popleft()

    def _give_up(self) -> None:
        with self._lock:
            self._closed = True
            self._unsent.clear()
            self._unsent_bytes = 0
            self._changed.notify()

    def read_and_unread_bytes(self) -> tuple[int, int]:
        """What the other side has read since the start, and what is still to be read."""
        with self._lock:
            in_kernel = 0
            # Not every platform tells.
            with contextlib.suppress(OSError):
                (in_kernel,) = _INT.unpack(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(_INT.size)))
            return self._sent_bytes - in_kernel, in_kernel + self._unsent_bytes

    def close(self) -> None:
        """Drop what is unsent, and end the thread. The socket must have been shut down."""
        self._give_up()
        self._thread.join()
