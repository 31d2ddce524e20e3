"""Frames between the front process and a worker process: read by the thread that polls, and sent in batches.

All that one read brings is handed over at once, and all that is sent before the next poll goes by one write.
So neither side needs a thread more for them, and sending waits for nothing, whatever the other side does.

A frame is a head, `<IQB`: length of the body, call id, kind; and the body. See `pipe` for the kinds.
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
import termios
import threading
from collections.abc import Callable
from itertools import islice

import structlog

from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.server import Server

log = structlog.get_logger("coprocess")

HEAD = struct.Struct("<IQB")
#: Call id, kind, body.
Frame = tuple[int, int, bytes]

#: What may be kept for a side that does not keep up. They are the messages of calls that are held anyway.
MAX_UNSENT_BYTES = 64 * 2**20


class FrameLink:
    """One side's end of a connected stream socket."""

    def __init__(
        self,
        server: Server,
        connected: socket.socket,
        received: Callable[[list[Frame]], None],
        ended: Callable[[], None],
    ) -> None:
        """The thread that polls `server` calls both: `received` with its lock; last, `ended` without it."""
        self._server = server
        self._socket = connected
        self._received = received
        self._ended = ended
        #: What has come of a frame, and how long it is to be, as far as that is known.
        self._rest = bytearray()
        self._missing_until = 0
        self._unsent: list[bytes | memoryview] = []
        self._unsent_bytes = self._sent_bytes = 0
        self._is_full = self._is_over = False
        #: In the server's list of those that have something to write.
        self.is_dirty = False
        connected.setblocking(False)
        server.watch_other(connected, self.ready)

    def send(
        self, call_id: int, kind: int, body: bytes, *, keep: bool = False, at_once: bool = False
    ) -> bool:
        """Send a frame, now or later, from any thread. False where too much waits already, or all is over.

        A frame is taken, whatever its size, where nothing waits; with `keep`, in any case. `at_once`: also by
        the thread that polls, which else sends it with what comes before its next poll.
        """
        frame = (HEAD.pack(len(body), call_id, kind), body)
        taken: bool = self._server.answer(self, self.put, frame, keep, at_once=at_once)
        return taken

    def end(self) -> None:
        """End both directions: what has come is handed over, and then `ended` is called."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket. Nothing is handed over any more."""
        self.end()
        with self._server.lock:
            self._finish()
            self._socket.close()

    def read_and_unread_bytes(self) -> tuple[int, int]:
        """What the other side has read since the start, and what is still to be read."""
        with self._server.lock:
            in_kernel = 0
            # Not every platform tells.
            with contextlib.suppress(OSError):
                (in_kernel,) = _INT.unpack(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(_INT.size)))
            return self._sent_bytes - in_kernel, in_kernel + self._unsent_bytes

    # With the server's lock.

    def put(self, frame: tuple[bytes, bytes], keep: bool = False) -> bool:
        """As `send`, without writing: the head, to which the body's start may be added, and the body."""
        if self._is_over:
            return False
        unsent_bytes = self._unsent_bytes + len(frame[0]) + len(frame[1])
        if unsent_bytes > MAX_UNSENT_BYTES and self._unsent_bytes and not keep:
            return False
        self._unsent += frame
        self._unsent_bytes = unsent_bytes
        if not self.is_dirty:
            self._server.write_later(self)
        return True

    def ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self._is_full:
            self._send_unsent()
        if events & selectors.EVENT_READ and not self._is_over:
            self._read()

    def write(self) -> None:
        self.is_dirty = False
        if self._unsent and not self._is_full:
            self._send_unsent()

    def close_if_done(self) -> None:
        """Only its owner closes it."""

    def _send_unsent(self) -> None:
        unsent = self._unsent
        while unsent:
            if len(unsent) > 1 and self._unsent_bytes <= _COPIED_BYTES:
                unsent[:] = [b"".join(unsent)]
            try:
                if len(unsent) == 1:
                    sent = self._socket.send(unsent[0])
                else:
                    sent = self._socket.sendmsg(islice(unsent, _MOST_PARTS))
            except (BlockingIOError, InterruptedError):
                self._wait_for_room(True)
                return
            except OSError:  # Reading finds that it is over.
                self._forget_unsent()
                return
            self._sent_bytes += sent
            self._unsent_bytes -= sent
            done = 0
            while done < len(unsent) and sent >= len(unsent[done]):
                sent -= len(unsent[done])
                done += 1
            del unsent[:done]
            if sent:
                unsent[0] = memoryview(unsent[0])[sent:]
        self._wait_for_room(False)

    def _wait_for_room(self, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = is_full
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_full else 0)
            self._server.watch_other(self._socket, self.ready, events)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            try:
                if frames := self._frames_of(data):
                    self._received(frames)
            except Exception:  # A fault of ours ends one link, and whoever has calls on it is told.
                log.exception("frames could not be taken")
            else:
                return
        self._finish()
        self._server.callbacks.append(self._ended)

    def _frames_of(self, data: bytes) -> list[Frame]:
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._missing_until:
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        begin, length, unpack = 0, len(data), HEAD.unpack_from
        start = _HEAD_BYTES
        while start <= length:
            size, call_id, kind = unpack(data, begin)
            end = start + size
            if end > length:
                break
            frames.append((call_id, kind, data[start:end]))
            begin, start = end, end + _HEAD_BYTES
        if begin < length:
            rest += data[begin:]
            self._missing_until = (start if start > length else end) - begin
        return frames

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._server.watch_other(self._socket, None)
            self._forget_unsent()

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self._unsent_bytes = 0


def polling_server(name: str) -> tuple[Server, Callable[[], None]]:
    """A server for links where no engine has one, which a thread `name` polls; and what ends that."""
    server = Server({}, Limits())
    server.open()
    is_stopped = threading.Event()

    def poll() -> None:
        server.polling_thread = threading.get_ident()
        while not is_stopped.is_set():
            try:
                with server.lock:
                    timeout_s = server.prepare(wait=True)
                server.poll(timeout_s)
            except Exception:  # Nobody would read what workers answer.
                log.exception("polling the workers failed")
        server.close()

    threading.Thread(target=poll, name=name, daemon=True).start()

    def stop() -> None:
        is_stopped.set()
        server.wake()

    return server, stop


_HEAD_BYTES = HEAD.size
#: Up to here, one copy of it costs less than to send it in parts.
_COPIED_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
#: The system takes a limited number at once.
_MOST_PARTS = 64
_INT = struct.Struct("i")
